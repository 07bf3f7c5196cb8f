//! Three authorities as the programs of this project: key files, signing ceremonies, lease services, and a host that is led by them.

use std::path::{Path, PathBuf};

use cleanroom_attestation::policy::Policy;
use cleanroom_channel::identity::Identity;

use crate::clean_room::repository;
use crate::processes::{Running, file, succeed};
use crate::wait;

/// The authorities, and their folders.
pub const NAMES: [&str; 3] = ["bank", "utility", "regulator"];

const INSTANCE: &str = "i-0c1ea2200cc1ea220";

/// How a room is released.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Seconds of a lease.
    pub lease_seconds: u32,
    /// Authorities that it takes for a lease.
    pub lease_issuers: u32,
    /// The model's file.
    pub model: PathBuf,
    /// Whether the host gets the model sealed, and how many of the authorities' brokers it takes to open it.
    pub sealed: Option<u32>,
    /// The lines of `[limits]` in the enclave's configuration.
    pub limits: &'static str,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            lease_seconds: 10,
            lease_issuers: 1,
            model: repository().join("models/demo.gguf"),
            sealed: None,
            limits: "sequences = 2",
        }
    }
}

/// A clean room under three authorities, with release 1 signed.
pub struct Ceremony {
    folder: tempfile::TempDir,
    terms: Terms,
    identity: Identity,
    services: [Option<(Running, String)>; 3],
    brokers: [Option<Running>; 3],
    /// Where the brokers or witnesses will listen: the host is told before they can start.
    ports: [u16; 3],
}

impl Ceremony {
    /// Makes keys, a root and a release in a new folder.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::generate().unwrap();
        let ceremony = Self {
            folder,
            terms,
            identity,
            services: [None, None, None],
            brokers: [None, None, None],
            ports: free_ports(),
        };
        std::fs::create_dir(ceremony.path("roots")).unwrap();
        for name in NAMES {
            ceremony.keys_of(name);
            ceremony.run(&format!("key new {name}-witness.pem"));
            std::fs::create_dir(ceremony.path(&format!("{name}-denials"))).unwrap();
        }
        let parties = NAMES.map(|name| {
            format!(
                "--authority {name}={name}.pem.pub,{name}-online.pem.pub --witness {name}={name}-witness.pem.pub"
            )
        });
        let parties = parties.join(" ");
        ceremony
            .run(&format!("root new --room r --expires 2090-01-01T00:00:00Z --lease-threshold 1 {parties}"));
        ceremony.run("root sign root.draft.json --key bank.pem --out roots/1.json");
        ceremony.run("root sign roots/1.json --key utility.pem");

