//! A clean room whose model is served by a program that exists already, in a room of its own: the whole attested path, and what
//! that program can reach.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model::model_digest;
use cleanroom_tests::clean_room::{model, repository};
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::official::{self, Package};
use cleanroom_tests::processes::{file, left_out, output};
use cleanroom_tests::site::{Prepared, Site};
use cleanroom_tests::wait;
use http::StatusCode;

/// Whether this kernel gives namespaces to a process without rights, without which there are no rooms.
fn has_namespaces() -> bool {
    let tried = Command::new("unshare").args(["--user", "--map-root-user", "--net", "true"]).output();
    let given = tried.is_ok_and(|tried| tried.status.success());
    if !given {
        left_out("this kernel gives no user namespaces, and engines of their own process need them");
    }
    given
}

/// A host with a simulated enclave and the program `engine`, which gets these arguments.
fn start(kind: &str, engine: &str, arguments: &[&str], lines: &str) -> Site {
    let engine = file(engine).canonicalize().unwrap();
    let engine = engine.to_str().unwrap();
    let argv: Vec<&str> = [&[engine, "{model}", "{socket}"], arguments].concat();
    // What a program needs that is linked with the system's C library.
    let system =
        ["/usr", "/lib", "/lib64"].into_iter().filter(|path| Path::new(path).symlink_metadata().is_ok());
    let files: Vec<&str> = system.chain([engine]).collect();
    let config = format!(
        "version = 1\nmodel = \"demo\"\npartners = \"any\"\n[limits]\nsequences = 4\nqueued = 8\n\
         [engine]\nkind = {kind:?}\nname = \"engine-server\"\nversion = \"0.1.0\"\nargv = {argv:?}\nfiles = {files:?}\n\
         model_suffix = \".gguf\"\nserved_model = \"served\"\nscratch = \"64MiB\"\n{lines}"
    );
    Prepared::new().serve(&config, &[], Stdio::inherit())
}

/// What an engine refuses after the room has prepared it is no refusal by name: `docs/engines.md` says so.
const DIFFERENCES: &str = "a schema that is not understood is refused;what tokens are chosen from can be limited;\
     a message has the form of a schema";

const ABILITIES: &str = "context = 1024\nlogprobs = true\n";

#[tokio::test(flavor = "multi_thread")]
async fn official_clients_use_an_engine_of_its_own_process_through_the_attested_path() {
    if !has_namespaces() {
        return;
    }
    let site = start("vllm", "engine-server", &[], ABILITIES);
    let (_proxy, address) = site.proxy();
    let (status, models) = json(send(address, "GET", "/v1/models", "").await).await;
    assert_eq!(status, StatusCode::OK, "{models}");
    let engine = &models["data"][0]["cleanroom_engine"];
    assert_eq!(
        (&engine["kind"], &engine["name"], &engine["version"]),
        (&"vllm".into(), &"engine-server".into(), &"0.1.0".into())
    );
    for package in [Package::OpenAi, Package::Anthropic] {
        let url = format!("http://{address}/v1");
        let run = move || official::run_with(package, url, &[("CLEANROOM_DIFFERENCES", DIFFERENCES)]);
        let outcome = tokio::task::spawn_blocking(run).await.unwrap();
        official::expect_passed(outcome.unwrap());
    }
}

#[test]
fn the_proof_is_of_weights_and_engine_together() {
    if !has_namespaces() {
        return;
    }
    let site = start("vllm", "engine-server", &[], ABILITIES);
    let verify = ["verify", &site.address, "--key", "partner.key", "--json"];
    let verdict = output("cleanroom", site.path(), &verify);
    assert_eq!(verdict.status.code(), Some(0), "{}", String::from_utf8_lossy(&verdict.stdout));
    // Who knows weights and configuration sees which engine that is.
    let weights = model_digest(&model()).to_string();
    let engine = [&verify[..], &["--engine", "enclave.toml", "--weights", &weights]].concat();
    let shown = output("cleanroom", site.path(), &engine);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        (&shown["accepted"], &shown["engine"]["name"]),
        (&true.into(), &"engine-server".into()),
        "{shown}"
    );
    let config = std::fs::read_to_string(site.path().join("enclave.toml")).unwrap();
    std::fs::write(site.path().join("other.toml"), config.replace("\"0.1.0\"", "\"0.2.0\"")).unwrap();
    let other = [&verify[..], &["--engine", "other.toml", "--weights", &weights]].concat();
    let other = output("cleanroom", site.path(), &other);
    assert_eq!(other.status.code(), Some(1));
    let other: serde_json::Value = serde_json::from_slice(&other.stdout).unwrap();
    assert_eq!((&other["code"], other.get("engine")), (&"engine-mismatch".into(), None), "{other}");
    // A policy for the same weights and the project's own engine refuses.
    let policy = std::fs::read_to_string(site.path().join("trust.toml")).unwrap();
    let (before, after) = policy.split_once("[[model]]\nid = \"demo\"\nsha256 = \"").unwrap();
    let (identity, after) = after.split_at(64);
    let weights = model_digest(&model());
    assert_ne!(identity, weights.to_string());
    let other = format!("{before}[[model]]\nid = \"demo\"\nsha256 = \"{weights}{after}");
    std::fs::write(site.path().join("trust.toml"), other).unwrap();
    let verdict = output("cleanroom", site.path(), &verify);
    assert_eq!(verdict.status.code(), Some(1));
    let text = String::from_utf8_lossy(&verdict.stdout).into_owned();
    assert!(text.contains("model"), "{text}");
    assert!(identity.parse::<Sha256Digest>().is_ok());
}

