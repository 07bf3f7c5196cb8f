//! Real processes: the enclave is this test program itself, asked to run [`stand_in`] only.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use cleanroom_link::store;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::launcher::{Patience, Pulse, RestartPolicy, State, Status, SuperviseError, supervise};

/// The stand-in for an enclave, as the contract describes one. Its configuration says how it behaves. In an
/// ordinary run of the tests the environment names no socket, and nothing happens.
#[test]
fn stand_in() {
    let Some(socket) = env::var_os(variable::LISTEN) else { return };
    let config = fs::read_to_string(env::var_os(variable::CONFIG).unwrap()).unwrap();
    println!("told to {config}");
    match config.as_str() {
        "refuse" => std::process::exit(exit::REFUSED.into()),
        "crash" => std::process::exit(3),
        "serve" | "ignore" => {}
        other => panic!("{other}"),
    }
    let stop = if config == "serve" {
        tokio::signal::unix::SignalKind::terminate()
    } else {
        tokio::signal::unix::SignalKind::hangup()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stop = tokio::signal::unix::signal(stop).unwrap();
        // With another signal in its place, the one that ends a process is caught and ignored.
        let _ignored = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        std::thread::spawn(move || {
            let listener = UnixListener::bind(socket).unwrap();
            let model = model();
            for stream in listener.incoming() {
                // The host's probe closes without reading.
                let _ = stream.unwrap().write_all(&report(&model));
            }
        });
        stop.recv().await;
    });
    println!("drained");
    std::process::exit(0);
}

/// What the stand-in finds in its environment, as JSON.
fn report(model: &str) -> Vec<u8> {
    let mut names: Vec<_> = env::vars().map(|(name, _)| name).collect();
    names.sort();
    let descriptors: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    let nsm = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    serde_json::to_vec(&serde_json::json!({
        "environment": names,
        "arguments": env::args().skip(1).collect::<Vec<_>>(),
        "model": model,
        "pcr0": describe(&nsm, 0),
        "pcr1": describe(&nsm, 1),
        "pcr2": describe(&nsm, 2),
        "program": descriptors.iter().any(|target| target.contains("memfd")),
    }))
    .unwrap()
}

/// What the host's store has.
fn model() -> String {
    use std::io::Read as _;
    let store = UnixListener::bind(env::var_os(variable::STORE).unwrap()).unwrap();
    let (mut stream, _) = store.accept().unwrap();
    let mut description = [0; 10];
    stream.read_exact(&mut description).unwrap();
    let description = store::Description::decode(description).unwrap();
    let length = u32::try_from(description.length).unwrap();
    stream.write_all(&store::Question { offset: 0, length }.encode()).unwrap();
    let mut answer = vec![0; 12 + length as usize];
    stream.read_exact(&mut answer).unwrap();
    stream.write_all(&store::Question::FAREWELL.encode()).unwrap();
    String::from_utf8(answer.split_off(12)).unwrap()
}

fn describe(mut nsm: &StdUnixStream, index: u16) -> String {
    use std::io::Read as _;
    let request = serde_cbor::to_vec(&Request::DescribePCR { index }).unwrap();
    nsm.write_all(&(request.len() as u32).to_be_bytes()).unwrap();
    nsm.write_all(&request).unwrap();
    let mut length = [0; 4];
    nsm.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    nsm.read_exact(&mut answer).unwrap();
    match serde_cbor::from_slice(&answer).unwrap() {
        Response::DescribePCR { lock: true, data } => hex::encode(data),
        other => panic!("{other:?}"),
    }
}

fn settings(folder: &TempDir, behaviour: &str) -> Settings {
    let config = folder.path().join("config");
    let model = folder.path().join("model");
    fs::write(&config, behaviour).unwrap();
    fs::write(&model, "weights").unwrap();
    Settings {
        program: env::current_exe().unwrap(),
        arguments: ["launcher::simulated::tests::stand_in", "--exact", "--nocapture"]
            .map(str::to_owned)
            .to_vec(),
        config,
        model,
        state: folder.path().join("state"),
        instance_id: None,
        echo_console: false,
    }
}

const PATIENCE: Patience = Patience {
    start: Duration::from_secs(60),
    drain: Duration::from_millis(300),
    silence: Duration::from_secs(60),
};
const POLICY: RestartPolicy = RestartPolicy {
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(1),
    stable_after: Duration::from_secs(60),
    restarts: Some(2),
};

