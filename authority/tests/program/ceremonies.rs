//! Ceremonies, file by file and one signer at a time, as several organisations hold them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::measured_boot::BootMeasurement;
use cleanroom_attestation::measurement::Measurer;
use cleanroom_attestation::release::{Release, Root, TrustedState, Verified};
use cleanroom_forge::boot_image::unified_kernel;
use cleanroom_forge::image::small_image;
use serde_json::Value;

use crate::folder::{EXPIRES, Folder};

#[test]
fn keys_are_for_their_owner_alone_and_never_overwritten() {
    let folder = Folder::new();
    for algorithm in ["ed25519", "p384"] {
        let made = folder.json(&format!("key new {algorithm}.pem --algorithm {algorithm}"));
        let private = folder.path(&format!("{algorithm}.pem"));
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(folder.read(&format!("{algorithm}.pem")).starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
        for name in [format!("{algorithm}.pem"), format!("{algorithm}.pem.pub")] {
            assert_eq!(folder.json(&format!("key show {name}"))["id"], made["id"], "{name}");
        }
        let before = std::fs::read(&private).unwrap();
        let again = folder.run(&format!("key new {algorithm}.pem"));
        assert_eq!(again.status, 3);
        assert!(again.stderr.contains("exists already"), "{}", again.stderr);
        assert_eq!(std::fs::read(&private).unwrap(), before);
        assert!(!again.stdout.contains("PRIVATE") && !again.stderr.contains("PRIVATE"));
    }
    // A key that others can read is no secret any more.
    std::fs::set_permissions(folder.path("p384.pem"), Permissions::from_mode(0o640)).unwrap();
    let exposed = folder.run("key show p384.pem --json");
    assert_eq!(exposed.status, 3);
    assert!(exposed.stdout.contains("key-exposed") && exposed.stderr.contains("chmod 600 p384.pem"));
    std::fs::write(folder.path("junk.pem"), "junk").unwrap();
    assert_eq!(folder.refused("key show junk.pem"), "key");
    assert_eq!(folder.run("key show missing.pem").status, 3);
}

#[test]
fn two_of_three_make_a_root() {
    let folder = Folder::new();
    folder.keys();
    let parties =
        ["a", "b", "c"].map(|name| format!("--authority {name}={name}.pem.pub,{name}-online.pem.pub"));
    let made =
        folder.json(&format!("root new --room r --expires 2090-01-01T00:00:00Z {}", parties.join(" ")));
    assert_eq!(made["root"]["roles"]["root"]["threshold"], 2);
    assert_eq!(made["root"]["roles"]["lease"]["threshold"], 2, "one online key alone leases nothing");
    assert_eq!(made["root"]["roles"]["deny"]["threshold"], 1);

    assert_eq!(folder.refused("root show root.draft.json"), "threshold");
    assert_eq!(folder.refused("root sign root.draft.json --key a-online.pem"), "not-in-the-role");
    assert!(!folder.exists("root.json"));
    for (mode, status) in [(0o604, 3), (0o600, 0)] {
        std::fs::set_permissions(folder.path("b.pem"), Permissions::from_mode(mode)).unwrap();
        let run = folder.run("root sign root.draft.json --key b.pem --out by-b.json");
        assert_eq!(run.status, status, "{mode:o}: {}", run.stderr);
    }
    let first = folder.json("root sign root.draft.json --key a.pem");
    assert_eq!(first["progress"]["own"]["signed"], serde_json::json!(["a-offline"]));
    assert_eq!(folder.refused("root show root.json"), "threshold");
    // Signing the draft once more would lose the first signature, so it is not done.
    let again = folder.run("root sign root.draft.json --key c.pem");
    assert_eq!(again.status, 2, "{}", again.stderr);
    // The same signer twice is one signer.
    assert_eq!(folder.json("root sign root.json --key a.pem")["progress"]["complete"], false);
    assert_eq!(folder.json("root sign root.json --key c.pem")["progress"]["complete"], true);
    let shown = folder.ok("root show root.json");
    assert!(shown.contains("2 of 2 signatures: a-offline, c-offline"), "{shown}");
    assert!(Root::open_first(&folder.read("root.json")).is_ok());
}

#[test]
fn a_rotation_takes_both_quorums() {
    let folder = Folder::new();
    folder.released();
    folder.ok("key new d.pem");
    folder.ok("key new d-online.pem");
    folder.ok(
        "root rotate --from root.json --remove a --authority d=d.pem.pub,d-online.pem.pub --minimum-release 2 \
         --out root.2.draft.json",
    );
    assert_eq!(
        folder.run("root sign root.2.draft.json --key b.pem").status,
        2,
        "the root before must be given"
    );
    let sign =
        |file: &str, key: &str| folder.json(&format!("root sign {file} --key {key} --previous root.json"));
    assert_eq!(sign("root.2.draft.json", "d.pem")["progress"]["complete"], false);
    let second = sign("root.2.json", "b.pem");
    assert_eq!(second["progress"]["own"]["complete"], true);
    assert_eq!(second["progress"]["previous"]["complete"], false);
    assert_eq!(folder.refused("root show root.2.json --previous root.json"), "threshold");
    assert_eq!(
        folder.refused("release verify release.json --root root.json --root root.2.json"),
        "threshold"
    );
    // The authority that leaves signs that it does.
    assert_eq!(sign("root.2.json", "a.pem")["progress"]["complete"], true);
    folder.ok("root show root.2.json --previous root.json");

    assert_eq!(folder.refused("release verify release.json --root root.json,root.2.json"), "below-minimum");
    // In whichever order the chain is given.
    folder.ok("release draft --root root.2.json,root.json --from release.json --out release.2.draft.json");
    for (file, key) in [("release.2.draft.json", "d.pem"), ("release.2.json", "b.pem")] {
        folder.ok(&format!("release sign {file} --root root.json,root.2.json --key {key}"));
    }
    folder.ok("release verify release.2.json --root root.json,root.2.json");
    assert_eq!(folder.refused("release verify release.2.json --root root.json"), "threshold");
    assert_eq!(
        folder.refused("release sign release.2.json --root root.json,root.2.json --key a.pem"),
        "not-in-the-role"
    );
}

#[test]
fn a_release_is_drafted_signed_shown_and_verified() {
    let folder = Folder::new();
    folder.root();
    folder.ok(&Folder::first_release());
    assert_eq!(folder.refused("release verify release.draft.json --root root.json"), "form");
    folder.ok("release sign release.draft.json --root root.json --key b.pem");
    assert_eq!(folder.refused("release verify release.json --root root.json"), "threshold");
    folder.ok("release sign release.json --root root.json --key c.pem");
    let verified = folder.json("release verify release.json --root root.json");
    assert_eq!((verified["valid"].as_bool(), verified["version"].as_u64()), (Some(true), Some(1)));
    assert_eq!(
        folder.refused("release verify release.json --root root.json --at 2090-01-01T00:00:00Z"),
        "root-expired"
    );
    let shown = folder.ok("release show release.json");
    for part in [
        "release 1 of grid-forecast",
        "model       m active",
        "partner     p may use m",
        "deployments anywhere",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // What was signed is, byte for byte, what the draft said.
    let mut state = TrustedState::new(&folder.read("root.json")).unwrap();
    state.accept_release(&folder.read("release.json")).unwrap();
    let release: &Verified<Release> = state.release().unwrap();
    assert_eq!(release.envelope().payload(), folder.read("release.draft.json"));

    let pcr = "12".repeat(48);
    folder.ok(&format!(
        "release draft --root root.json --from release.json --state m=draining --deployment eu=pcr8:{pcr} \
         --limits p=1,2,3 --model n={} --grant p=m,n --partner q=a.pem.pub --grant q=n --partner-expires \
         q=2080-01-01T00:00:00Z --out next.draft.json",
        "ee".repeat(32)
    ));
    let diff = folder.ok("release diff release.json next.draft.json");
    for line in [
        "~ models[m].state: \"active\" -> \"draining\"",
        "~ partners[p].limits.concurrency: 4 -> 3",
        "+ partners[q].expires: \"2080-01-01T00:00:00Z\"",
        "~ version: 1 -> 2",
    ] {
        assert!(diff.contains(line), "{line}\n{diff}");
    }
    assert_eq!(folder.ok("release diff release.json release.draft.json"), "no change\n");
    // A model becomes a sealed one, and is that for as long as it is the same weights.
    let broker = |name: &str, digit: &str| format!(r#"{{"name":"{name}","sha256":"{}"}}"#, digit.repeat(64));
    let weights = |needed: u32| {
        format!(r#"{{"brokers":{{"needed":{needed},"of":[{},{}]}}}}"#, broker("a", "1"), broker("b", "2"))
    };
    folder.write("weights.json", weights(2).as_bytes());
    let draft = "release draft --root root.json --from release.json";
    let sealed = folder.json(&format!("{draft} --weights m=weights.json --out sealed.draft.json"));
    assert_eq!(sealed["release"]["models"][0]["weights"]["brokers"]["needed"], 2);
    let shown = folder.ok("release show sealed.draft.json");
    assert!(shown.contains("sealed; 2 of the brokers a, b open it"), "{shown}");
    let again = |options: &str, out: &str| {
        let line = format!("release draft --root root.json --from sealed.draft.json {options} --out {out}");
        folder.json(&line)["release"]["models"][0]["weights"].clone()
    };
    assert!(again(&format!("--model m={}", "cd".repeat(32)), "1.draft.json").is_object());
    assert!(again(&format!("--model m={}", "ce".repeat(32)), "2.draft.json").is_null());
    assert!(again("--unsealed m", "3.draft.json").is_null());
    folder.write("weights.json", weights(3).as_bytes());
    assert_eq!(folder.refused(&format!("{draft} --weights m=weights.json --out 4.draft.json")), "range");
    folder.write("weights.json", b"{}");
    assert_eq!(folder.refused(&format!("{draft} --weights m=weights.json --out 4.draft.json")), "form");
    // What no enclave enforces is not drafted.
    let egress =
        "release draft --root root.json --from release.json --egress kms.example:443 --out egress.draft.json";
    assert_eq!(folder.refused(egress), "not-enforced");
    assert!(!folder.exists("egress.draft.json"));
    // A release that does not follow is refused.
    assert_eq!(
        folder.refused("release verify release.json --root root.json --previous next.draft.json"),
        "form"
    );
}

/// A release names the policy by which a model's prompts and answers are judged, and what holds a partner.
#[test]
fn a_model_gets_safeguards_and_keeps_them_until_they_are_taken_away() {
    let folder = Folder::new();
    folder.released();
    let policy = b"version = 1\nid = \"p\"\nhold_back = 8\n[[rules]]\nid = \"a.b\"\nabout = \"x\"\n\
                   on = \"prompt\"\naction = \"refuse\"\nany = [\"open the floodgate\"]\n";
    folder.write("policy.toml", policy);
    let draft = |options: &str, out: &str| {
        format!("release draft --root root.json --from release.json {options} --out {out}")
    };
    let limits = "--safeguard-limit m=tries,refuse,5,3600 --safeguard-limit m=flags,flag,40,86400";
    let judged = folder.json(&draft(&format!("--safeguards m=policy.toml {limits}"), "next.draft.json"));
    let safeguards = &judged["release"]["models"][0]["safeguards"];
    assert_eq!(safeguards["policy"], Sha256Digest::of(&[&policy[..]]).to_string());
    assert_eq!(safeguards["limits"][1]["count"], 40);
    let shown = folder.ok("release show next.draft.json");
    assert!(
        shown.contains("tries: 5 times refuse or stricter within 3600 seconds hold a partner"),
        "{shown}"
    );

    let from = |options: &str, out: &str| {
        let line = format!("release draft --root root.json --from next.draft.json {options} --out {out}");
        folder.json(&line)["release"]["models"][0]["safeguards"].clone()
    };
    // Other weights under the name are judged by the same policy.
    assert_eq!(&from(&format!("--model m={}", "ce".repeat(32)), "1.draft.json"), safeguards);
    let digest = "ab".repeat(32);
    let other = from(&format!("--safeguards m={digest}"), "2.draft.json");
    assert_eq!((&other["policy"], &other["limits"]), (&digest.into(), &safeguards["limits"]));
    let fewer = from("--safeguard-limit m=only,end,1,60", "3.draft.json");
    assert_eq!(fewer["limits"].as_array().unwrap().len(), 1);
    assert!(from("--no-safeguards m", "4.draft.json").is_null());

    // What no enclave could read, or count, is not drafted.
    folder.write("junk.toml", b"version = 1\nrules = 7\n");
    assert_eq!(folder.refused(&draft("--safeguards m=junk.toml", "5.draft.json")), "policy");
    let limit = |limit: &str| {
        draft(&format!("--safeguards m=policy.toml --safeguard-limit m={limit}"), "5.draft.json")
    };
    assert_eq!(folder.refused(&limit("tries,refuse,0,60")), "range");
    for line in [limit("tries,allow,5,60"), limit("tries,refuse,5"), draft(limits, "5.draft.json")] {
        assert_eq!(folder.run(&line).status, 2, "{line}");
    }
    assert!(!folder.exists("5.draft.json"));
}

/// An authority need not trust what it is told an image measures: it can measure the file itself.
#[test]
fn an_image_file_is_measured_by_the_authority_itself() {
    let folder = Folder::new();
    folder.root();
    let image = small_image(b"application");
    folder.write("room.eif", &image);
    let mut measurer = Measurer::new();
    measurer.update(&image).unwrap();
    let measured = measurer.finish().unwrap();
    let line = Folder::first_release().replace("--image v1=", "--image v0=room.eif --image v1=");
    folder.ok(&line);
    let draft: Value = serde_json::from_slice(&folder.read("release.draft.json")).unwrap();
    let registers = [("pcr0", measured.pcr0), ("pcr1", measured.pcr1), ("pcr2", measured.pcr2)];
    for (name, value) in registers {
        assert_eq!(draft["images"][0][name], value.to_string(), "{draft}");
    }
    folder.write("room.eif", &image[..image.len() - 1]);
    assert_eq!(folder.refused(&line), "image-truncated");
}

#[test]
fn an_image_of_instances_is_measured_by_the_authority_itself() {
    let folder = Folder::new();
    folder.root();
    let image = unified_kernel("257.9").bytes();
    folder.write("room.efi", &image);
    let measured = BootMeasurement::of(&image).unwrap();
    let line = Folder::first_release().replace("--image v1=", "--image v0=room.efi --image v1=");
    folder.ok(&line);
    let draft: Value = serde_json::from_slice(&folder.read("release.draft.json")).unwrap();
    let registers = [("pcr4", measured.pcr4), ("pcr7", measured.pcr7), ("pcr12", measured.pcr12)];
    for (name, value) in registers {
        assert_eq!(draft["nitrotpm_images"][0][name], value.to_string(), "{draft}");
    }
    assert_eq!(draft["images"].as_array().unwrap().len(), 1);
    // In digests it is the same image, and another one of its name takes its place.
    let [pcr4, pcr7, pcr12] = registers.map(|(_, value)| value.to_string());
    let from = "release draft --root root.json --from release.draft.json";
    folder.ok(&format!("{from} --image v0=nitrotpm:{pcr4},{pcr7},{pcr12} --out same.json"));
    let same: Value = serde_json::from_slice(&folder.read("same.json")).unwrap();
    assert_eq!(same["nitrotpm_images"], draft["nitrotpm_images"]);
    folder.ok(&format!("{from} --image v0={pcr4},{pcr7},{pcr7} --out enclave.json"));
    let enclave: Value = serde_json::from_slice(&folder.read("enclave.json")).unwrap();
    assert!(enclave.get("nitrotpm_images").is_none() && enclave["images"][1]["name"] == "v0", "{enclave}");
    folder.ok(&format!("{from} --remove-image v0 --out removed.json"));
    let removed: Value = serde_json::from_slice(&folder.read("removed.json")).unwrap();
    assert!(removed.get("nitrotpm_images").is_none(), "{removed}");

    folder.write("room.efi", &image[..image.len() - 1]);
    assert_eq!(folder.refused(&line), "boot-image-truncated");
}

#[test]
fn mistakes_get_an_answer_that_helps() {
    let folder = Folder::new();
    folder.root();
    for (line, status, part) in [
        (
            "release draft --root root.json --expires 2090-01-01T00:00:00Z",
            1,
            "number of images is 0, expected 1",
        ),
        ("release draft --root root.json --expires tomorrow", 2, "2027-01-31T12:00:00Z"),
        ("release draft --root root.json", 2, "--expires"),
        ("release draft --root nowhere.json --expires 2090-01-01T00:00:00Z", 3, "nowhere.json"),
        (
            "release show root.json",
            1,
            "expected an envelope with a payload of type application/vnd.cleanroom.release",
        ),
        ("release sign root.json --root root.json --key a.pem", 1, "application/vnd.cleanroom.release"),
        ("release sign root.json --root root.json", 2, "--key"),
        ("root sign root.json --key a.pem --sign-with cat --as a-offline", 2, "cannot be used with"),
        ("root sign root.json --sign-with cat", 2, "--as"),
        (
            "root sign root.json --sign-with cat --as nobody",
            1,
            "the keys that may: a-offline, b-offline, c-offline",
        ),
        ("root sign root.json --sign-with cat --as a-offline", 1, "not made over this payload"),
        ("root sign root.json --sign-with false --as a-offline", 3, "the signing command `false` failed"),
        ("halt m --root root.json --key a.pem --reason r --out d.json", 2, "expected model:m or partner:m"),
        ("resume m --root root.json --release nowhere.json --denials .", 3, "nowhere.json"),
        ("status", 2, "--root FILE or --service URL"),
    ] {
        let run = folder.run(line);
        assert_eq!(run.status, status, "{line}\n{}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains(part), "{line}\n{}", run.stderr);
    }
    assert_eq!(folder.run("--help").status, 0);
    assert!(folder.ok("--help").contains("Exit status"));
}

#[test]
fn a_command_can_hold_the_key() {
    let folder = Folder::new();
    folder.root();
    folder.ok(&Folder::first_release());
    // openssl stands for a hardware module here: it reads the bytes and writes DER, as pkcs11-tool does.
    let sign = |document: &str, command: &str, name: &str| {
        let line = format!("release sign {document} --root root.json --as {name} --sign-with");
        crate::folder::Run::of(folder.command(&line).arg(command).output().unwrap())
    };
    let wrong = sign("release.draft.json", "openssl dgst -sha384 -sign c.pem", "b-offline");
    assert_eq!(wrong.status, 1, "the wrong key is noticed before anything is written: {}", wrong.stderr);
    assert!(!folder.exists("release.json"));
    let done = sign("release.draft.json", "openssl dgst -sha384 -sign c.pem", "c-offline");
    assert_eq!(done.status, 0, "{}", done.stderr);
    let file = "cat > pae && openssl pkeyutl -sign -rawin -in pae -inkey b.pem";
    let done = sign("release.json", file, "b-offline");
    assert_eq!(done.status, 0, "{}", done.stderr);
    folder.ok("release verify release.json --root root.json");
}

#[test]
fn one_halts_and_the_quorum_resumes() {
    let folder = Folder::new();
    folder.released();
    let status = "status --root root.json --release release.json --denials denials";
    assert_eq!(folder.json(status)["leases"], "granted");
    let halt = |by: &str| {
        let line = format!(
            "halt m --root root.json --release release.json --key {by} --out denials --json --reason"
        );
        crate::folder::Run::of(folder.command(&line).arg("the weights may have leaked").output().unwrap())
    };
    assert_eq!(halt("a-online.pem").status, 1, "an online key halts nothing here");
    let halted = halt("c.pem");
    assert_eq!(halted.status, 0, "{}", halted.stderr);
    let halted: Value = serde_json::from_str(&halted.stdout).unwrap();
    assert_eq!(halted["halted"], serde_json::json!({ "model": "m" }));
    let shown = folder.ok(status);
    assert!(shown.contains("model    m active, HALTED"), "{shown}");
    assert_eq!(folder.json(status)["denials_in_force"][0]["denial"], halted["denial"]);

    let resume = "resume m --root root.json --release release.json --denials denials --out resume.draft.json";
    let drafted = folder.ok(resume);
    assert!(drafted.contains("model:m by c: the weights may have leaked"), "{drafted}");
    for (file, key) in [("resume.draft.json", "a.pem"), ("resume.json", "b.pem")] {
        assert_eq!(folder.json(status)["denials_in_force"].as_array().unwrap().len(), 1);
        folder.ok(&format!("release sign {file} --root root.json --key {key}"));
    }
    let after = folder.json("status --root root.json --release resume.json --denials denials");
    assert_eq!(after["denials_in_force"], serde_json::json!([]));
    assert_eq!(after["release"]["models"][0]["halted"], false);
    let nothing =
        folder.run("resume m --root root.json --release resume.json --denials denials --out x.draft.json");
    assert_eq!(nothing.status, 2);
    assert!(nothing.stderr.contains("nothing to lift"), "{}", nothing.stderr);

    // A denial that nobody of this root signed is not passed over in silence.
    std::fs::write(folder.path("denials/junk.json"), "{}").unwrap();
    assert_eq!(folder.refused(status), "form");
}

#[test]
fn one_halts_the_partners_with_an_attribute() {
    let folder = Folder::new();
    folder.released();
    let draft = "release draft --root root.json --from release.json --partner q=a.pem.pub --grant q=m";
    folder.ok(&format!(
        "{draft} --attributes p=jurisdiction=eu,sector=energy --attributes q=jurisdiction=us --out two.draft.json"
    ));
    for (document, key) in [("two.draft.json", "a.pem"), ("two.json", "b.pem")] {
        folder.ok(&format!("release sign {document} --root root.json --key {key}"));
    }
    let shown = folder.ok("release show two.json");
    assert!(shown.contains("jurisdiction=eu, sector=energy\n"), "{shown}");
    let diff = folder.ok("release diff release.json two.json");
    assert!(diff.contains("+ partners[p].attributes[sector].value: \"energy\""), "{diff}");

    let halt = "--root root.json --release two.json --key c.pem --reason order --out denials";
    let nobody = folder.run(&format!("halt --attribute sector=water {halt}"));
    assert_eq!(nobody.status, 2);
    assert!(nobody.stderr.contains("no partner of release 2 has sector=water"), "{}", nobody.stderr);
    let halted = folder.json(&format!("halt --attribute jurisdiction=eu {halt}"));
    let eu = serde_json::json!({ "attribute": { "name": "jurisdiction", "value": "eu" } });
    assert_eq!((&halted["halted"], &halted["partners"]), (&eu, &serde_json::json!(["p"])));

    let status = folder.ok("status --root root.json --release two.json --denials denials");
    assert!(status.contains("HALTED   attribute:jurisdiction=eu ("), "{status}");
    let report = "report --root root.json --release two.json --denials denials";
    let said = folder.json(report);
    let partners = said["terms"]["partners"].as_array().unwrap();
    let of = |n: usize| (partners[n]["id"].as_str().unwrap(), partners[n]["halted"].as_bool().unwrap());
    assert_eq!([of(0), of(1)], [("p", true), ("q", false)]);
    assert_eq!(partners[0]["attributes"], serde_json::json!(["jurisdiction=eu", "sector=energy"]));
    assert_eq!(said["halts"][0]["target"], "the partners with jurisdiction=eu");
    let text = folder.ok(&format!("{report} --html report.html"));
    assert!(text.contains(", jurisdiction=eu, sector=energy, HALTED\n"), "{text}");
    let page = String::from_utf8(folder.read("report.html")).unwrap();
    for part in ["jurisdiction=eu, sector=energy", "the partners with jurisdiction=eu"] {
        assert!(page.contains(part), "{part}");
    }

    // Another release takes the attribute away, and the quorum sees it; or it lifts the denial.
    let taken = "release draft --root root.json --from two.json --no-attributes p --out three.draft.json";
    assert_eq!(folder.json(taken)["release"]["partners"][0].get("attributes"), None);
    let resume = "--root root.json --release two.json --denials denials --out four.draft.json";
    let drafted = folder.ok(&format!("resume --attribute jurisdiction=eu {resume}"));
    assert!(drafted.contains("attribute:jurisdiction=eu by c: order"), "{drafted}");
    for (line, part) in [
        ("halt --root root.json --key c.pem --reason r --out d.json", "--attribute <NAME=VALUE>"),
        (
            "halt m --attribute a=b --root root.json --key c.pem --reason r --out d.json",
            "cannot be used with",
        ),
        ("halt --attribute A=b --root root.json --key c.pem --reason r --out d.json", "lower-case"),
        ("release draft --root root.json --from two.json --attributes p=a --out x.json", "jurisdiction=eu"),
        ("release draft --root root.json --from two.json --no-attributes x --out x.json", "no partner x"),
    ] {
        let run = folder.run(line);
        assert_eq!(run.status, 2, "{line}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{line}: {}", run.stderr);
    }
    let twice = "release draft --root root.json --from two.json --attributes p=a=b,a=c --out x.json";
    assert_eq!(folder.refused(twice), "repeated");
}

#[test]
fn what_can_be_measured_is_measured_here() {
    let folder = Folder::new();
    folder.root();
    for (name, bytes) in
        [("program", &b"a program"[..]), ("config", b"its configuration"), ("weights", b"a model")]
    {
        std::fs::write(folder.path(name), bytes).unwrap();
    }
    let draft = |rest: &str| format!("release draft --root root.json --expires {EXPIRES} --out {rest}");
    folder.ok(&draft("files.json --image v1=program:program,config:config --model m=weights --deployment x=instance:i-1,role:arn"));
    let files: Value = serde_json::from_slice(&folder.read("files.json")).unwrap();
    // The same in digests is the same release.
    let [image, place] = [&files["images"][0], &files["deployments"][0]];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let [pcr0, pcr1, pcr2] = ["pcr0", "pcr1", "pcr2"].map(|register| text(&image[register]));
    let (pcr3, pcr4, model) =
        (text(&place["pcr3"]), text(&place["pcr4"]), text(&files["models"][0]["sha256"]));
    folder.ok(&draft(&format!(
        "digests.json --image v1={pcr0},{pcr1},{pcr2} --model m={model} --deployment x=pcr3:{pcr3},pcr4:{pcr4}"
    )));
    assert_eq!(folder.read("files.json"), folder.read("digests.json"));
    // One byte more in the program is another image.
    std::fs::write(folder.path("program"), b"a program!").unwrap();
    folder.ok(&draft("other.json --image v1=program:program,config:config --model m=weights"));
    let other: Value = serde_json::from_slice(&folder.read("other.json")).unwrap();
    assert_ne!(other["images"][0]["pcr0"], *pcr0);
    assert_eq!(other["images"][0]["pcr2"], *pcr2);

    for (image, status) in [
        ("nothing.eif", 3),
        ("root.json", 1),
        ("program:program", 3),
        ("a,b", 2),
        ("program:program,config:config,x", 2),
    ] {
        let line = draft(&format!("bad.json --image v1={image} --model m=weights"));
        assert_eq!(folder.run(&line).status, status, "{image}");
    }
    let line =
        draft("bad.json --image v1=program:program,config:config --model m=weights --deployment x=instance");
    assert_eq!(folder.run(&line).status, 2);
    assert!(!folder.exists("bad.json"));
}

/// A release names witnesses whose keys are in the root, how many must have cosigned, and how long the log may run ahead.
#[test]
fn a_release_demands_witnesses() {
    let folder = Folder::new();
    folder.keys();
    let names = ["a", "b", "c"];
    names.iter().for_each(|name| drop(folder.ok(&format!("key new {name}-witness.pem"))));
    let parties = names.map(|name| {
        format!(
            "--authority {name}={name}.pem.pub,{name}-online.pem.pub --witness {name}={name}-witness.pem.pub"
        )
    });
    folder.ok(&format!("root new --room r --expires {EXPIRES} --lease-threshold 1 {}", parties.join(" ")));
    folder.ok("root sign root.draft.json --key a.pem");
    folder.ok("root sign root.json --key c.pem");
    let first = Folder::first_release();
    let witnesses =
        names.map(|name| format!("--witness {name}-witness=http://{name}.example:8720")).join(" ");
    let drafted = folder.json(&format!("{first} {witnesses}"));
    assert_eq!(drafted["release"]["audit"], serde_json::json!({"checkpoint_seconds": 60, "witnesses": 2}));
    let shown = folder.ok("release show release.draft.json");
    assert!(shown.contains("witness     b-witness at http://b.example:8720"), "{shown}");
    assert!(shown.contains("2 of them must have cosigned the log"), "{shown}");

    let next = |options: &str, out: &str| {
        let line = "release draft --root root.json --from release.draft.json";
        folder.json(&format!("{line} {options} --out {out}.draft.json"))["release"]["audit"].clone()
    };
    let kept = serde_json::json!({"checkpoint_seconds": 60, "witnesses": 2});
    assert_eq!(next("--state m=draining", "1"), kept);
    // One that leaves does not lower the quorum.
    assert_eq!(next("--remove-witness c-witness", "2"), kept);
    let given = serde_json::json!({"checkpoint_seconds": 30, "witnesses": 3});
    assert_eq!(next("--witness-quorum 3 --witness-within 30", "3"), given);
    let none = serde_json::json!({"checkpoint_seconds": 0, "witnesses": 0});
    let removed = names.map(|name| format!("--remove-witness {name}-witness")).join(" ");
    assert_eq!(next(&removed, "4"), none);

    let draft = format!("{first} --out no.draft.json");
    assert_eq!(folder.refused(&format!("{draft} --witness a-online=http://a.example:8720")), "dangling");
    assert_eq!(folder.refused(&format!("{draft} {witnesses} --witness-quorum 4")), "range");
    assert_eq!(folder.refused(&format!("{draft} {witnesses} --witness-within 3601")), "range");
    for wrong in ["--witness-quorum 1", "--witness-within 60", "--remove-witness a-witness"] {
        assert_eq!(folder.run(&format!("{draft} {wrong}")).status, 2, "{wrong}");
    }
    assert!(!folder.exists("no.draft.json"));
}
