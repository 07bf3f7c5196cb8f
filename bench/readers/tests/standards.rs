//! COSE receipts and attestation results, read by other people's code; and the same with something changed, which it refuses.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{
    Checkpoint, Edge, Entry, NoteKey, SignedCheckpoint, StoredTiles, Tile, boot_of, cose_to_be_signed,
    inclusion_path, origin,
};
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Expectation, Outcome, appraise};
use cleanroom_standards::{Place, cose_receipt};
use ct_merkle::{InclusionProof, RootHash};
use ear::{Algorithm, Ear, TrustTier};
use serde_json::{Value, json};
use sha2::Sha256;

/// One entry of a log, with all that shows where it stands.
struct Proven {
    entry: Vec<u8>,
    index: u64,
    size: u64,
    path: Vec<Sha256Digest>,
    root: Sha256Digest,
    receipt: Vec<u8>,
    key: Vec<u8>,
}

/// Entry `index` of a log of `size` entries, whose checkpoint is signed as an enclave signs it.
fn proven(index: u64, size: u64) -> Proven {
    let pair = Ed25519KeyPair::generate().unwrap();
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let (key, boot) = (NoteKey::of_boot(der.as_ref()).unwrap(), boot_of(der.as_ref()));
    let entries: Vec<Vec<u8>> = (0..size).map(|at_ms| Entry::Shutdown { at_ms }.to_bytes()).collect();
    let mut edge = Edge::default();
    let files: HashMap<String, Vec<u8>> =
        edge.append(&entries).into_iter().map(|(tile, bytes)| (tile.to_string(), bytes)).collect();
    let checkpoint = Checkpoint { origin: origin(&boot), size, root: edge.root() };
    let note = checkpoint.signed(&key, pair.sign(checkpoint.text().as_bytes()).as_ref());
    let cose = pair.sign(&cose_to_be_signed(&boot, &checkpoint.root));
    let note = SignedCheckpoint::parse(&note).unwrap().with(key.cose_line(cose.as_ref()));
    let tiles = StoredTiles { size, read: |tile: Tile| files.get(&tile.to_string()).cloned() };
    let path = inclusion_path(&tiles, index, size).unwrap();
    let place = Place { boot: &boot, index, size, path: &path };
    let receipt = cose_receipt(&place, note.cose_signature(&key).unwrap()).unwrap();
    let entry = entries[usize::try_from(index).unwrap()].clone();
    Proven { entry, index, size, path, root: checkpoint.root, receipt, key: der.as_ref().to_vec() }
}

const PLACES: [(u64, u64); 8] =
    [(0, 1), (0, 2), (1, 2), (4, 5), (99, 300), (255, 256), (256, 257), (1234, 5000)];

#[test]
fn ct_merkle_reads_our_inclusion_proofs() {
    for (index, size) in PLACES {
        let Proven { entry, path, root, .. } = proven(index, size);
        let root = |size| RootHash::<Sha256>::new((*root.as_bytes()).into(), size);
        let bytes: Vec<u8> = path.iter().flat_map(|hash| *hash.as_bytes()).collect();
        let proof = InclusionProof::<Sha256>::try_from_bytes(bytes).unwrap();
        root(size).verify_inclusion(&entry, index, &proof).unwrap();
        assert!(root(size).verify_inclusion(&b"another entry".to_vec(), index, &proof).is_err());
        assert!(root(size).verify_inclusion(&entry, size, &proof).is_err());
    }
}

/// A Python with `scitt-cose`, in the target folder; or why there is none.
fn python() -> Result<std::path::PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scitt-cose");
    let (python, ready) = (folder.join("bin/python"), folder.join("ready"));
    if ready.exists() {
        return Ok(python);
    }
    let run = |command: &mut Command| {
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {error}")) }
    };
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "scitt-cose==0.5.0"]))?;
    std::fs::write(ready, "").map_err(|error| error.to_string())?;
    Ok(python)
}

#[test]
fn scitt_cose_reads_our_cose_receipts() {
    let python = match python() {
        Ok(python) => python,
        Err(problem) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "scitt-cose is needed in CI: {problem}");
            println!("NOT CHECKED: scitt-cose could not be installed: {problem}");
            return;
        }
    };
    const SCRIPT: &str = "import sys, scitt_cose
