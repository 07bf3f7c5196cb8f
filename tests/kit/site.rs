//! A host with a simulated enclave, a partner's key and a policy, all in one folder: the project's programs, started as on one
//! machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::clean_room::repository;
use crate::processes::{Running, file, program, succeed};

/// The instance id that the security module names.
const INSTANCE: &str = "i-0c1ea2200cc1ea220";

/// A folder in which a host will run, and a partner's key in it.
pub struct Prepared(tempfile::TempDir);

/// The running host, and where partners connect. The folder has `trust.toml`, a policy that accepts it.
pub struct Site {
    /// The host. It ends before its folder goes.
    pub host: Running,
    /// Where partners connect.
    pub address: String,
    folder: tempfile::TempDir,
}

impl Prepared {
    /// A folder with `partner.key`.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes files")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let _ = succeed("cleanroom", folder.path(), &["key", "new", "--key", "partner.key"]);
        Self(folder)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The key's SHA-256 in hexadecimal.
    #[must_use]
    pub fn key_sha256(&self) -> String {
        let shown = succeed("cleanroom", self.path(), &["key", "show", "--key", "partner.key", "--json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown["key_sha256"].as_str().unwrap().to_owned()
    }

    /// Starts a host of the demo model with this configuration and further arguments, and waits until it serves. Its
    /// standard error goes to `log`.
    #[must_use]
    pub fn serve(self, config: &str, further: &[String], log: Stdio) -> Site {
        let Self(folder) = self;
        let path = folder.path();
        std::fs::write(path.join("enclave.toml"), config).unwrap();
        std::fs::copy(file("cleanroom-enclave-simulated"), path.join("enclave")).unwrap();
        let model = repository().join("models/demo.gguf");
        let model = model.to_str().unwrap();
        let host = program("cleanroom-host", path)
            .args(["run", "--tier", "simulated", "--enclave", "enclave", "--config", "enclave.toml"])
            .args(["--model", model, "--instance-id", INSTANCE, "--listen", "127.0.0.1:0"])
            .args(["--state", "state", "--log", "log"])
            .args(further)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut host = Running::of(host);
        let address = host.wait_for("ready: partners connect to ");
        let model = format!("demo={model}");
        let root = "state/development-root.pem";
        let mut trust = vec!["trust", "--development-root", root, "--program", "enclave"];
        trust.extend(["--config", "enclave.toml", "--instance-id", INSTANCE, "--model", &model]);
        std::fs::write(path.join("trust.toml"), succeed("cleanroom-authority", path, &trust)).unwrap();
        Site { host, address, folder }
    }
}

impl Site {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A partner's proxy, and its address.
    #[must_use]
    pub fn proxy(&self) -> (Running, SocketAddr) {
        let connect = ["connect", &self.address, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"];
        let mut proxy = Running::start("cleanroom", self.path(), &connect);
        let base_url = proxy.wait_for("\"base_url\": \"http://");
        let address = base_url.split('/').next().unwrap().parse().unwrap();
        (proxy, address)
    }

    /// What the enclave said.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.path().join("state/console.log")
    }
}
