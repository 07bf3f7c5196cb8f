//! Nothing that was acknowledged is lost, and every command can be run again after it failed: each test fails
//! every file operation in turn, as a full disk does, and kills the program in place of it, as a power cut
//! does.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use cleanroom_program::file::fault::VARIABLE;
use serde_json::Value;

use crate::folder::{EXPIRES, Folder, ROOM, Run};
use crate::service::Service;

const SERVE: &str = "--root root.json --release release.json --key a-online.pem";

/// More file operations than any command or request does.
const OPERATIONS: u64 = 16;

/// Starts the service, with a fault if there is one; `None` if the fault keeps it from starting.
fn start(folder: &Folder, fault: Option<&str>) -> Option<Service> {
    let mut command = Service::command(folder, SERVE);
    command.stderr(Stdio::null());
    if let Some(fault) = fault {
        command.env(VARIABLE, fault);
    }
    Service::spawn(&mut command)
}

/// The status of the answer to a denial; `None` if there was no answer.
fn send(service: &Service, denial: &[u8]) -> Option<u16> {
    service.try_ask("POST", "/v1/denials", denial).ok().map(|(status, _)| status)
}

fn is_in_force(folder: &Folder) -> bool {
    let service = start(folder, None).unwrap();
    let in_force = service.json("GET", "/v1/status", b"").1["denials_in_force"].as_array().unwrap().len();
    let listed = service.json("GET", "/v1/denials", b"").1.as_array().unwrap().len();
    assert_eq!(in_force, listed);
    in_force == 1
}

#[test]
fn a_halt_that_was_acknowledged_outlives_the_service() {
    let folder = Folder::new();
    folder.released();
    folder.ok("halt m --root root.json --release release.json --key c.pem --reason r --out denial.json");
    let denial = folder.read("denial.json");
    let mut refused = Vec::new();
    for kind in ["", "+", "!"] {
        for number in 1..=OPERATIONS {
            std::fs::remove_dir_all(folder.path("denials")).unwrap();
            std::fs::create_dir(folder.path("denials")).unwrap();
            let fault = format!("{number}{kind}");
            let Some(service) = start(&folder, Some(&fault)) else {
                assert_eq!(number, 1, "only reading the key comes before it listens");
                continue;
            };
            let first = send(&service, &denial);
            let is_acknowledged = |status| matches!(status, Some(200 | 201));
            if !is_acknowledged(first) {
                assert_eq!(first, (kind != "!").then_some(503), "{fault}");
                refused.push(fault.clone());
            }
            let mut acknowledged = is_acknowledged(first);
            if kind.is_empty() {
                // Sent again, as the answer asks for.
                acknowledged = is_acknowledged(send(&service, &denial));
                assert!(acknowledged, "{fault}");
            } else if kind == "+" && !acknowledged {
                // The disk stays full: the halt acts, is listed, and is never said to be kept.
                assert_eq!(service.json("GET", "/v1/denials", b"").1.as_array().unwrap().len(), 1);
                let status = service.json("GET", "/v1/status", b"").1;
                assert_eq!(status["denials_in_force"].as_array().unwrap().len(), 1);
                assert_eq!(status["denials_not_kept"], 1);
                assert_eq!(send(&service, &denial), Some(503), "{fault}");
            }
            // Killed, not asked to end.
            drop(service);
            assert!(!acknowledged || is_in_force(&folder), "{fault}: acknowledged and lost");
            // A service that was started again takes what was never acknowledged.
            let again = start(&folder, None).unwrap();
            assert!(is_acknowledged(send(&again, &denial)), "{fault}");
            drop(again);
            assert!(is_in_force(&folder), "{fault}");
        }
    }
    let expected: Vec<String> = ["", "+", "!"]
        .iter()
        .flat_map(|kind| {
            // The key is the first; then open, write, sync, rename, sync of the folder.
            (2..=6).map(move |number| format!("{number}{kind}"))
        })
        .collect();
    assert_eq!(refused, expected, "each fault was met");
}

#[test]
fn a_denial_that_nobody_signed_is_not_kept_even_if_its_digest_is_known() {
    let folder = Folder::new();
    folder.released();
    folder.ok("halt m --root root.json --release release.json --key c.pem --reason r --out denials/x.json");
    let service = start(&folder, None).unwrap();
    let mut forged: Value = serde_json::from_slice(&folder.read("denials/x.json")).unwrap();
    let kept = folder.read("denials/x.json");
    forged["signatures"][0]["sig"] = "AAAA".into();
    // It is on the disk already, by the name that somebody gave it.
    assert_eq!(send(&service, forged.to_string().as_bytes()), Some(403));
    assert_eq!(send(&service, &kept), Some(200));
    assert_eq!(files(&folder.path("denials")).len(), 1);
    // The file goes. Whatever is written then has a signature.
    std::fs::remove_file(folder.path("denials/x.json")).unwrap();
    assert_eq!(send(&service, forged.to_string().as_bytes()), Some(403));
    assert!(files(&folder.path("denials")).is_empty());
    assert_eq!(send(&service, &kept), Some(200));
    drop(service);
    assert!(is_in_force(&folder));
}

