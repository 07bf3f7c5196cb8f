//! Documents, policies and measurements as partners and auditors hand them to `cleanroom`: what is understood, what is not, and
//! what is said about it. The documents are forged, under roots of the tests' own.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::policy::Policy;
use cleanroom_forge::{Cbor, Certificate, Extension, Forge, Key, Name, Time, pcr, pem};
use serde_json::Value;

/// When the forged document was made, as `--at` takes it.
const AT: &str = "2026-03-01T12:00:00Z";

fn cleanroom(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cleanroom")).args(arguments).output().expect("the program runs")
}

/// As [`cleanroom`], with something on standard input.
fn cleanroom_reads(arguments: &[&str], input: &[u8]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_cleanroom"));
    let program = program.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().expect("the program runs");
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

fn json(output: &Output) -> Value {
    let object = serde_json::from_slice(&output.stdout);
    assert!(object.is_ok(), "{}{}", text(&output.stdout), text(&output.stderr));
    object.unwrap()
}

fn write(directory: &Path, name: &str, contents: &[u8]) -> String {
    let path = directory.join(name);
    std::fs::write(&path, contents).expect("the file can be written");
    path.to_str().expect("a temporary path is UTF-8").to_owned()
}

/// A document and a policy that accepts it, in a folder of their own.
struct Case {
    directory: tempfile::TempDir,
    document: Vec<u8>,
    root: Vec<u8>,
}

impl Case {
    fn new(change: impl FnOnce(&mut Forge)) -> Self {
        let mut forge = Forge::new();
        change(&mut forge);
        let certificates = forge.certificates();
        let document = forge.document_with(&certificates);
        Self { directory: tempfile::tempdir().unwrap(), document, root: certificates[0].clone() }
    }

    fn file(&self, name: &str, contents: &[u8]) -> String {
        write(self.directory.path(), name, contents)
    }

    fn policy(&self, more: &str) -> String {
        let pcrs = [0, 1, 2].map(|index| format!("pcr{index} = \"{}\"\n", hex::encode(pcr(index))));
        let text = format!(
            "version = 1\n[[trust_anchor]]\nname = \"forge\"\ntier = \"development\"\ncertificate = '''\n{}'''\n\
             [[image]]\nname = \"one\"\n{}{more}",
            pem(&self.root),
            pcrs.concat()
        );
        self.file("trust.toml", text.as_bytes())
    }

    fn verify(&self, contents: &[u8], at: &str, more: &str) -> Output {
        let (document, policy) = (self.file("document", contents), self.policy(more));
        cleanroom(&["verify", "--document", &document, "--policy", &policy, "--at", at])
    }
}

#[test]
fn a_document_is_verified_in_every_form() {
    let case = Case::new(|_| ());
    let (standard, digits) = (STANDARD.encode(&case.document), hex::encode(&case.document));
    let url = standard.replace('+', "-").replace('/', "_");
    for (form, contents) in [
        ("base64url without padding", url.trim_end_matches('=').to_owned()),
        ("0x", format!("0x{digits}")),
        ("JSON", format!("{{\"attestation\": {{\"document\": \"{standard}\"}}}}")),
        ("a data URI", format!("data:application/cbor;base64,{standard}")),
        ("a byte order mark", format!("\u{feff}{standard}\r\n")),
        ("PEM", format!("-----BEGIN ATTESTATION-----\n{standard}\n-----END ATTESTATION-----\n")),
    ] {
        let output = case.verify(contents.as_bytes(), AT, "");
        assert_eq!(output.status.code(), Some(3), "{form}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).starts_with("PARTIAL"), "{form}");
    }
}

/// A file that was not understood is the user's to correct. Nothing was judged, so nothing says FAIL or DO NOT TRUST.
#[test]
fn what_is_not_understood_is_no_verdict() {
    let case = Case::new(|_| ());
    let truncated = STANDARD.encode(&case.document[1..]);
    for (contents, found) in [
        (&b"hello"[..], "text that is neither hexadecimal nor base64"),
        (truncated.as_bytes(), "base64 of bytes that begin with 0x44"),
        (b"{\"error\": \"no such enclave\"}", "JSON, of which no member is a document"),
        (b"\x7fELF\x02\x01\xff", "bytes that are not text and begin with 0x7f"),
        (b"", "nothing in it"),
    ] {
        let output = case.verify(contents, AT, "");
        assert_eq!(output.status.code(), Some(2), "{found}: {}", text(&output.stdout));
        assert!(output.stdout.is_empty());
        let said = text(&output.stderr);
        assert!(said.contains("is not an attestation document") && said.contains(found), "{said}");
        assert!(!said.contains("FAIL") && !said.contains("trust"), "{said}");
        let explained = cleanroom_reads(&["explain", "-", "--json"], contents);
        assert_eq!(explained.status.code(), Some(2));
        let error = json(&explained);
        assert_eq!(error["error"]["code"], "document-not-understood");
        assert!(error["error"]["message"].as_str().unwrap().contains("neither an enclave image"), "{error}");
    }
    // A document that is understood and wrong is judged.
    let output = case.verify(&case.document[..case.document.len() - 1], AT, "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("cbor-truncated"));
}

#[test]
fn a_refused_document_is_explained_as_far_as_it_can_be_read() {
    let case = Case::new(|forge| {
        forge.document.fields.insert(0, (Cbor::text("pcr\u{1b}[2J"), Cbor::Array(vec![Cbor::Null])));
    });
    let output = cleanroom_reads(&["explain", "-"], &case.document);
    assert_eq!(output.status.code(), Some(1));
    let page = text(&output.stdout);
    assert!(page.contains("REFUSED") && page.contains("field-unknown"), "{page}");
    assert!(page.contains("i-0123456789abcdef0-enc0fedcba987654321"), "{page}");
    assert!(page.contains(&hex::encode(pcr(0))) && page.contains("forged.nitro-enclaves"), "{page}");
    assert!(page.contains("`pcr\\u{1b}[2J`") && !page.contains('\u{1b}'), "{page}");
    let explained = json(&cleanroom_reads(&["explain", "-", "--json"], &case.document));
    assert_eq!(explained["refused"]["code"], "field-unknown");
    assert_eq!(explained["pcrs"]["nitro-enclave"]["1"], hex::encode(pcr(1)));
    assert_eq!(explained["certificates"].as_array().unwrap().len(), 5);
}

/// What is zero says something on a machine with a TPM.
#[test]
fn a_zero_register_of_a_tpm_is_shown_where_it_matters() {
    let case = Case::new(|forge| {
        forge.document.become_tpm("i-0123456789abcdef0-tpm0000000000000000");
        forge.document.put_pcr(13, &[0; 48]);
    });
    let page = cleanroom_reads(&["explain", "-"], &case.document);
    let page = text(&page.stdout);
    assert!(page.contains(&format!("PCR12  {}", "0".repeat(96))), "{page}");
    assert!(page.contains("what was added at boot beside the image"), "{page}");
    assert!(!page.contains("PCR13"), "{page}");
}

#[test]
fn a_verdict_names_its_time_its_policy_and_a_wrong_clock() {
    // Four seconds after its leaf began, as AWS has it.
    let case = Case::new(|forge| {
        forge.document.put("timestamp", Cbor::Unsigned((cleanroom_forge::NOW - 3596) * 1000));
    });
    let policy = case.policy("[freshness]\nmax_age = \"5m\"\n");
    let document = case.file("document", &case.document);
    let verify =
        |at: &str| cleanroom(&["verify", "--document", &document, "--policy", &policy, "--at", at, "--json"]);
    // A clock that is slow by eight seconds, in three notations.
    for at in ["2026-03-01T10:59:56Z", "2026-03-01T11:59:56+01:00", "1772362796"] {
        let output = verify(at);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stdout));
        assert_eq!(json(&output)["judged_at"], "2026-03-01T10:59:56.000Z");
    }
    let digest = json(&verify("1772362796"))["policy_sha256"].as_str().unwrap().to_owned();
    let pinned =
        ["verify", "--document", &document, "--policy", &policy, "--policy-sha256", &digest, "--at", AT];
    assert_eq!(cleanroom(&pinned).status.code(), Some(1), "an hour old, and not another policy");

    let slow = verify("2026-03-01T10:58:00Z");
    assert_eq!(slow.status.code(), Some(1));
    assert_eq!(json(&slow)["rejection"]["clock"], serde_json::json!({ "looks": "slow", "by_ms": 124_000 }));
    let people =
        cleanroom(&["verify", "--document", &document, "--policy", &policy, "--at", "2026-03-01T10:58:00Z"]);
    let page = text(&people.stdout);
    assert!(page.contains("your clock looks slow by 2m 4s"), "{page}");
    assert!(page.contains("judged at") && page.contains(&digest), "{page}");
    let fast = cleanroom(&["verify", "--document", &document, "--policy", &policy, "--at", AT]);
    assert!(text(&fast.stdout).contains("your clock looks fast by 59m 56s"), "{}", text(&fast.stdout));
}

#[test]
fn a_wrong_policy_is_shown_with_its_layout() {
    let case = Case::new(|_| ());
    let document = case.file("document", &case.document);
    let policy = case.file(
        "wrong.toml",
        format!("version = 1\n[[image]]\nname = \"\u{9b}x\"\npcr0 = \"0x{}\"\n", "a".repeat(98)).as_bytes(),
    );
    let output = cleanroom(&["verify", "--document", &document, "--policy", &policy]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(!said.contains("\\u{a}") && said.lines().count() > 3, "{said}");
    assert!(
        said.lines().skip(1).all(|line| line.starts_with("  ")),
        "only the first line begins a message: {said}"
    );
    assert!(said.contains("line 4") && said.contains("got 98 hexadecimal digits"), "{said}");
    // What a stranger could have written still steers nothing.
    let policy = case.file("escape.toml", b"version = 1\nx = \"\x1b[2J");
    let said = cleanroom(&["verify", "--document", &document, "--policy", &policy]);
    assert!(!text(&said.stderr).contains('\u{1b}'), "{}", text(&said.stderr));
}

#[test]
fn errors_of_usage_are_json_too() {
    for arguments in [
        &["measure", "--json"][..],
        &["--json", "no-such-command"],
        &["verify", "--json", "--document", "x", "--at", "yesterday"],
        &["--json"],
    ] {
        let output = cleanroom(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let error = json(&output);
        assert_eq!(error["error"]["code"], "usage", "{arguments:?}");
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
        assert!(!text(&output.stdout).contains('\u{1b}'));
    }
    // Behind `--` it is a file's name.
    let output = cleanroom(&["measure", "--no-such", "--", "--json"]);
    assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    let help = cleanroom(&["measure", "--help", "--json"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("describe-eif"));
}

/// A certificate as `openssl x509 -req` makes them: version 1, issued by itself.
fn signer(not_after: &str) -> Vec<u8> {
    let key = Key::generate();
    let name = Name::of("signer of images");
    let times = (Time::utc("260101000000Z"), Time::utc(not_after));
    let mut certificate = Certificate::new(name.clone(), name, &key, times.0, times.1);
    certificate.version = Vec::new();
    certificate.extensions = Vec::<Extension>::new();
    certificate.sign(&key)
}

#[test]
fn a_signer_a_role_and_an_instance_are_measured() {
    let directory = tempfile::tempdir().unwrap();
    let der = signer("260201000000Z");
    let sha384 = |parts: &[&[u8]]| cleanroom_attestation::digest::Sha384Digest::of(parts);
    let pcr8 = sha384(&[&[0; 48], sha384(&[&der]).as_bytes()]).to_string();
    for (name, contents) in [("signer.pem", pem(&der).into_bytes()), ("signer.der", der.clone())] {
        let path = write(directory.path(), name, &contents);
        let measured = json(&cleanroom(&["measure", "--certificate", &path, "--json"]));
        assert_eq!(measured["deployment"]["pcr8"], pcr8, "{name}");
        let page = cleanroom(&["measure", "--certificate", &path]);
        let page = text(&page.stdout);
        assert!(page.contains(&pcr8) && page.contains("EXPIRED"), "{page}");
        assert!(page.contains("CN=signer of images"), "{page}");
        assert!(page.contains("from 2026-01-01T00:00:00.000Z to 2026-02-01T00:00:00.000Z"), "{page}");
    }
    let (role, instance) = ("arn:aws:iam::123456789012:role/cleanroom", "i-0123456789abcdef0");
    let table = cleanroom(&["measure", "--role", role, "--instance", instance, "--toml", "x"]);
    // Names are not hashed before they are extended, as images and certificates are.
    let [pcr3, pcr4] = [role, instance].map(|name| sha384(&[&[0; 48], name.as_bytes()]));
    assert_eq!(text(&table.stdout), format!("[deployment]\npcr3 = [\"{pcr3}\"]\npcr4 = [\"{pcr4}\"]\n"));
    for wrong in [
        ["measure", "--role", "cleanroom"],
        ["measure", "--instance", "I-0123456789ABCDEF0"],
        ["measure", "--certificate", "Cargo.toml"],
    ] {
        let output = cleanroom(&wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", text(&output.stderr));
    }
}

#[test]
fn the_policies_of_the_page_for_partners_can_be_read() {
    let page = include_str!("../../docs/partner.md");
    let mut policies = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut of_images = policies.next().unwrap().replace("SHA256\"", &format!("{}\"", "cd".repeat(32)));
    for register in ["PCR0", "PCR1", "PCR2"] {
        of_images = of_images.replace(&format!("\"{register}\""), &format!("\"{}\"", "ab".repeat(48)));
    }
    assert_eq!(Policy::from_toml(&of_images).err(), None, "{of_images}");
    // Nothing but the root is missing here.
    let error = Policy::from_toml(policies.next().unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("the root in [release] is invalid"), "{error}");
}

#[test]
fn a_missing_policy_says_what_a_policy_is() {
    let directory = tempfile::tempdir().unwrap();
    let document = write(directory.path(), "document", b"");
    let missing = directory.path().join("trust.toml");
    let output = cleanroom(&["verify", "--document", &document, "--policy", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4));
    let said = text(&output.stderr);
    assert!(said.contains("could not be read") && said.contains("cleanroom measure IMAGE --toml"), "{said}");
}
