//! The report for overseers, from the files that an authority has and that its services write.

use std::fs::File;

use serde_json::Value;

use crate::folder::{Folder, Run};
use crate::lease_service::enclave;
use crate::service::Service;

const REPORT: &str = "report --root root.json --release releases --denials denials";

/// Root and release 1, and a folder of releases with that one.
fn released() -> Folder {
    let folder = Folder::new();
    folder.released();
    std::fs::create_dir(folder.path("releases")).unwrap();
    std::fs::copy(folder.path("release.json"), folder.path("releases/1.json")).unwrap();
    folder
}

/// The same folder, its lease service, which has given a lease and logs into lease.log, and the request for the lease.
fn that_gave_a_lease() -> (Folder, Service, Vec<u8>) {
    let folder = released();
    let log = File::create(folder.path("lease.log")).unwrap();
    let line = "--root root.json --release release.json --key a-online.pem --json";
    let service = Service::spawn(Service::command(&folder, line).stderr(log)).unwrap();
    let (_, request) = enclave(&folder, "release.json", 1);
    assert_eq!(service.ask("POST", "/v1/lease", &request).0, 200);
    (folder, service, request)
}

fn says(report: &Value) -> Vec<&str> {
    report["events"].as_array().unwrap().iter().map(|event| event["says"].as_str().unwrap()).collect()
}

#[test]
fn a_report_says_who_may_do_what_who_signed_that_and_what_happened() {
    let (folder, service, _) = that_gave_a_lease();
    folder.ok(&format!(
        "halt m --root root.json --release release.json --key c.pem --reason <script>alert('leaked')</script> \
         --out denials --to {}",
        service.url
    ));
    let halted = folder.json(REPORT);
    assert_eq!(halted["leases"], "granted");
    assert_eq!(halted["terms"]["models"][0]["halted"], true);
    assert_eq!(halted["halts"][0]["signed_by"], serde_json::json!(["c"]));
    let text = folder.ok(REPORT);
    assert!(text.contains("Leases are given. One halt is in force."), "{text}");

    let resume = "resume m --root root.json --release release.json --denials denials --out next.draft.json";
    folder.ok(resume);
    for (document, key) in [("next.draft.json", "a.pem"), ("next.json", "b.pem")] {
        folder.ok(&format!("release sign {document} --root root.json --key {key}"));
    }
    for to in ["release.json", "releases/2.json"] {
        std::fs::copy(folder.path("next.json"), folder.path(to)).unwrap();
    }
    let (_, request) = enclave(&folder, "release.json", 2);
    assert_eq!(service.ask("POST", "/v1/lease", &request).0, 200);
    service.stop();

    let line = format!("{REPORT} --service-log lease.log --html report.html");
    let report = folder.json(&line);
    assert_eq!(report["problems"], serde_json::json!([]));
    let releases = report["releases"].as_array().unwrap();
    let in_force: Vec<_> = releases.iter().map(|release| &release["is_in_force"]).collect();
    assert_eq!(in_force, [false, true]);
    assert_eq!(releases[0]["signed_by"], serde_json::json!(["b", "c"]));
    assert_eq!(releases[1]["signed_by"], serde_json::json!(["a", "b"]));
    assert!(releases[1]["changes"].as_array().unwrap().contains(&"~ version: 1 -> 2".into()), "{releases:?}");
    assert_eq!(
        (&report["halts"][0]["is_in_force"], &report["halts"][0]["lifted_by"]),
        (&false.into(), &2.into())
    );
    let expected = [
        "The lease service took root 1",
        "The lease service took release 1, signed by b, c",
        "The lease service began",
        "The lease service gave leases from now on",
        "c halted the model m: <script>alert('leaked')</script>",
        "The lease service took release 2, signed by a, b",
        "Release 2 lifted the halt of the model m: <script>alert('leaked')</script>",
    ];
    let said = says(&report);
    for event in expected {
        assert_eq!(said.iter().filter(|said| **said == event).count(), 1, "{event}: {said:?}");
    }
    assert_eq!(said.len(), expected.len(), "{said:?}");

    let page = String::from_utf8(folder.read("report.html")).unwrap();
    for shown in ["Nothing is halted", "lifted by release 2", "admitted", "Release 2", "&lt;script&gt;"] {
        assert!(page.contains(shown), "{shown}");
    }
    for markup in ["<script", "http://", "https://", "src=", "javascript:"] {
        assert!(!page.contains(markup), "{markup}");
    }
}

#[test]
fn what_does_not_count_is_named_and_the_rest_is_reported() {
    let folder = released();
    let draft = Folder::first_release();
    folder.ok(&format!("{draft} --out alone.draft.json"));
    folder.ok("release sign alone.draft.json --root root.json --key a.pem --out releases/alone.json");
    let line = format!("{REPORT} --html report.html");
    let run: Run = folder.run(&format!("{line} --json"));
    assert_eq!(run.status, 1, "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["problems"][0]["code"], "document-refused");
    assert_eq!(report["problems"][0]["place"], "releases/alone.json");
    assert_eq!(report["releases"].as_array().unwrap().len(), 1);
    let page = String::from_utf8(folder.read("report.html")).unwrap();
    assert!(page.contains("One file does not count, or is damaged."));
    let run = folder.run(&line);
    assert!(run.status == 1 && run.stdout.contains("WRONG    document-refused"), "{}", run.stdout);

    // A release in force that nobody can use is no report.
    std::fs::remove_file(folder.path("releases/1.json")).unwrap();
    assert_eq!(folder.run(REPORT).status, 2);
    // A log that was cut in the middle, or has lines of others, says what it has.
    folder.write("odd.log", b"{\"timestamp\":\"2027-01-31T12:00:00.5Z\",\"fields\":{\"message\":\"listening\"}}\nrubbish\n\xff\n{\"ti");
    let report = folder.json("report --root root.json --release release.json --service-log odd.log");
    assert_eq!(says(&report), ["The lease service began"]);
}

#[test]
fn leases_that_stop_are_on_the_timeline() {
    let (folder, service, request) = that_gave_a_lease();
    std::fs::write(folder.path("release.json"), "{}").unwrap();
    assert_ne!(service.ask("POST", "/v1/lease", &request).0, 200);
    service.stop();
    let report = folder.json(&format!("{REPORT} --service-log lease.log"));
    let said = says(&report);
    let stopped = said.iter().filter(|said| said.contains("gave no leases")).count();
    assert_eq!(stopped, 1, "{said:?}");
}
