//! The programs together, as processes on one machine: host, enclave, authority, partner.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::Path;

use cleanroom_tests::house::repository;
use cleanroom_tests::official::{self, Package};
use cleanroom_tests::processes::{Running, file, output, succeed};
use rustix::process::{Pid, Signal, kill_process};

const INSTANCE: &str = "i-0c1ea2200cc1ea220";

/// A host with a simulated enclave, a partner's key and a policy, all in one folder.
struct Site {
    folder: tempfile::TempDir,
    host: Running,
    address: String,
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let _ = succeed("cleanroom", path, &["key", "new", "--key", "partner.key"]);
        let key: serde_json::Value = serde_json::from_str(&succeed(
            "cleanroom",
            path,
            &["key", "show", "--key", "partner.key", "--json"],
        ))
        .unwrap();
        let config = format!("version = 1\nmodel = \"demo\"\npartners = [{}]\n", key["key_sha256"]);
        let config = format!("{config}[limits]\nsequences = 4\nqueued = 8\n");
        std::fs::write(path.join("enclave.toml"), config).unwrap();
        std::fs::copy(file("cleanroom-enclave-simulated"), path.join("enclave")).unwrap();
        let model = repository().join("models/demo.gguf");
        let model = model.to_str().unwrap();
        let mut arguments =
            vec!["run", "--tier", "simulated", "--enclave", "enclave", "--config", "enclave.toml"];
        arguments.extend([
            "--model",
            model,
            "--instance-id",
            INSTANCE,
            "--listen",
            "127.0.0.1:0",
            "--state",
            "state",
        ]);
        let mut host = Running::start("cleanroom-host", path, &arguments);
        let address = host.wait_for("ready: partners connect to ");
        let model = format!("demo={model}");
        let policy = succeed(
            "cleanroom-authority",
            path,
            &[
                "trust",
                "--development-root",
                "state/development-root.pem",
                "--program",
                "enclave",
                "--config",
                "enclave.toml",
                "--instance-id",
                INSTANCE,
                "--model",
                &model,
            ],
        );
        std::fs::write(path.join("trust.toml"), policy).unwrap();
        Self { folder, host, address }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[test]
fn the_partner_proves_uses_and_after_a_swap_refuses() {
    let site = Site::start();
    let (path, address) = (site.path(), site.address.as_str());
    let verdict = output("cleanroom", path, &["verify", address, "--key", "partner.key", "--json"]);
    assert_eq!(verdict.status.code(), Some(0), "{}", String::from_utf8_lossy(&verdict.stdout));
    let verdict: serde_json::Value = serde_json::from_slice(&verdict.stdout).unwrap();
    assert_eq!((&verdict["accepted"], &verdict["verdict"]["outcome"]), (&true.into(), &"pass".into()));
    assert_eq!(verdict["verdict"]["tier"], "development");

    let answer = succeed(
        "cleanroom",
        path,
        &["chat", address, "--key", "partner.key", "--prompt", "What is attestation?"],
    );
    assert!(answer.starts_with("Attestation proves which image"), "{answer}");

    // The official client, unmodified, through the proxy that a partner would start.
    let connect = ["connect", address, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"];
    let mut proxy = Running::start("cleanroom", path, &connect);
    let base_url = proxy.wait_for("\"base_url\": \"");
    official::expect_passed(official::run(Package::OpenAi, base_url.trim_end_matches("\",")).unwrap());
    assert!(proxy.stop().success());

    // The host replaces the program by one that is a byte longer, and the enclave by a new one.
    let mut program = std::fs::read(path.join("enclave")).unwrap();
    program.push(0);
    std::fs::write(path.join("enclave.new"), program).unwrap();
    std::fs::rename(path.join("enclave.new"), path.join("enclave")).unwrap();
    let before = std::fs::read_to_string(path.join("state/measurements.json")).unwrap();
    let enclave = Pid::from_raw(site.host.only_child().cast_signed()).unwrap();
    kill_process(enclave, Signal::KILL).unwrap();
    let refused = loop {
        let refused =
            output("cleanroom", path, &["chat", address, "--key", "partner.key", "--prompt", "a secret"]);
        // Until the new enclave listens, the host can only close the connection; that is no verdict.
        if refused.status.code() != Some(4) {
            break refused;
        }
    };
    assert_ne!(std::fs::read_to_string(path.join("state/measurements.json")).unwrap(), before);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("pcr0-mismatch") && message.contains("Nothing was sent"), "{message}");
}

#[test]
fn a_release_build_of_the_enclave_has_no_software_security_module() {
    // The names of the simulated tier's contract are in its program and in no other.
    let contains = |program: &str, needle: &str| {
        std::fs::read(file(program)).unwrap().windows(needle.len()).any(|window| window == needle.as_bytes())
    };
    for needle in ["CLEANROOM_LISTEN", "software_nsm", "DevelopmentRoot"] {
        assert!(!contains("cleanroom-enclave", needle), "{needle}");
    }
    assert!(contains("cleanroom-enclave-simulated", "CLEANROOM_LISTEN"));
    assert!(contains("cleanroom-enclave", "/dev/nsm"));
    assert!(!contains("cleanroom-enclave-simulated", "DevelopmentRoot"), "the module itself is the host's");
}

#[test]
fn without_its_platform_an_enclave_halts_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    if !Path::new("/dev/nsm").exists() {
        let halted = output("cleanroom-enclave", folder.path(), &[]);
        assert_eq!(halted.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&halted.stderr).contains("/dev/nsm"));
    }
    let halted = output("cleanroom-enclave-simulated", folder.path(), &[]);
    assert_eq!(halted.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&halted.stderr).contains("CLEANROOM_LISTEN"));
}
