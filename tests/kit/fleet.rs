//! Several hosts with simulated enclaves, as processes, under one policy of one partner.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::UnixStream;

use crate::clean_room::repository;
use crate::client::{json, send_on};
use crate::processes::{Running, file, only_child_of, succeed};

const INSTANCE: &str = "i-0c1ea2200cc1ea220";

/// Hosts with enclaves of one program and one configuration, a partner's key, and the policy `trust.toml` that
/// takes all of them.
pub struct Fleet {
    folder: tempfile::TempDir,
    /// The hosts. One that was taken out has ended.
    pub hosts: Vec<Option<Running>>,
    /// Where the hosts listen.
    pub addresses: Vec<SocketAddr>,
}

impl Fleet {
    /// Starts `count` hosts. `config` follows the first lines of the enclaves' configuration, and `further` the
    /// arguments of each host.
    #[must_use]
    pub fn start(count: usize, config: &str, further: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let _ = succeed("cleanroom", path, &["key", "new", "--key", "partner.key"]);
        let config = format!("version = 1\nmodel = \"demo\"\npartners = \"any\"\n{config}");
        std::fs::write(path.join("enclave.toml"), config).unwrap();
        std::fs::copy(file("cleanroom-enclave-simulated"), path.join("enclave")).unwrap();
        let model = repository().join("models/demo.gguf");
        let model = model.to_str().unwrap();
        let mut hosts: Vec<Running> = (0..count)
            .map(|number| {
                let state = format!("state{number}");
                let mut arguments: Vec<&str> =
                    "run --tier simulated --enclave enclave --config enclave.toml --listen 127.0.0.1:0"
                        .split(' ')
                        .collect();
                arguments.extend(["--model", model, "--instance-id", INSTANCE, "--state", &state]);
                let report = format!("unix:report{number}.sock");
                arguments.extend(["--metrics", &report]);
                arguments.extend(further);
                Running::start("cleanroom-host", path, &arguments)
            })
            .collect();
        let addresses = hosts.iter_mut().map(|host| host.wait_for("ready: partners connect to "));
        let addresses: Vec<SocketAddr> = addresses.map(|address| address.parse().unwrap()).collect();
        let fleet = Self { folder, hosts: hosts.into_iter().map(Some).collect(), addresses };
        fleet.trust(model);
        fleet
    }

    /// Writes the policy: everything of the first host, and the roots of the others.
    fn trust(&self, model: &str) {
        let model = format!("demo={model}");
        let mut policy = String::new();
        for number in 0..self.hosts.len() {
            let root = format!("state{number}/development-root.pem");
            let mut trust = vec!["trust", "--development-root", &root, "--program", "enclave"];
            trust.extend(["--config", "enclave.toml", "--instance-id", INSTANCE, "--model", &model]);
            let trust = succeed("cleanroom-authority", self.path(), &trust);
            if number == 0 {
                policy = trust;
                continue;
            }
            let root = trust.lines().skip_while(|line| !line.starts_with("[[trust_anchor]]"));
            let root = root.skip(1).find(|line| line.starts_with("sha256 = ")).unwrap();
            policy += &format!("\n[[trust_anchor]]\nname = \"{number}\"\ntier = \"development\"\n{root}\n");
        }
        std::fs::write(self.path().join("trust.toml"), policy).unwrap();
    }

    /// The folder of all files.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the partner's proxy to `addresses`; gives it and where clients connect.
    #[must_use]
    pub fn connect(&self, addresses: &[&str], further: &[&str]) -> (Running, SocketAddr) {
        let mut arguments = vec!["connect"];
        arguments.extend(addresses);
        arguments.extend(["--key", "partner.key", "--listen", "127.0.0.1:0", "--json"]);
        arguments.extend(further);
        let mut proxy = Running::start("cleanroom", self.path(), &arguments);
        let listen = proxy.wait_for("\"listen\": \"");
        let listen = listen.split('"').next().unwrap().parse().unwrap();
        (proxy, listen)
    }

    /// What a host reports.
    pub async fn report(&self, number: usize) -> Value {
        let report = self.path().join(format!("report{number}.sock"));
        let report = UnixStream::connect(report).await.unwrap();
        json(send_on(report, "host", "GET", "/status", "").await).await.1
    }

    /// How many connections a host has.
    pub async fn connections(&self, number: usize) -> u64 {
        self.report(number).await["relay"]["active"].as_u64().unwrap()
    }

    /// Waits until each host has a connection that stays, as a balancer's look at the host does not.
    pub async fn are_connected(&self) {
        for number in 0..self.hosts.len() {
            let mut looks = 0;
            while looks < 5 {
                looks = if self.connections(number).await > 0 { looks + 1 } else { 0 };
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Stops the worker of a host's enclave for ever. The enclave's socket and its keeper are still there.
    pub fn stop_worker(&self, number: usize) {
        let enclave = self.hosts[number].as_ref().unwrap().only_child();
        kill(only_child_of(enclave).unwrap(), Signal::STOP);
    }

    /// Ends the enclave of a host at once. The host starts another one.
    pub fn kill_enclave(&self, number: usize) {
        let enclave = self.hosts[number].as_ref().unwrap().only_child();
        kill(enclave, Signal::KILL);
    }

    /// Ends a host and its enclave at once.
    pub fn kill_host(&mut self, number: usize) {
        let host = self.hosts[number].take().unwrap();
        let enclave = host.only_child();
        kill(host.id(), Signal::KILL);
        kill(enclave, Signal::KILL);
    }
}

/// Sends a signal.
fn kill(process: u32, signal: Signal) {
    kill_process(Pid::from_raw(process.cast_signed()).unwrap(), signal).unwrap();
}
