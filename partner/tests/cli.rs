//! The `cleanroom` program as people and scripts run it: exit codes, text, JSON.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cleanroom_forge::boot_image::unified_kernel;
use serde_json::Value;

fn cleanroom(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cleanroom")).args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON object")
}

fn write(directory: &Path, name: &str, contents: &[u8]) -> String {
    let path = directory.join(name);
    std::fs::write(&path, contents).expect("the file can be written");
    path.to_str().expect("a temporary path is UTF-8").to_owned()
}

/// An image of format version 3 with a kernel, a command line and one ramdisk.
fn image() -> Vec<u8> {
    let sections: [(u16, &[u8]); 3] = [(1, b"kernel"), (2, b"quiet \x1b[31m"), (3, b"ramdisk")];
    let mut image = b".eif\0\x03".to_vec();
    image.resize(27, 0);
    image.push(sections.len() as u8);
    let mut offset = 548;
    let mut offsets = [0_u64; 32];
    let mut lengths = [0_u64; 32];
    let mut body = Vec::new();
    for (index, (kind, contents)) in sections.iter().enumerate() {
        (offsets[index], lengths[index]) = (offset, contents.len() as u64);
        offset += 12 + contents.len() as u64;
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&[0; 2]);
        body.extend_from_slice(&(contents.len() as u64).to_be_bytes());
        body.extend_from_slice(contents);
    }
    offsets.iter().chain(&lengths).for_each(|field| image.extend_from_slice(&field.to_be_bytes()));
    image.extend_from_slice(&[0; 4]);
    // CRC-32 of the header and the sections, bit by bit.
    let crc = !image.iter().chain(&body).fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    });
    image.extend_from_slice(&crc.to_be_bytes());
    image.extend_from_slice(&body);
    image
}

