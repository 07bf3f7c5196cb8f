//! What an operator's monitoring asks for exists: alert rules and dashboard name metrics that the programs
//! serve, and the guide names every alert.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use cleanroom_tests::ceremony::{Ceremony, Terms};
use cleanroom_tests::clean_room::repository;
use cleanroom_tests::fleet::Fleet;
use cleanroom_tests::processes::Running;
use cleanroom_tests::wait;

/// The whole answer to a request, whose body is an empty JSON object.
fn ask(mut connection: impl Read + Write, method: &str, path: &str) -> String {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// The metrics of a page of `/metrics`, by the names under which their samples are found.
fn served(connection: impl Read + Write) -> BTreeSet<String> {
    let page = ask(connection, "GET", "/metrics");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| match kind {
            // OpenMetrics names a counter without the ending of its samples.
            "counter" if !name.ends_with("_total") => format!("{name}_total"),
            _ => name.to_owned(),
        })
        .collect()
}

fn at(url: &str) -> TcpStream {
    TcpStream::connect(url.trim_start_matches("http://")).unwrap()
}

/// The words of a text that begin as the project's metrics do.
fn named(text: &str) -> BTreeSet<String> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .filter(|word| word.starts_with("cleanroom_"))
        .map(str::to_owned)
        .collect()
}

fn file(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// All metrics of a host with an enclave whose release demands a witness, a lease service, a broker, a witness, and a
/// partner's proxy.
fn all_served() -> BTreeSet<String> {
    let mut ceremony = Ceremony::new(Terms { sealed: Some(2), ..Terms::default() });
    ceremony.run(&format!(
        "release draft --root roots --from release.json --witness bank-witness={} --out next.draft.json",
        ceremony.promised_url(0)
    ));
    ceremony.sign_next(["bank", "utility"]);
    ceremony.serve(0);
    let mut host = ceremony.starting_host_with(true, &["--metrics", "unix:metrics.sock"]);
    ceremony.serve_broker(0);
    ceremony.serve_broker(1);
    host.wait_for("ready: partners connect to ");

    ceremony.run("key new witness.pem");
    let arguments = [
        ["witness", "serve"],
        ["--key", "witness.pem"],
        ["--name", "witness.example"],
        ["--policy", "brokers.toml"],
        ["--state", "witness"],
        ["--listen", "127.0.0.1:0"],
    ];
    let mut witness = Running::start("cleanroom-authority", ceremony.folder(), arguments.as_flattened());
    let witness_url = witness.wait_for("listening on ");

    // The enclave says what its release demands once it has been handed the release.
    let mut all = wait::found_blocking("the host has heard that a witness is demanded", || {
        let all = served(UnixStream::connect(ceremony.path("metrics.sock")).unwrap());
        Some(all).filter(|all| all.contains("cleanroom_witnessed_left_seconds"))
    });
    // A service shows answers by their result, so it shows none before the first.
    for (url, path) in [
        (ceremony.urls()[0], "/v1/lease"),
        (&ceremony.promised_url(0), "/v1/share"),
        (&witness_url, "/add-checkpoint"),
    ] {
        let refused = ask(at(url), "POST", path);
        assert!(refused.starts_with("HTTP/1.1 4"), "{refused}");
        all.extend(served(at(url)));
    }
    all.extend(served_by_a_proxy());
    all
}

/// All metrics of a proxy, which has passed on an answer that broke off.
fn served_by_a_proxy() -> BTreeSet<String> {
    // A piece of the answer comes each second, so it has not ended when its enclave does.
    let fleet = Fleet::start(1, "[traffic]\nstep = 512\ncadence = \"1s\"\n", &[]);
    let (mut proxy, address) =
        fleet.connect(&[&fleet.addresses[0].to_string()], &["--metrics", "unix:proxy.sock", "--wait", "60s"]);
    let report = || UnixStream::connect(fleet.path().join("proxy.sock")).unwrap();
    let ready = ask(report(), "GET", "/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with("ready\n"), "{ready}");
    let mut stream = TcpStream::connect(address).unwrap();
    let body =
        r#"{"model":"demo","stream":true,"max_tokens":50,"messages":[{"role":"user","content":"Hello"}]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 600]).unwrap();
    fleet.kill_enclave(0);
    // It ends with an error event, and the connection is reset.
    let _ = stream.read_to_end(&mut Vec::new());
    let served = served(report());
    assert!(proxy.stop().success());
    served
}

#[test]
fn alerts_and_dashboard_name_metrics_that_are_served() {
    let served = all_served();
    for path in ["deploy/monitoring/alerts.yaml", "deploy/monitoring/dashboard.json"] {
        let named = named(&file(path));
        assert!(!named.is_empty(), "{path}");
        let unknown: Vec<_> = named.difference(&served).collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}; served are {served:?}");
    }
}

#[test]
fn the_guide_says_what_to_do_about_every_alert() {
    let guide = file("docs/operate.md");
    let rules = file("deploy/monitoring/alerts.yaml");
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let missing: Vec<_> = alerts.iter().filter(|alert| !guide.contains(&format!("`{alert}`"))).collect();
    assert!(missing.is_empty(), "docs/operate.md says nothing about {missing:?}");
}
