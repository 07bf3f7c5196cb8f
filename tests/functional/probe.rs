//! `cleanroom probe` and its records, as a monitor runs it.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::Output;

use cleanroom_channel::identity::Identity;
use cleanroom_partner::record::RecordFolder;
use cleanroom_partner::session::{Sessions, appraise};
use cleanroom_program::file::create_secret;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::liar::{Liar, Lie, after};
use cleanroom_tests::platform::{World, model_digest};
use cleanroom_tests::processes::{Running, output};
use cleanroom_tests::released_room::ReleasedRoom;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, spawn_blocking};

/// Runs the partner's program in a folder with its files.
async fn run(folder: &Path, arguments: &str) -> Output {
    let (folder, arguments) = (folder.to_owned(), arguments.to_owned());
    let run = move || output("cleanroom", &folder, &arguments.split(' ').collect::<Vec<_>>());
    spawn_blocking(run).await.unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The records in a folder, the oldest first.
fn records(folder: &Path) -> Vec<(String, Value)> {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let read = |path: PathBuf| {
        let record = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), record)
    };
    names.into_iter().map(read).collect()
}

/// A host whose enclave lies once, and what the partner sent it after its evidence.
async fn lying_host(folder: &Path, lie: Lie) -> JoinHandle<Vec<u8>> {
    let world = World::new();
    let liar = Liar::boot(world.device(world.accepted.clone()), model_digest()).await;
    let _ = world.partner_files(folder, model_digest(), String::new());
    let listener = UnixListener::bind(folder.join("host.sock")).unwrap();
    tokio::spawn(async move {
        let (stream, hello) = liar.hello(listener.accept().await.unwrap().0).await;
        let evidence = liar.evidence(&stream, &hello, lie);
        after(stream, evidence.bytes()).await
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proven_room_is_one_line_and_its_record_can_be_judged_again() {
    let room = CleanRoom::start("").await;
    let folder = room.path().parent().unwrap().to_owned();
    let _ = room.partner_files();
    let address = room.address();

    let probed = run(&folder, &format!("probe {address} --prometheus cleanroom.prom --record records")).await;
    let line = printed(&probed);
    assert_eq!(code(&probed), 0, "{probed:?}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.starts_with(&format!("proven {address}: the image, development, model demo, ")), "{line}");
    let metrics = std::fs::read_to_string(folder.join("cleanroom.prom")).unwrap();
    let has = |text: &str| assert!(metrics.contains(text), "{text}: {metrics}");
    has(&format!("cleanroom_probe_up{{address=\"{address}\"}} 1\n"));
    has("code=\"proven\",tier=\"development\"} 1\n");
    has("of=\"evidence\"} 900\n");
    has("of=\"certificate\"} ");

    let probed = run(&folder, &format!("probe {address} --json")).await;
    let report: Value = serde_json::from_slice(&probed.stdout).unwrap();
    assert_eq!((code(&probed), report["outcome"].as_str()), (0, Some("pass")));
    let found = &report["probes"][0];
    assert_eq!((found["state"].as_str(), found["tier"].as_str()), (Some("proven"), Some("development")));
    assert!(
        found["certificate_seconds_left"].as_u64().unwrap() > 0 && found["seconds"].as_f64().unwrap() > 0.0
    );

    let probed = run(&folder, &format!("probe {address} --nagios")).await;
    assert_eq!(code(&probed), 0);
    let line = printed(&probed);
    assert!(line.starts_with("CLEANROOM OK: ") && line.contains(" | time=0."), "{line}");

    // One record, of the one probe that was to keep it.
    let kept = records(&folder.join("records"));
    let [(name, record)] = kept.as_slice() else { panic!("{kept:?}") };
    assert!(name.contains("-proven-"), "{name}");
    assert_eq!(record["address"], address.to_string());
    assert_eq!(record["verdict"]["policy_sha256"], record["policy_sha256"]);
    let again = run(&folder, &format!("verify --document records/{name} --as-recorded --json")).await;
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again, record["verdict"]);
    // The same document, of which nothing is expected.
    let again = run(&folder, &format!("verify --document records/{name}")).await;
    assert_eq!(code(&again), 3, "{again:?}");
    // A record that was changed is found out.
    let changed = serde_json::to_string(record).unwrap();
    let nonce = record["expected"]["nonce"].as_str().unwrap();
    std::fs::write(folder.join("changed.json"), changed.replacen(nonce, &"00".repeat(32), 1)).unwrap();
    let again = run(&folder, "verify --document changed.json --as-recorded").await;
    assert_eq!(code(&again), 1, "{again:?}");

    // The room has seen sessions that ended before a request; the next partner is served as before.
    let probed = run(&folder, &format!("probe {address} {address}")).await;
    assert_eq!((code(&probed), printed(&probed).lines().count()), (0, 2));
    let verified = run(&folder, &format!("verify {address} --record records")).await;
    assert_eq!(code(&verified), 3, "{verified:?}");
    assert_eq!(records(&folder.join("records")).len(), 2);
    let connect = ["connect", &address.to_string(), "--listen", "127.0.0.1:0", "--record", "records"];
    let mut proxy = Running::start("cleanroom", &folder, &connect);
    let (mut proxy, ()) = spawn_blocking(move || {
        proxy.wait_for("ready");
        (proxy, ())
    })
    .await
    .unwrap();
    let kept = records(&folder.join("records"));
    assert_eq!(kept.iter().filter(|(name, _)| name.contains("-proven-")).count(), 3);
    spawn_blocking(move || assert!(proxy.stop().success())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_host_is_refused_with_its_evidence_on_record_and_gets_nothing() {
    for (lie, expected) in [(Lie::FlippedBit, "document-signature"), (Lie::Release, "unexpected-release")] {
        let folder = tempfile::tempdir().unwrap();
        let host = lying_host(folder.path(), lie).await;
        let arguments = "probe unix:host.sock --record records --prometheus - --timeout 1m";
        let probed = run(folder.path(), arguments).await;
        assert_eq!(code(&probed), 1, "{probed:?}");
        let metrics = printed(&probed);
        assert!(metrics.contains("cleanroom_probe_up{address=\"unix:host.sock\"} 0\n"), "{metrics}");
        assert!(metrics.contains(&format!("code=\"{expected}\",tier=\"none\"}} 1\n")), "{metrics}");
        assert_eq!(host.await.unwrap(), b"", "{lie:?}");
        let kept = records(&folder.path().join("records"));
        let [(name, record)] = kept.as_slice() else { panic!("{kept:?}") };
        assert!(name.contains("-refused-"), "{name}");
        assert_eq!(record["code"], expected);
        let again =
            run(folder.path(), &format!("verify --document records/{name} --as-recorded --json")).await;
        let again: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!(again, record["verdict"], "{lie:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_and_silence_are_not_reached_and_are_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let _ = World::new().partner_files(folder.path(), model_digest(), String::new());
    let silent = UnixListener::bind(folder.path().join("silent.sock")).unwrap();
    let arguments = "probe unix:silent.sock unix:nobody.sock --timeout 300ms --record records";
    let probed = run(folder.path(), arguments).await;
    assert_eq!(code(&probed), 4, "{probed:?}");
    let lines = printed(&probed);
    assert!(lines.starts_with("unreachable unix:silent.sock: timeout: "), "{lines}");
    assert!(lines.contains("\nunreachable unix:nobody.sock: unreachable: "), "{lines}");
    let kept = records(&folder.path().join("records"));
    let mut codes: Vec<&str> = kept.iter().filter_map(|(_, record)| record["code"].as_str()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["timeout", "unreachable"]);
    assert!(kept.iter().all(|(name, record)| name.contains("-unreachable-") && record["document"].is_null()));

    let probed = run(folder.path(), "probe unix:nobody.sock --nagios").await;
    assert_eq!(code(&probed), 2);
    assert!(printed(&probed).starts_with("CLEANROOM CRITICAL: unix:nobody.sock unreachable: "), "{probed:?}");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_unknown_and_leaves_no_old_success_behind() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cleanroom.prom"), "cleanroom_probe_up{address=\"a.example:1\"} 1\n")
        .unwrap();
    let probed = run(folder.path(), "probe a.example:1 --prometheus cleanroom.prom").await;
    assert_eq!(code(&probed), 4, "{probed:?}");
    let metrics = std::fs::read_to_string(folder.path().join("cleanroom.prom")).unwrap();
    assert!(metrics.contains("cleanroom_probe_up{address=\"a.example:1\"} 0\n"), "{metrics}");
    assert!(metrics.contains("code=\"unreadable\""), "{metrics}");
    let probed = run(folder.path(), "probe a.example:1 --nagios").await;
    assert_eq!(code(&probed), 3, "{probed:?}");
    assert!(printed(&probed).starts_with("CLEANROOM UNKNOWN: "), "{probed:?}");
    for (option, expected) in [("--json", 2), ("--nagios", 3)] {
        let probed = run(folder.path(), &format!("probe a.example:1 --prometheus - {option}")).await;
        assert_eq!(code(&probed), expected);
        assert!(printed(&probed).contains("both print to standard output"), "{probed:?}");
    }
    assert_eq!(code(&run(folder.path(), "probe --nagios --time 1s a.example:1").await), 3);
    assert_eq!(code(&run(folder.path(), "probe --time 1s a.example:1").await), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_cannot_be_recorded_does_not_count() {
    let room = CleanRoom::start("").await;
    let place = tempfile::tempdir().unwrap();
    let records = RecordFolder::create(&place.path().join("records")).unwrap();
    std::fs::remove_dir(place.path().join("records")).unwrap();
    let party = room.party(&Identity::generate().unwrap()).with_records(records);
    let appraised = appraise(&party, room.address()).await;
    assert_eq!(appraised.err().unwrap().code(), "record");
    let sessions = Sessions::new(party, room.address());
    assert_eq!(sessions.get().await.err().unwrap().code(), "record");

    let folder = room.path().parent().unwrap().to_owned();
    let _ = room.partner_files();
    std::fs::write(folder.join("records"), "a file").unwrap();
    let probed = run(&folder, &format!("probe {} --record records", room.address())).await;
    assert_eq!(code(&probed), 2, "{probed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_release_a_record_has_what_judging_it_again_needs() {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    room.run(&release).await;
    let folder = tempfile::tempdir().unwrap();
    let policy = room.clean_room.world().policy_text_under(&room.authorities.root_text());
    std::fs::write(folder.path().join("trust.toml"), policy).unwrap();
    create_secret(&folder.path().join("cleanroom.key"), room.identity.to_pem().as_bytes()).unwrap();
    let arguments =
        format!("probe {} --record records --prometheus cleanroom.prom", room.clean_room.address());
    let probed = run(folder.path(), &arguments).await;
    assert_eq!(code(&probed), 0, "{probed:?}");
    let metrics = std::fs::read_to_string(folder.path().join("cleanroom.prom")).unwrap();
    for of in ["evidence", "certificate", "lease", "release", "partner"] {
        assert!(metrics.contains(&format!("of=\"{of}\"}}")), "{metrics}");
    }
    let kept = records(&folder.path().join("records"));
    let [(name, record)] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(record["release"]["release_version"], 1);
    let again = run(folder.path(), &format!("verify --document records/{name} --as-recorded --json")).await;
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again, record["verdict"]);
}