#[tokio::test]
async fn an_enclave_gets_what_the_contract_says_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder, "serve");
    let mut launcher = Simulated::prepare(&settings).unwrap();
    let description = launcher.description().clone();
    // What the host says about the enclave is also in the state folder.
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(settings.state.join("measurements.json")).unwrap()).unwrap();
    assert_eq!(written, serde_json::to_value(&description).unwrap());
    let pem = fs::read_to_string(settings.state.join("development-root.pem")).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(description.model_sha256, cleanroom_attestation::model::model_digest(b"weights").to_string());

    // What was measured is what runs and what is handed over, even if the files change after that.
    let mut program = fs::read(&settings.program).unwrap();
    let mut enclave = launcher.launch().await.unwrap();
    fs::write(&settings.config, "crash").unwrap();
    enclave.ready().await;
    let mut stream = UnixStream::connect(&launcher.socket).await.unwrap();
    let mut report = Vec::new();
    stream.read_to_end(&mut report).await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();

    assert_eq!(
        report["environment"],
        serde_json::json!([variable::CONFIG, variable::CONTROL, variable::LISTEN, variable::STORE])
    );
    assert_eq!(report["model"], "weights");
    assert_eq!(report["arguments"], serde_json::to_value(&settings.arguments).unwrap());
    assert_eq!(report["program"], false, "the descriptor of its own program is not inherited");
    let expected = Measurements::of_program(&program, &settings.arguments.join(" "), b"serve");
    for (index, digest) in expected.image().into_iter().enumerate() {
        assert_eq!(report[format!("pcr{index}")], digest.to_string());
    }
    assert_eq!(report["pcr0"], description.pcr0);
    // The comparison can fail: another program has another PCR 0.
    program.push(0);
    let other = Measurements::of_program(&program, &settings.arguments.join(" "), b"serve");
    assert_ne!(report["pcr0"], other.image()[0].to_string());

    enclave.drain();
    assert_eq!(enclave.ended().await, Exit { how: How::Status(0), last_words: Some("drained".to_owned()) });
    let console = fs::read_to_string(settings.state.join("console.log")).unwrap();
    assert!(console.contains("told to serve"), "{console}");
}

#[tokio::test]
async fn an_enclave_that_refuses_is_not_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let launcher = Simulated::prepare(&settings(&folder, "refuse")).unwrap();
    let (status, _) = watch::channel(Status::new());
    let result =
        supervise(launcher, POLICY, PATIENCE, Pulse::default(), &status, CancellationToken::new()).await;
    let Err(SuperviseError::Refused(exit)) = result else { panic!("{result:?}") };
    assert_eq!(exit.to_string(), "it refused what it was given; its last words: told to refuse");
}

#[tokio::test]
async fn an_enclave_that_fails_is_started_again_with_a_fresh_security_module() {
    let folder = tempfile::tempdir().unwrap();
    let launcher = Simulated::prepare(&settings(&folder, "crash")).unwrap();
    let (status, watched) = watch::channel(Status::new());
    let result =
        supervise(launcher, POLICY, PATIENCE, Pulse::default(), &status, CancellationToken::new()).await;
    assert!(matches!(result, Err(SuperviseError::Failed { restarts: 2, .. })), "{result:?}");
    let last = watched.borrow().last_exit.clone().unwrap();
    assert_eq!(last, "it ended with status 3; its last words: told to crash");
}

#[tokio::test]
async fn an_enclave_that_ignores_the_request_to_end_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let launcher = Simulated::prepare(&settings(&folder, "ignore")).unwrap();
    let socket = launcher.socket.clone();
    let (status, mut watched) = watch::channel(Status::new());
    let stop = CancellationToken::new();
    let supervised = tokio::spawn({
        let stop = stop.clone();
        async move { supervise(launcher, POLICY, PATIENCE, Pulse::default(), &status, stop).await }
    });
    watched.wait_for(|status| status.state == State::Serving).await.unwrap();
    stop.cancel();
    supervised.await.unwrap().unwrap();
    assert!(UnixStream::connect(&socket).await.is_err());
}

#[tokio::test]
async fn what_was_replaced_between_two_starts_runs_under_its_own_measurements() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder, "serve");
    let mut launcher = Simulated::prepare(&settings).unwrap();
    let before = launcher.description().clone();
    drop(launcher.launch().await.unwrap());
    fs::write(&settings.config, "ignore").unwrap();
    drop(launcher.launch().await.unwrap());
    let after = launcher.description();
    assert_eq!(after.pcr1, before.pcr1);
    assert_ne!((&after.pcr0, &after.pcr2), (&before.pcr0, &before.pcr2));
    assert_eq!(after.development_root_sha256, before.development_root_sha256);
}

#[tokio::test]
async fn a_dropped_enclave_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = Simulated::prepare(&settings(&folder, "ignore")).unwrap();
    let enclave = launcher.launch().await.unwrap();
    enclave.ready().await;
    let mut stream = UnixStream::connect(&launcher.socket).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    drop(enclave);
    // The kernel closes its socket when it is gone.
    while UnixStream::connect(&launcher.socket).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn arguments_that_would_be_ambiguous_are_refused() {
    let of = |arguments: &[&str]| {
        command_line(&arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(of(&["--one", "two"]).unwrap(), "--one two");
    assert_eq!(of(&[]).unwrap(), "");
    for ambiguous in ["a b", "", "a\n", "a\0"] {
        assert!(matches!(of(&["--one", ambiguous]), Err(LaunchError::Argument(_))), "{ambiguous:?}");
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = settings(&folder, "serve");
    let absent = folder.path().join("absent");
    for (settings, what) in [
        (Settings { program: absent.clone(), ..good.clone() }, "enclave's program"),
        (Settings { config: absent.clone(), ..good.clone() }, "configuration"),
        (Settings { model: absent.clone(), ..good.clone() }, "model"),
    ] {
        let error = Simulated::prepare(&settings).map(drop).unwrap_err();
        assert!(matches!(&error, LaunchError::Read { what: which, .. } if *which == what), "{error}");
    }
    let long = Settings { state: folder.path().join("x".repeat(100)), ..good };
    assert!(matches!(Simulated::prepare(&long).map(drop), Err(LaunchError::Socket(_))));
}