/// Every file under a folder and its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, std::fs::read(path).unwrap());
        }
    }
    found
}

/// The folder with exactly these files.
fn restore(folder: &Folder, wanted: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files(&folder.path("")) {
        match wanted.get(&name) {
            Some(before) if *before == bytes => {}
            // In place, for its permissions.
            Some(before) => folder.write(&name, before),
            None => std::fs::remove_file(folder.path(&name)).unwrap(),
        }
    }
}

#[test]
fn every_command_can_be_run_again_after_any_fault() {
    let folder = Folder::new();
    folder.released();
    folder.ok("halt m --root root.json --release release.json --key c.pem --reason r --out denials");
    folder.ok(&format!("{} --out next.draft.json", Folder::first_release()));
    std::fs::copy(folder.path("root.draft.json"), folder.path("again.draft.json")).unwrap();
    folder.write("weights", &[7; 40_000]);
    folder.ok("seal weights --new-key weights.key");
    let before = files(&folder.path(""));
    let common = "--root root.json --release release.json";
    for (line, written) in [
        ("key new new.pem".to_owned(), vec!["new.pem", "new.pem.pub"]),
        (
            format!(
                "root new --room {ROOM} --expires {EXPIRES} --authority a=a.pem.pub,a-online.pem.pub --out n.json"
            ),
            vec!["n.json"],
        ),
        ("root rotate --from root.json --remove b --out n.json".to_owned(), vec!["n.json"]),
        ("root sign again.draft.json --key a.pem".to_owned(), vec!["again.json"]),
        ("root sign root.json --key b.pem".to_owned(), vec!["root.json"]),
        (format!("{} --out n.json", Folder::first_release()), vec!["n.json"]),
        ("release sign next.draft.json --root root.json --key a.pem".to_owned(), vec!["next.json"]),
        ("release sign release.json --root root.json --key a.pem".to_owned(), vec!["release.json"]),
        (format!("halt m {common} --key a.pem --reason r --out n.json"), vec!["n.json"]),
        ("seal weights --key weights.key --out n.sealed".to_owned(), vec!["n.sealed"]),
        (format!("resume m {common} --denials denials --out n.json"), vec!["n.json"]),
    ] {
        let (mut failures, mut successes) = (0, 0);
        for fault in (1..=OPERATIONS).flat_map(|number| [format!("{number}"), format!("{number}!")]) {
            restore(&folder, &before);
            let killing = fault.ends_with('!');
            let output = folder.command(&line).env(VARIABLE, &fault).output().unwrap();
            let code = output.status.code();
            let after = files(&folder.path(""));
            let temporary = after.keys().filter(|name| name.ends_with(".new")).count();
            assert!(killing || temporary == 0, "{line}: {fault}: {:?}", after.keys());
            for (name, bytes) in &before {
                let same = after.get(name) == Some(bytes);
                let whole = || serde_json::from_slice::<Value>(&after[name]).is_ok();
                assert!(same || (written.contains(&name.as_str()) && whole()), "{line}: {fault}: {name}");
            }
            let is_new = |name: &&str| !before.contains_key(*name) && after.contains_key(*name);
            if code == Some(0) {
                assert!(written.iter().all(|name| after.contains_key(*name)), "{line}: {fault}");
                successes += 1;
                // One may be a way around the fault. Three in a row mean that no fault was met.
                if successes == 3 {
                    break;
                }
                continue;
            }
            (failures, successes) = (failures + 1, 0);
            assert_eq!(code, (!killing).then_some(3), "{line}: {fault}");
            assert!(killing || !written.iter().any(is_new), "{line}: {fault}: left behind");
            let again = Run::of(folder.command(&line).output().unwrap());
            if killing && written.iter().any(is_new) {
                // It was killed between putting the file in place and saying so.
                assert!(again.stderr.contains("exist"), "{line}: {fault}: {}", again.stderr);
            } else {
                assert_eq!(again.status, 0, "{line}: {fault}: {}", again.stderr);
            }
        }
        assert!(failures >= 8, "{line}: the faults were met: {failures}");
    }
}
