//! Several hosts with simulated enclaves, as processes, under one policy of one partner.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_partner::address::Address;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::UnixStream;

use crate::clean_room::repository;
use crate::client::{json, send_on};
use crate::log::receipts_in;
use crate::processes::{Running, file, only_child_of, succeed};
use crate::wait;

const INSTANCE: &str = "i-0c1ea2200cc1ea220";

/// What a host prints before the address at which it is ready.
const READY: &str = "ready: partners connect to ";

/// Hosts with enclaves of one program and one configuration, a partner's key, and the policy `trust.toml` that
/// takes all of them.
pub struct Fleet {
    folder: tempfile::TempDir,
    /// The hosts. One that was taken out has ended.
    pub hosts: Vec<Option<Running>>,
    /// Where the hosts listen.
    pub addresses: Vec<Address>,
    /// Hosts that have started, take the places of others when those restart, and are taken from the back.
    standby: Vec<(String, Running)>,
}

impl Fleet {
    /// Starts `count` hosts on TCP ports. `config` follows the first lines of the enclaves' configuration, and
    /// `further` the arguments of each host.
    #[must_use]
    pub fn start(count: usize, config: &str, further: &[&str]) -> Self {
        let names: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        let (folder, mut hosts) = started(&names, config, further, false);
        let addresses = hosts.iter_mut().map(|host| Address::Tcp(host.wait_for(READY))).collect();
        trust(folder.path(), &names);
        Self { folder, hosts: hosts.into_iter().map(Some).collect(), addresses, standby: Vec::new() }
    }

    /// Starts `count` hosts on Unix sockets, which keep their enclaves' logs, and `standby` further ones for
    /// [`Self::restart`].
    ///
    /// The further ones start at once because the policy must name their roots: a simulated host makes a new one at
    /// each start.
    #[must_use]
    pub fn start_restartable(count: usize, standby: usize, config: &str, further: &[&str]) -> Self {
        let names: Vec<String> = (0..count + standby).map(|number| number.to_string()).collect();
        let (folder, mut hosts) = started(&names, config, further, true);
        for host in &mut hosts {
            host.wait_for(READY);
        }
        trust(folder.path(), &names);
        let socket = |name: &String| Address::Unix(folder.path().join(format!("room{name}.sock")));
        let addresses = names.iter().take(count).map(socket).collect();
        let standby = hosts.split_off(count);
        let standby = names.into_iter().skip(count).zip(standby).collect();
        Self { folder, hosts: hosts.into_iter().map(Some).collect(), addresses, standby }
    }

    /// Asks a host of [`Self::start_restartable`] to stop in order, and waits until it has. Then a further host,
    /// with an enclave of its own, is at its address.
    pub fn restart(&mut self, number: usize) {
        let mut old = self.hosts[number].take().unwrap();
        assert!(old.stop().success(), "host {number} did not stop in order");
        let (name, new) = self.standby.pop().unwrap();
        // A socket keeps its listener when its file is renamed.
        for file in ["room", "report"] {
            let from = self.path().join(format!("{file}{name}.sock"));
            std::fs::rename(from, self.path().join(format!("{file}{number}.sock"))).unwrap();
        }
        self.hosts[number] = Some(new);
    }

    /// The receipts that the logs of all enclaves name.
    #[must_use]
    pub fn logged_receipts(&self) -> Vec<Sha256Digest> {
        let logs = std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs = logs.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("log"));
        logs.flat_map(|log| receipts_in(&log)).collect()
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

    /// The processes of a host: its own, its enclave's keeper and its enclave's worker.
    #[must_use]
    pub fn processes(&self, number: usize) -> [u32; 3] {
        let host = self.hosts[number].as_ref().unwrap();
        let keeper = host.only_child();
        [host.id(), keeper, only_child_of(keeper).unwrap()]
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

    /// Waits until each host that is there has a connection that stays, as a balancer's look at the host does not.
    pub async fn are_connected(&self) {
        let there = self.hosts.iter().enumerate().filter_map(|(number, host)| host.as_ref().map(|_| number));
        for number in there {
            self.has_connections(number, 1).await;
        }
    }

    /// Waits until a host has so many connections that stay.
    pub async fn has_connections(&self, number: usize, count: u64) {
        let mut looks = 0;
        wait::found("the host's connections stay", async || {
            looks = if self.connections(number).await >= count { looks + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(15)).await;
            (looks == 5).then_some(())
        })
        .await;
    }

    /// Stops the worker of a host's enclave for ever. The enclave's socket and its keeper are still there.
    pub fn stop_worker(&self, number: usize) {
        let [_, _, worker] = self.processes(number);
        kill(worker, Signal::STOP);
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

/// Starts a host for each name. With `sockets`, each listens on a Unix
/// socket and keeps its enclave's log.
fn started(
    names: &[String],
    config: &str,
    further: &[&str],
    sockets: bool,
) -> (tempfile::TempDir, Vec<Running>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let _ = succeed("cleanroom", path, &["key", "new", "--key", "partner.key"]);
    let config = format!("version = 1\nmodel = \"demo\"\npartners = \"any\"\n{config}");
    std::fs::write(path.join("enclave.toml"), config).unwrap();
    std::fs::copy(file("cleanroom-enclave-simulated"), path.join("enclave")).unwrap();
    let model = repository().join("models/demo.gguf");
    let model = model.to_str().unwrap();
    let start = |name: &String| {
        let (state, report) = (format!("state{name}"), format!("unix:report{name}.sock"));
        let (socket, log) = (format!("unix:room{name}.sock"), format!("log{name}"));
        let mut arguments: Vec<&str> =
            "run --tier simulated --enclave enclave --config enclave.toml".split(' ').collect();
        arguments.extend(["--model", model, "--instance-id", INSTANCE, "--state", &state]);
        arguments.extend(["--metrics", &report]);
        if sockets {
            arguments.extend(["--listen", &socket, "--log", &log]);
        } else {
            arguments.extend(["--listen", "127.0.0.1:0"]);
        }
        arguments.extend(further);
        Running::start("cleanroom-host", path, &arguments)
    };
    let hosts = names.iter().map(start).collect();
    (folder, hosts)
}

/// Writes the policy: everything of the first host, and the roots of the others.
fn trust(path: &Path, names: &[String]) {
    let model = format!("demo={}", repository().join("models/demo.gguf").display());
    let mut policy = String::new();
    for name in names {
        let root = format!("state{name}/development-root.pem");
        let mut trust = vec!["trust", "--development-root", &root, "--program", "enclave"];
        trust.extend(["--config", "enclave.toml", "--instance-id", INSTANCE, "--model", &model]);
        let trust = succeed("cleanroom-authority", path, &trust);
        if policy.is_empty() {
            policy = trust;
            continue;
        }
        let root = trust.lines().skip_while(|line| !line.starts_with("[[trust_anchor]]"));
        let root = root.skip(1).find(|line| line.starts_with("sha256 = ")).unwrap();
        policy += &format!("\n[[trust_anchor]]\nname = \"{name}\"\ntier = \"development\"\n{root}\n");
    }
    std::fs::write(path.join("trust.toml"), policy).unwrap();
}

/// Sends a signal.
fn kill(process: u32, signal: Signal) {
    kill_process(Pid::from_raw(process.cast_signed()).unwrap(), signal).unwrap();
}