#[test]
fn an_image_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a.eif", &image());
    let output = cleanroom(&["measure", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report = text(&output.stdout);

    let measured = json(&cleanroom(&["measure", &path, "--json"]));
    for pcr in ["pcr0", "pcr1", "pcr2"] {
        let value = measured[pcr].as_str().unwrap();
        assert_eq!(value.len(), 96);
        assert!(report.contains(value), "{pcr}");
    }
    assert_eq!(measured["pcr8"], Value::Null);
    assert_eq!(measured["sections"][2]["kind"], "ramdisk");

    let table = cleanroom(&["measure", &path, "--toml", "a"]);
    assert!(text(&table.stdout).starts_with("[[image]]\nname = \"a\"\npcr0 = \""));

    let mut piped = Command::new(env!("CARGO_BIN_EXE_cleanroom"));
    let piped = piped.args(["measure", "-", "--json"]).stdin(std::fs::File::open(&path).unwrap());
    assert_eq!(json(&piped.output().unwrap()), measured);
}

#[test]
fn a_unified_kernel_image_is_measured_and_explained() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a.efi", &unified_kernel("252.4").bytes());
    let measured = json(&cleanroom(&["measure", &path, "--json"]));
    let people = cleanroom(&["measure", &path]);
    let explained = cleanroom(&["explain", &path]);
    let table = cleanroom(&["measure", &path, "--toml", "a"]);
    let table = text(&table.stdout);
    assert!(table.starts_with("[[nitrotpm_image]]\nname = \"a\"\n"), "{table}");
    for register in ["4", "7", "12"] {
        let value = measured[format!("pcr{register}")].as_str().unwrap();
        assert!(text(&people.stdout).contains(value), "{register}");
        assert!(text(&explained.stdout).contains(value), "{register}");
        assert!(table.contains(&format!("pcrs.{register} = \"{value}\"\n")), "{register}");
    }
    assert_eq!(measured["pcr12"], "0".repeat(96));
    assert!(text(&explained.stdout).contains("Secure Boot: whether it is on, and its keys"));
    assert_eq!(json(&cleanroom(&["explain", &path, "--json"])), measured);
    for command in ["measure", "explain"] {
        let mut piped = Command::new(env!("CARGO_BIN_EXE_cleanroom"));
        let piped = piped.args([command, "-", "--json"]).stdin(std::fs::File::open(&path).unwrap());
        assert_eq!(json(&piped.output().unwrap()), measured, "{command}");
    }
    // An instance with a NitroTPM has no register for these.
    let refused = cleanroom(&["measure", &path, "--instance", "i-0123456789abcdef0", "--json"]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(json(&refused)["error"]["code"], "boot-image-deployment");

    let mut image = unified_kernel("252.4");
    image.sections.push((".cmdline", b"a\x1b[2Jb".to_vec()));
    let path = write(directory.path(), "twice.efi", &image.bytes());
    for command in ["measure", "explain"] {
        let output = cleanroom(&[command, &path, "--json"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(json(&output)["error"]["code"], "boot-image-section-twice");
    }
    image.sections.remove(3);
    let path = write(directory.path(), "other.efi", &image.bytes());
    assert!(!text(&cleanroom(&["explain", &path]).stdout).contains('\x1b'));
}

#[test]
fn a_damaged_image_is_refused_with_a_code() {
    let directory = tempfile::tempdir().unwrap();
    let mut image = image();
    *image.last_mut().unwrap() ^= 1;
    let path = write(directory.path(), "a.eif", &image);
    for command in ["measure", "explain"] {
        let output = cleanroom(&[command, &path, "--json"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(json(&output)["error"]["code"], "image-crc");
        let output = cleanroom(&[command, &path]);
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).starts_with("cleanroom: "), "{}", text(&output.stderr));
        assert!(text(&output.stderr).trim_end().ends_with("[image-crc]"));
    }
}

#[test]
fn an_image_is_explained_without_steering_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a.eif", &image());
    let output = cleanroom(&["explain", &path]);
    assert_eq!(output.status.code(), Some(0));
    let report = text(&output.stdout);
    assert!(report.contains("quiet \\u{1b}[31m"), "{report}");
    assert!(!report.contains('\x1b'));
    assert!(report.contains("not asked  signature"));
}

#[test]
fn what_cannot_be_read_is_not_judged() {
    let directory = tempfile::tempdir().unwrap();
    let policy = write(directory.path(), "trust.toml", b"");
    let absent = directory.path().join("absent");
    let absent = absent.to_str().unwrap();
    let folder = directory.path().to_str().unwrap();
    for arguments in [
        vec!["measure", absent],
        vec!["measure", folder],
        vec!["explain", absent],
        vec!["explain", folder],
        vec!["verify", "--document", absent, "--policy", absent],
    ] {
        let output = cleanroom(&arguments);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {}", text(&output.stderr));
    }
    // A policy that is there and wrong is the user's to correct.
    let output = cleanroom(&["verify", "--document", absent, "--policy", &policy]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn usage_is_explained() {
    for arguments in [&[][..], &["measure"], &["measure", "a", "--toml", "a", "--json"], &["no-such"]] {
        assert_eq!(cleanroom(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for (argument, value) in [("--at", "yesterday"), ("--nonce", "xyz"), ("--nonce", ""), ("--pcr16", "00")] {
        let output = cleanroom(&["verify", "--document", "a", argument, value]);
        assert_eq!(output.status.code(), Some(2), "{argument} {value}");
        assert!(text(&output.stderr).contains("expected"), "{}", text(&output.stderr));
    }
    let help = cleanroom(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("3  partial"));
}

// Documents that AWS signed.

/// The folder of documents that AWS signed, if this machine has it.
fn aws_documents() -> Option<(PathBuf, Value)> {
    let named = std::env::var_os("CLEANROOM_AWS_VECTORS").map(PathBuf::from);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let beside = ["../shared/vectors", "../../shared/vectors"].map(|beside| repository.join(beside));
    let folder = named.into_iter().chain(beside).find(|folder| folder.join("index.json").is_file());
    let Some(folder) = folder else {
        let missing = "the documents of AWS are absent: set CLEANROOM_AWS_VECTORS to their folder";
        // A gate that passes by not testing is none.
        assert!(!std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1"), "{missing}");
        eprintln!("NOT TESTED: {missing}");
        return None;
    };
    let index = std::fs::read_to_string(folder.join("index.json")).expect("the index can be read");
    Some((folder, serde_json::from_str(&index).expect("the index is JSON")))
}

/// A document of an enclave that is not in debug mode: its path, and its time as milliseconds.
fn aws_document() -> Option<(String, u64)> {
    let (folder, index) = aws_documents()?;
    let found = index["documents"]
        .as_array()
        .unwrap()
        .iter()
        .find(|document| document["pcr_field"] == "pcrs" && document["debug_pcr0_1_2_zero"] == false);
    let document = found.expect("the index has such a document");
    let path = folder.join(document["file"].as_str().unwrap());
    Some((path.to_str().unwrap().to_owned(), document["timestamp_ms"].as_u64().unwrap()))
}

fn policy_for(explained: &Value, name: &str) -> String {
    let pcrs = &explained["pcrs"]["nitro-enclave"];
    let pcr = |index: &str| pcrs[index].as_str().unwrap().to_owned();
    format!(
        "version = 1\n[[trust_anchor]]\nname = \"aws\"\n[[image]]\nname = \"{name}\"\npcr0 = \"{}\"\npcr1 = \"{}\"\npcr2 = \"{}\"\n",
        pcr("0"),
        pcr("1"),
        pcr("2")
    )
}

#[test]
fn a_document_of_aws_is_explained_and_verified() {
    let Some((document, _)) = aws_document() else { return };
    let output = cleanroom(&["explain", &document, "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let explained = json(&output);
    assert!(explained["genuine"].as_array().unwrap().iter().all(|check| check["rejection"].is_null()));
    assert!(explained["certificates"].as_array().unwrap().len() > 2);
    let people = cleanroom(&["explain", &document]);
    assert!(text(&people.stdout).contains("the parent instance's id"));
    assert!(!text(&people.stdout).contains("FAIL"));

    let directory = tempfile::tempdir().unwrap();
    let policy = write(directory.path(), "trust.toml", policy_for(&explained, "a").as_bytes());
    let at = explained["timestamp"].as_str().unwrap();
    let verify = |extra: &[&str]| {
        let arguments =
            [&["verify", "--document", &document, "--policy", &policy, "--at", at], extra].concat();
        cleanroom(&arguments)
    };
    // Genuine and the right image; nobody asked about the rest.
    let partial = verify(&[]);
    assert_eq!(partial.status.code(), Some(3), "{}", text(&partial.stdout));
    assert!(text(&partial.stdout).starts_with("PARTIAL"));
    assert!(text(&partial.stdout).contains("not asked  give --pcr16"));
    // With a challenge that nobody sent.
    let refused = verify(&["--nonce", "00112233445566778899aabbccddeeff", "--json"]);
    assert_eq!(refused.status.code(), Some(1));
    let verdict = json(&refused);
    assert_eq!((&verdict["outcome"], &verdict["axes"]["freshness"]), (&"fail".into(), &"failed".into()));
    assert_eq!(verdict["rejection"]["code"], "nonce-mismatch");
    // Now, years later.
    let expired = cleanroom(&["verify", "--document", &document, "--policy", &policy]);
    assert_eq!(expired.status.code(), Some(1));
    assert!(text(&expired.stdout).contains("not reached: the document is not genuine"));
}

#[test]
fn a_changed_document_of_aws_is_explained_as_not_genuine() {
    let Some((document, _)) = aws_document() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(document).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    // As text, which is how people pass documents on.
    let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = write(directory.path(), "a.hex", hexadecimal.as_bytes());
    let output = cleanroom(&["explain", &path]);
    assert_eq!(output.status.code(), Some(0), "it is well formed");
    assert!(text(&output.stdout).contains("document-signature"), "{}", text(&output.stdout));
}

#[cfg(feature = "online")]
#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bank.key");
    let key = path.to_str().unwrap();
    assert_eq!(cleanroom(&["key", "new", "--key", key]).status.code(), Some(0));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = cleanroom(&["--json", "key", "new", "--key", key]);
    assert_eq!(json(&again)["error"]["code"], "key-exists");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let exposed = cleanroom(&["--json", "key", "show", "--key", key]);
    assert_eq!(json(&exposed)["error"]["code"], "key-exposed");
    assert!(text(&exposed.stdout).contains(&format!("chmod 600 {key}")));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(cleanroom(&["key", "show", "--key", key]).status.code(), Some(0));
}