        let root = std::fs::read_to_string(ceremony.path("roots/1.json")).unwrap();
        let config = format!(
            "version = 1\nmodel = \"demo\"\npartners = \"any\"\nsealed = {}\n[limits]\n{}\n[release]\nroot = '''{root}'''\n",
            ceremony.terms.sealed.is_some(),
            ceremony.terms.limits
        );
        std::fs::write(ceremony.path("enclave.toml"), config).unwrap();
        std::fs::copy(file("cleanroom-enclave-simulated"), ceremony.path("enclave")).unwrap();
        let weights = ceremony.seal();
        let Terms { lease_seconds, lease_issuers, model, sealed: _, limits: _ } = &ceremony.terms;
        let model = if model.is_dir() { ceremony.model_sha256() } else { model.display().to_string() };
        ceremony.run(&format!(
            "release draft --root roots --expires 2089-01-01T00:00:00Z --image simulated=program:enclave,config:enclave.toml \
             --deployment here=instance:{INSTANCE} --model demo={model} {weights} --partner p={} --grant p=demo --limits p=100000,100000000,16 \
             --lease-seconds {lease_seconds} --lease-issuers {lease_issuers} --out next.draft.json",
            ceremony.identity.key_digest()
        ));
        ceremony.sign_next(["bank", "utility"]);
        ceremony
    }

    /// Seals the model for the authorities' brokers, if the terms say so. Gives what the release says about it.
    fn seal(&self) -> String {
        let Some(needed) = self.terms.sealed else { return String::new() };
        let model = self.terms.model.display();
        let digest = self.model_sha256();
        let brokers = NAMES.map(|name| format!("--broker {name}")).join(" ");
        self.run(&format!(
            "broker secret new --model-sha256 {digest} --needed {needed} {brokers} --out keys"
        ));
        self.run(&format!("seal {model} --key keys/data.key --out model.sealed"));
        "--weights demo=keys/weights.json".to_owned()
    }

    /// The model's identity.
    fn model_sha256(&self) -> String {
        let shown = self.run(&format!("--json identify {}", self.terms.model.display()));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown["model_sha256"].as_str().unwrap().to_owned()
    }

    /// Starts the broker of an authority, which believes the security module of the host that runs.
    pub fn serve_broker(&mut self, index: usize) {
        let name = NAMES[index];
        let root = self.path("host/development-root.pem");
        wait::until_blocking("the host has made its development root", || root.exists());
        let trust = self.run(
            "trust --development-root host/development-root.pem --release-root roots/1.json --use-model demo",
        );
        std::fs::write(self.path("brokers.toml"), trust).unwrap();
        let shown: serde_json::Value =
            serde_json::from_str(&self.run("--json release show release.json")).unwrap();
        let (image, model) =
            (&shown["release"]["images"][0]["pcr0"], &shown["release"]["models"][0]["sha256"]);
        let allowed =
            format!("version = 1\nimages = [{image}]\n[[model]]\nid = \"demo\"\nsha256 = {model}\n");
        std::fs::write(self.path("allow.toml"), allowed).unwrap();
        let (denials, share, log, listen) = (
            format!("{name}-denials"),
            format!("keys/{name}.share"),
            format!("{name}.log"),
            format!("127.0.0.1:{}", self.ports[index]),
        );
        let arguments = [
            ["broker", "serve"],
            ["--listen", &listen],
            ["--root", "roots"],
            ["--release", "release.json"],
            ["--denials", &denials],
            ["--policy", "brokers.toml"],
            ["--allow", "allow.toml"],
            ["--share", &share],
            ["--log", &log],
        ];
        let mut broker = Running::start("cleanroom-authority", self.folder.path(), arguments.as_flattened());
        broker.wait_for("listening on ");
        self.brokers[index] = Some(broker);
    }

    /// Where the broker or the witness of an authority is, or will be.
    #[must_use]
    pub fn promised_url(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[index])
    }

    /// Waits until the log of an authority's broker has an entry, and gives its last one.
    #[must_use]
    pub fn broker_log(&self, index: usize) -> serde_json::Value {
        wait::found_blocking("an enclave has asked the broker", || {
            let log = std::fs::read_to_string(self.path(&format!("{}.log", NAMES[index]))).unwrap();
            log.lines().last().map(|entry| serde_json::from_str(entry).unwrap())
        })
    }

    /// A file of the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The partner that is released.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Makes an authority's two keys.
    pub fn keys_of(&self, name: &str) {
        self.run(&format!("key new {name}.pem"));
        self.run(&format!("key new {name}-online.pem"));
    }

    /// Runs `cleanroom-authority` with the arguments of `line`, split at spaces, and expects success.
    pub fn run(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        succeed("cleanroom-authority", self.folder.path(), &arguments)
    }

    /// Signs `next.draft.json` by two, and puts it in force at every service.
    pub fn sign_next(&self, signers: [&str; 2]) {
        let [first, second] = signers;
        self.run(&format!("release sign next.draft.json --root roots --key {first}.pem --out next.json"));
        self.run(&format!("release sign next.json --root roots --key {second}.pem"));
        std::fs::remove_file(self.path("next.draft.json")).unwrap();
        std::fs::rename(self.path("next.json"), self.path("release.json")).unwrap();
    }

    /// Starts the lease service of an authority.
    pub fn serve(&mut self, index: usize) {
        let name = NAMES[index];
        let (denials, key) = (format!("{name}-denials"), format!("{name}-online.pem"));
        let arguments = [
            ["lease", "serve"],
            ["--listen", "127.0.0.1:0"],
            ["--root", "roots"],
            ["--release", "release.json"],
            ["--denials", &denials],
            ["--key", &key],
        ];
        let mut service = Running::start("cleanroom-authority", self.folder.path(), arguments.as_flattened());
        let url = service.wait_for("listening on ");
        self.services[index] = Some((service, url));
    }

    /// Starts the witness of an authority, which believes the security module of the host that runs.
    #[must_use]
    pub fn witness(&self, index: usize) -> Running {
        let name = NAMES[index];
        let trust = self.run(
            "trust --development-root host/development-root.pem --release-root roots/1.json --use-model demo",
        );
        std::fs::write(self.path("witnesses.toml"), trust).unwrap();
        let (key, called, state, listen) = (
            format!("{name}-witness.pem"),
            format!("{name}-witness"),
            format!("{name}-witnessed"),
            format!("127.0.0.1:{}", self.ports[index]),
        );
        let arguments = [
            ["witness", "serve"],
            ["--listen", &listen],
            ["--key", &key],
            ["--name", &called],
            ["--policy", "witnesses.toml"],
            ["--root", "roots"],
            ["--release", "release.json"],
            ["--state", &state],
        ];
        let mut witness = Running::start("cleanroom-authority", self.folder.path(), arguments.as_flattened());
        witness.wait_for("listening on ");
        witness
    }

    /// Ends the lease service of an authority.
    pub fn end(&mut self, index: usize) {
        self.services[index] = None;
    }

    /// Where the services that run are.
    #[must_use]
    pub fn urls(&self) -> Vec<&str> {
        self.services.iter().flatten().map(|(_, url)| url.as_str()).collect()
    }

    /// Starts the host; `led` by the services that run, or by whoever speaks to `host/control.sock`. Gives the partners' address.
    #[must_use]
    pub fn host(&self, led: bool) -> (Running, String) {
        let mut host = self.starting_host(led);
        let address = host.wait_for("ready: partners connect to ");
        (host, address)
    }

    /// As [`Self::host`], and does not wait until the enclave serves.
    #[must_use]
    pub fn starting_host(&self, led: bool) -> Running {
        self.starting_host_with(led, &[])
    }

    /// As [`Self::starting_host`], with further options of the host.
    #[must_use]
    pub fn starting_host_with(&self, led: bool, further: &[&str]) -> Running {
        let model =
            if self.terms.sealed.is_some() { "model.sealed" } else { self.terms.model.to_str().unwrap() };
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
            "host",
        ]);
        if led {
            arguments.extend(self.urls().into_iter().flat_map(|url| ["--authority", url]));
        }
        let brokers = NAMES.iter().zip(self.ports);
        let brokers = brokers.map(|(name, port)| format!("--broker={name}=http://127.0.0.1:{port}"));
        let brokers: Vec<String> = brokers.filter(|_| led && self.terms.sealed.is_some()).collect();
        arguments.extend(brokers.iter().map(String::as_str));
        arguments.extend(further);
        Running::start("cleanroom-host", self.folder.path(), &arguments)
    }

    /// What the partner trusts: the root in `root`, and no more.
    #[must_use]
    pub fn policy(&self, root: &str) -> Policy {
        let line = format!(
            "trust --development-root host/development-root.pem --release-root {root} --use-model demo"
        );
        Policy::from_toml(&self.run(&line)).unwrap()
    }

    /// One authority halts the model and tells the services at `to`.
    pub fn halt(&self, by: &str, to: &[&str]) {
        let to: Vec<String> = to.iter().map(|url| format!("--to {url}")).collect();
        let to = to.join(" ");
        self.run(&format!(
            "halt model:demo --root roots --key {by}.pem --reason test --out {by}-denials {to}"
        ));
    }

    /// A quorum lifts every halt that an authority's service knows.
    pub fn resume(&self, by: &str) {
        self.run(&format!(
            "resume model:demo --root roots --release release.json --denials {by}-denials --out next.draft.json"
        ));
        self.sign_next(["bank", "utility"]);
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Ports that nobody listens on now.
fn free_ports() -> [u16; 3] {
    let listeners = NAMES.map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