/// What the hostile engine reports of its attempts.
async fn report(address: SocketAddr) -> HashMap<String, String> {
    let question = question("how is it in there?", false);
    let (status, answer) = json(send(address, "POST", "/v1/chat/completions", &question).await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    text.split(';')
        .map(|part| part.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// `EPERM` of the filter, `EROFS` of a read-only file system, `EACCES` and `ENOENT`.
const PERMISSION: &str = "error 1";
const READ_ONLY: &str = "error 30";

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_reaches_no_network_no_file_and_no_process_outside_its_room() {
    if !has_namespaces() {
        return;
    }
    let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port().to_string();
    for (lines, tcp) in [("", PERMISSION), ("loopback = true\n", "error 111")] {
        let site = start("openai", "hostile-engine", &[&port], &format!("context = 65536\n{lines}"));
        let (_proxy, address) = site.proxy();
        let report = report(address).await;
        let is = |name: &str| report.get(name).map(String::as_str).unwrap();
        // With a loopback it is its own, where nobody listens.
        assert_eq!(is("tcp"), tcp, "{report:?}");
        assert_eq!(is("udp"), if lines.is_empty() { PERMISSION } else { "done" });
        assert_eq!((is("vsock"), is("packet")), (PERMISSION, PERMISSION));
        assert_eq!((is("write-usr"), is("write-root"), is("write-dev")), (READ_ONLY, READ_ONLY, READ_ONLY));
        assert_eq!(is("write-own"), "done");
        // Another user's, or read-only all the same.
        assert!([READ_ONLY, "error 13"].contains(&is("change-program")), "{report:?}");
        assert_eq!((is("mount"), is("namespace")), (PERMISSION, "false"));
        assert!(!is("root").contains("home") && !is("root").contains("root"), "{report:?}");
        assert_eq!(is("dev"), "fd,full,null,random,shm,urandom,zero");
        assert_eq!(is("processes"), "1", "its own alone");
        assert_eq!(is("status"), "CapEff:0000000000000000,NoNewPrivs:1,Seccomp:2");
        assert_eq!((is("stdin"), is("streams")), ("0", "/dev/null,/dev/null"));
        assert_eq!(is("model"), model().len().to_string());
        if rustix::process::getuid().is_root() {
            assert_eq!(is("uid"), "65533", "a user of its own");
        }
    }
    outside.set_nonblocking(true).unwrap();
    assert!(outside.accept().is_err(), "nobody came");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_fails_its_answer_and_is_started_again() {
    if !has_namespaces() {
        return;
    }
    let site = start("openai", "hostile-engine", &["9"], "context = 65536\n");
    let (_proxy, address) = site.proxy();
    let (status, answer) =
        json(send(address, "POST", "/v1/chat/completions", &question("die", false)).await).await;
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (StatusCode::INTERNAL_SERVER_ERROR, Some("engine_failed"))
    );
    // Meanwhile requests are turned away in order.
    let answered = wait::found("the engine is there again", async || {
        let (status, answer) =
            json(send(address, "POST", "/v1/chat/completions", &question("hello", false)).await).await;
        match (status, answer["error"]["code"].as_str()) {
            (StatusCode::OK, _) => Some(answer),
            (StatusCode::SERVICE_UNAVAILABLE, Some("engine_unavailable"))
            | (StatusCode::INTERNAL_SERVER_ERROR, Some("engine_failed")) => None,
            _ => panic!("{status}: {answer}"),
        }
    })
    .await;
    assert!(answered["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.contains("tcp=")));
    let console = std::fs::read_to_string(site.console()).unwrap();
    assert!(console.contains("the engine has ended how=failed again_after_ms=500"), "{console}");
    assert!(console.contains("the engine failed a request reason="), "{console}");
    assert_eq!(console.matches("commitments made").count(), 1, "it is the same enclave: {console}");
    assert!(!console.contains("tcp="), "nothing that an engine says is on the console");
}

#[test]
fn a_room_that_cannot_be_made_is_said_plainly() {
    if !has_namespaces() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let config = "version = 1\nmodel = \"demo\"\npartners = \"any\"\n[engine]\nkind = \"openai\"\nname = \"none\"\n\
                  version = \"1\"\nargv = [\"/none\", \"{socket}\"]\nfiles = [\"/nowhere/at/all\"]\ncontext = 8\n";
    std::fs::write(path.join("enclave.toml"), config).unwrap();
    std::fs::copy(file("cleanroom-enclave-simulated"), path.join("enclave")).unwrap();
    let model = repository().join("models/demo.gguf");
    let run = [
        "run",
        "--tier",
        "simulated",
        "--enclave",
        "enclave",
        "--config",
        "enclave.toml",
        "--model",
        model.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--state",
        "state",
        "--log",
        "log",
    ];
    let ended = output("cleanroom-host", path, &run);
    assert_ne!(ended.status.code(), Some(0));
    let console = std::fs::read_to_string(path.join("state/console.log")).unwrap();
    assert!(console.contains("/nowhere/at/all of the configuration's engine cannot be used"), "{console}");
}