receipt, entry, key = (bytes.fromhex(part) for part in sys.argv[1:4])
import base64
pem = b'-----BEGIN PUBLIC KEY-----\\n' + base64.b64encode(key) + b'\\n-----END PUBLIC KEY-----\\n'
read = scitt_cose.verify_receipt(receipt, leaf_entry_hex=entry.hex(), log_public_key_pem=pem)
print(read.ok, read.leaf_index, read.tree_size, read.root)";
    let read = |receipt: &[u8], entry: &[u8], key: &[u8]| {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let output = Command::new(&python)
            .args(["-c", SCRIPT, &hex(receipt), &hex(entry), &hex(key)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    for (index, size) in [(0, 1), (4, 5), (1234, 5000)] {
        let proven = proven(index, size);
        let expected = format!("True {} {} {}", proven.index, proven.size, proven.root);
        assert_eq!(read(&proven.receipt, &proven.entry, &proven.key), expected);
        assert!(read(&proven.receipt, b"another entry", &proven.key).starts_with("False"));
        let mut changed = proven.receipt.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(read(&changed, &proven.entry, &proven.key).starts_with("False"));
    }
}

/// Cases of the verifier's vectors, as documents, policies and times.
fn cases() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/verification");
    let read = |name| std::fs::read(folder.join(name)).unwrap();
    let cases = ["genuine.json", "session.json"].map(read);
    cases.iter().flat_map(|cases| serde_json::from_slice::<Vec<Value>>(cases).unwrap()).collect()
}

#[test]
fn the_ear_crate_reads_our_attestation_results() {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(48);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let key = json!({ "kty": "EC", "crv": "P-384", "x": x, "y": y }).to_string();
    let sign =
        |message: &[u8]| pair.sign(&SystemRandom::new(), message).ok().map(|made| made.as_ref().to_vec());
    let read = |token: &str| Ear::from_jwt_jwk(token, Algorithm::ES384, key.as_bytes());
    let mut seen = [0; 2];
    for case in cases() {
        let request = &case["request"];
        let document = STANDARD.decode(request["document"].as_str().unwrap()).unwrap();
        let Ok(policy) = Policy::from_toml(request["policy"].as_str().unwrap()) else { continue };
        let at = Timestamp::from_millis(request["at_ms"].as_u64().unwrap());
        let verdict = appraise(&document, &policy, &Expectation::default(), at, None);
        let name = Sha256Digest::of(&[b"the verifier's key"]);
        let wrapped = cleanroom_standards::ear(&verdict, &document, &name, sign).unwrap();
        let record: (String, String, u8) = serde_json::from_str(&wrapped).unwrap();
        assert!(record.0.starts_with("application/eat+jwt;") && record.2 == 8, "{record:?}");
        let token = String::from_utf8(URL_SAFE_NO_PAD.decode(&record.1).unwrap()).unwrap();
        let result = read(&token).unwrap_or_else(|error| panic!("{}: {error}", case["id"]));
        assert_eq!(result.profile, ear::EAR_PROFILE);
        assert_eq!(u64::try_from(result.iat).unwrap(), at.as_seconds());
        assert!(result.raw_evidence.is_some());
        // These roots are development roots, which stand for no hardware.
        let appraisal = &result.submods["enclave"];
        let expected = TrustTier::Contraindicated;
        assert_eq!((appraisal.status, result.status), (expected, Some(expected)), "{}", case["id"]);
        if verdict.accepted().is_ok() {
            assert_eq!(appraisal.trust_vector.hardware.value(), 97);
            assert_eq!(appraisal.trust_vector.executables.value(), 3);
        } else {
            assert_eq!(verdict.outcome(), Outcome::Fail);
        }
        seen[usize::from(verdict.accepted().is_err())] += 1;
        let middle = token.len() / 2;
        let other = if token.as_bytes()[middle] == b'A' { "B" } else { "A" };
        let mut changed = token.clone();
        changed.replace_range(middle..=middle, other);
        assert!(read(&changed).is_err());
    }
    assert!(seen.iter().all(|seen| *seen > 3), "{seen:?}");
}
