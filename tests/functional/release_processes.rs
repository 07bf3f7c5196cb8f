//! Release control with the programs as processes: three lease services, a host that is led by them, and a partner.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::{Reach, Sessions};
use cleanroom_tests::ceremony::{Ceremony, Terms};
use cleanroom_tests::client::{json, question};
use cleanroom_tests::platform::model_id;
use cleanroom_tests::wait;
use http::StatusCode;
use http_body_util::Full;

/// Longer than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// The code with which a request on a session of its own is refused; `served` if it is not.
///
/// A session that ends in the moment between its proof and the request sends nothing. A new one takes its place,
/// as it does in the proxy.
async fn asked(ceremony: &Ceremony, address: &str, root: &str) -> String {
    let begun = Instant::now();
    loop {
        let policy = ceremony.policy(root);
        let party = RelyingParty::new(ceremony.identity(), policy, model_id()).unwrap();
        let sessions = Sessions::new(party, address.parse().unwrap());
        let session = match sessions.get().await {
            Ok(session) => session,
            Err(error) => return error.code().trim_start_matches("unproven/").to_owned(),
        };
        let request = http::Request::post("https://cleanroom/v1/chat/completions")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(question("Hi", false))))
            .unwrap();
        match session.send(request).await {
            Ok(response) => {
                let (status, body) = json(response).await;
                return if status == StatusCode::OK {
                    "served".to_owned()
                } else {
                    body["error"]["code"].to_string()
                };
            }
            Err(error) if error.reach == Reach::NeverSent && begun.elapsed() < PATIENCE => {}
            Err(error) => return error.code().to_owned(),
        }
    }
}

/// Asks until the answer is `expected`.
async fn until(expected: &str, ceremony: &Ceremony, address: &str, root: &str) {
    let begun = Instant::now();
    loop {
        let answer = asked(ceremony, address, root).await;
        if answer == expected {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "expected {expected}, still {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_issuers_keep_a_room_alive_and_one_does_not() {
    let lease = Duration::from_secs(4);
    let mut ceremony = Ceremony::new(Terms { lease_seconds: 4, lease_issuers: 2, ..Terms::default() });
    (0..3).for_each(|index| ceremony.serve(index));
    let (_host, address) = ceremony.host(true);
    until("served", &ceremony, &address, "roots/1.json").await;

    ceremony.end(2);
    let begun = Instant::now();
    while begun.elapsed() < 2 * lease {
        assert_eq!(asked(&ceremony, &address, "roots/1.json").await, "served");
    }
    ceremony.end(0);
    until("lease-lapsed", &ceremony, &address, "roots/1.json").await;
    ceremony.run(&format!("status --service {}", ceremony.urls()[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_rotated_reaches_the_enclave_and_the_old_one_serves_no_partner() {
    let mut ceremony = Ceremony::new(Terms { lease_seconds: 4, ..Terms::default() });
    (0..2).for_each(|index| ceremony.serve(index));
    let (_host, address) = ceremony.host(true);
    until("served", &ceremony, &address, "roots/1.json").await;

    ceremony.keys_of("successor");
    ceremony.run(
        "root rotate --from roots/1.json --authority regulator=successor.pem.pub,successor-online.pem.pub --out 2.draft.json",
    );
    ceremony.run("root sign 2.draft.json --previous roots/1.json --key bank.pem --out 2.json");
    ceremony.run("root sign 2.json --previous roots/1.json --key utility.pem");
    std::fs::rename(ceremony.path("2.json"), ceremony.path("roots/2.json")).unwrap();

    until("served", &ceremony, &address, "roots/2.json").await;
    assert_eq!(asked(&ceremony, &address, "roots/1.json").await, "lease-root");
    // Who left can halt nothing any more, and who came can.
    let left = "halt model:demo --root roots --key regulator.pem --reason test --out regulator-denials";
    let refused = cleanroom_tests::processes::output(
        "cleanroom-authority",
        ceremony.folder(),
        &left.split(' ').collect::<Vec<_>>(),
    );
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    std::fs::create_dir(ceremony.path("successor-denials")).unwrap();
    ceremony.halt("successor", &ceremony.urls());
    until("model-denied", &ceremony, &address, "roots/2.json").await;

    ceremony.resume("successor");
    until("served", &ceremony, &address, "roots/2.json").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_weights_open_with_two_brokers_of_three() {
    let mut ceremony = Ceremony::new(Terms { sealed: Some(2), ..Terms::default() });
    ceremony.serve(0);
    let mut host = ceremony.starting_host(true);
    // One gives its share, and that is not enough.
    ceremony.serve_broker(0);
    assert_eq!(ceremony.broker_log(0)["result"], "given");
    ceremony.serve_broker(2);
    let address = host.wait_for("ready: partners connect to ");
    assert_eq!(ceremony.broker_log(2)["result"], "given");
    until("served", &ceremony, &address, "roots/1.json").await;
    // What the host has is no model.
    let (model, sealed) = (
        std::fs::read(Terms::default().model).unwrap(),
        std::fs::read(ceremony.path("model.sealed")).unwrap(),
    );
    let piece = &model[model.len() / 2..][..64];
    assert!(memchr::memmem::find(&model, piece).is_some() && memchr::memmem::find(&sealed, piece).is_none());
}

/// Asks the host's report until its answer has `expected` in it.
async fn reports(ceremony: &Ceremony, path: &str, expected: &str) {
    let what = format!("{path} of the host has {expected:?}");
    wait::until(&what, || {
        let mut report = UnixStream::connect(ceremony.path("metrics.sock")).unwrap();
        write!(report, "GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        report.read_to_string(&mut answer).unwrap();
        answer.contains(expected)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_whose_release_demands_witnesses_serves_while_they_cosign() {
    let mut ceremony = Ceremony::new(Terms { lease_seconds: 60, ..Terms::default() });
    let urls = [ceremony.promised_url(0), ceremony.promised_url(1)];
    ceremony.run(&format!(
        "release draft --root roots --from release.json --witness bank-witness={} --witness utility-witness={} \
         --witness-within 10 --out next.draft.json",
        urls[0], urls[1]
    ));
    ceremony.sign_next(["bank", "utility"]);
    ceremony.serve(0);
    let metrics = ["--metrics", "unix:metrics.sock"];
    let further = [&["--log", "log", "--witness", &urls[0], "--witness", &urls[1]], &metrics[..]].concat();
    let mut host = ceremony.starting_host_with(true, &further);
    let address = host.wait_for("ready: partners connect to ");
    let root = "roots/1.json";
    until("unwitnessed", &ceremony, &address, root).await;
    reports(&ceremony, "/readyz", "not ready: unwitnessed: ").await;
    reports(&ceremony, "/metrics", "\ncleanroom_witnessed_left_seconds 0\n").await;
    // Two of two are needed, so one is not enough.
    let bank = ceremony.witness(0);
    assert_eq!(asked(&ceremony, &address, root).await, "unwitnessed");
    let utility = ceremony.witness(1);
    until("served", &ceremony, &address, root).await;
    reports(&ceremony, "/readyz", "HTTP/1.1 200 OK").await;
    drop(utility);
    until("unwitnessed", &ceremony, &address, root).await;
    reports(&ceremony, "/readyz", "HTTP/1.1 503 ").await;
    let _utility = ceremony.witness(1);
    until("served", &ceremony, &address, root).await;
    drop(bank);
}
