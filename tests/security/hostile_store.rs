//! Hostile stores: whatever is done to a log, the audit finds it and names the place.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::log::{
    BootRecord, Checkpoint, Edge, Entry, Frontier, NoteKey, SignedCheckpoint, WitnessKey, boot_of, bundle,
    consistency_path, entries_of_bundle, inclusion_path, leaf_hash, origin, verify_consistency,
    verify_inclusion,
};
use cleanroom_attestation::receipt::{Commitment, Finish, Part, Receipt, Salt, SignedReceipt};
use cleanroom_attestation::release::PublicKey;
use cleanroom_partner::audit::{Against, Report, State, Store, StoredHashes, Witnesses, audit};
use cleanroom_partner::receipts::ReceiptFolder;
use cleanroom_tests::authorities::Authorities;
use cleanroom_tests::platform::World;

/// Entries of the log that is attacked: three bundles.
const SIZE: usize = 600;
/// Where the partner's receipts stand.
const RECEIPTS: [u64; 3] = [10, 300, 590];

/// An enclave's log, as its keeper would have signed it.
struct Enclave {
    key: Ed25519KeyPair,
    receipts: Vec<SignedReceipt>,
    entries: Vec<Vec<u8>>,
}

impl Enclave {
    fn new() -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        let model = ModelId::new("demo").unwrap();
        let spki = spki(&key);
        let boot = BootRecord::new(&spki, model, Sha256Digest::of(&[b"model"]), 1, b"document");
        let mut entries = vec![Entry::Boot(boot).to_bytes()];
        let mut receipts: Vec<SignedReceipt> = Vec::new();
        for index in 1..SIZE as u64 - 1 {
            let entry = if RECEIPTS.contains(&index) {
                let receipt = receipt(&key, index, receipts.len() as u64 + 1, receipts.last(), b"partner");
                let entry = Entry::Receipt { sha256: receipt.digest() };
                receipts.push(receipt);
                entry
            } else {
                Entry::Receipt { sha256: Sha256Digest::of(&[&index.to_be_bytes()]) }
            };
            entries.push(entry.to_bytes());
        }
        entries.push(Entry::Shutdown { at_ms: 9 }.to_bytes());
        Self { key, receipts, entries }
    }

    fn boot(&self) -> Sha256Digest {
        boot_of(&spki(&self.key))
    }

    /// Writes the log of some entries into `store`, and gives the boot's folder.
    fn write(&self, store: &Path, entries: &[Vec<u8>]) -> PathBuf {
        let folder = store.join(self.boot().to_string());
        let _ = fs::remove_dir_all(&folder);
        let mut edge = Edge::default();
        for (tile, bytes) in edge.append(entries) {
            let path = folder.join(tile.to_string());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let note = self.checkpoint(edge.size(), edge.root(), &self.key);
        fs::write(folder.join("checkpoint"), note).unwrap();
        folder
    }

    fn checkpoint(&self, size: u64, root: Sha256Digest, key: &Ed25519KeyPair) -> Vec<u8> {
        let checkpoint = Checkpoint { origin: origin(&self.boot()), size, root };
        let note_key = NoteKey::of_boot(&spki(&self.key)).unwrap();
        checkpoint.signed(&note_key, key.sign(checkpoint.text().as_bytes()).as_ref())
    }

    /// The partner's folder with its receipts.
    fn keep(&self, folder: &Path, receipts: &[SignedReceipt]) -> ReceiptFolder {
        let folder = ReceiptFolder::at(folder.to_owned());
        receipts.iter().for_each(|receipt| _ = folder.keep(receipt, &salt(), &spki(&self.key)).unwrap());
        folder
    }
}

fn spki(key: &Ed25519KeyPair) -> Vec<u8> {
    key.public_key().as_der().unwrap().as_ref().to_vec()
}

fn salt() -> Salt {
    Salt::from_bytes([1; 32])
}

fn receipt(
    key: &Ed25519KeyPair,
    index: u64,
    number: u64,
    previous: Option<&SignedReceipt>,
    partner: &[u8],
) -> SignedReceipt {
    let receipt = Receipt {
        version: 1,
        id: format!("req-{index}").parse().unwrap(),
        boot: boot_of(&spki(key)),
        index,
        session: Sha384Digest::of(&[b"session"]),
        partner: Sha256Digest::of(&[partner]),
        number,
        previous_sha256: previous.map(SignedReceipt::digest),
        model: ModelId::new("demo").unwrap(),
        model_sha256: Sha256Digest::of(&[b"model"]),
        release_sha256: None,
        lease_sha256: None,
        request: Commitment::to(b"request", Part::Request, &salt()),
        response: Commitment::to(b"response", Part::Response, &salt()),
        finish: Finish::Finished,
        code: None,
        safeguard: None,
        record_sha256: None,
        started_ms: 2,
        ended_ms: 3,
    };
    SignedReceipt::sign(receipt, &spki(key), |message| key.sign(message).as_ref().to_vec()).unwrap()
}

/// What is wrong with a store, beside the partner's receipts and an earlier audit.
fn examine(store: &Path, receipts: Option<&ReceiptFolder>, state: &State, other: Option<&Path>) -> Report {
    let (receipts, bad_receipts) = receipts.map(|folder| folder.read().unwrap()).unwrap_or_default();
    let other = other.map(|other| Store::Folder(other.to_owned()));
    let against = Against {
        receipts: &receipts,
        bad_receipts: &bad_receipts,
        seen: state.seen(),
        other: other.as_ref(),
        ..Against::default()
    };
    audit(&Store::Folder(store.to_owned()), &against, |_, _| {}).unwrap()
}

fn expect(report: &Report, code: &str, place: &str) {
    let found = report.problems.iter().any(|problem| problem.code == code && problem.place.contains(place));
    assert!(found, "expected {code} at {place}, found {:?}", report.problems);
}

/// A store, the partner's folder beside it, and what an audit of the untouched store saw.
struct Scene {
    folder: tempfile::TempDir,
    enclave: Enclave,
    receipts: ReceiptFolder,
    state: State,
    boot: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let (folder, enclave) = (tempfile::tempdir().unwrap(), Enclave::new());
        let store = folder.path().join("store");
        let boot = enclave.write(&store, &enclave.entries);
        let receipts = enclave.keep(&folder.path().join("receipts"), &enclave.receipts);
        let report = examine(&store, Some(&receipts), &State::default(), None);
        assert!(report.is_sound(), "{:?}", report.problems);
        assert_eq!((report.boots.len(), report.boots[0].receipts_found, report.receipts), (1, 3, 3));
        let mut state = State::default();
        state.take(&report, "2027-01-01T00:00:00Z".to_owned());
        Self { folder, enclave, receipts, state, boot }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn examine(&self) -> Report {
        examine(&self.store(), Some(&self.receipts), &self.state, None)
    }

    /// Changes the entries of a bundle.
    fn change(&self, path: &str, width: usize, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        let path = self.boot.join(path);
        let bytes = fs::read(&path).unwrap();
        let mut entries: Vec<Vec<u8>> =
            entries_of_bundle(&bytes, width).unwrap().into_iter().map(<[u8]>::to_vec).collect();
        change(&mut entries);
        fs::write(path, bundle(entries.iter().map(Vec::as_slice))).unwrap();
    }
}

#[test]
fn an_edited_entry_is_found_by_its_number() {
    let scene = Scene::new();
    scene.change("tile/entries/001", 256, |entries| {
        entries[44] = Entry::Receipt { sha256: Sha256Digest::of(&[b"x"]) }.to_bytes();
    });
    let report = scene.examine();
    expect(&report, "entry-changed", "entry 300");
    expect(&report, "receipt-not-in-log", "entry 300");
    assert_eq!(report.problems.len(), 2, "{:?}", report.problems);
}

#[test]
fn every_byte_of_a_store_counts() {
    let scene = Scene::new();
    for file in [
        "checkpoint",
        "tile/entries/000",
        "tile/entries/002.p/88",
        "tile/0/001",
        "tile/0/002.p/88",
        "tile/1/000.p/2",
    ] {
        let path = scene.boot.join(file);
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(!scene.examine().is_sound(), "byte {at} of {file}");
        }
        fs::write(&path, good).unwrap();
    }
    assert!(scene.examine().is_sound());
}

#[test]
fn dropped_reordered_and_missing_entries_are_found_where_they_were() {
    let scene = Scene::new();
    scene.change("tile/entries/000", 256, |entries| _ = entries.remove(20));
    expect(&scene.examine(), "entries-form", "tile/entries/000");

    let scene = Scene::new();
    scene.change("tile/entries/000", 256, |entries| entries.swap(20, 21));
    let report = scene.examine();
    expect(&report, "entry-changed", "entry 20");
    expect(&report, "entry-changed", "entry 21");

    let scene = Scene::new();
    fs::remove_file(scene.boot.join("tile/entries/001")).unwrap();
    expect(&scene.examine(), "entries-missing", "tile/entries/001");
    fs::remove_file(scene.boot.join("checkpoint")).unwrap();
    expect(&scene.examine(), "checkpoint-missing", "checkpoint");
}

#[test]
fn an_entry_that_is_edited_together_with_its_hash_is_found_by_the_level_above_and_the_root() {
    let scene = Scene::new();
    let forged = Entry::Receipt { sha256: Sha256Digest::of(&[b"forged"]) }.to_bytes();
    scene.change("tile/entries/001", 256, |entries| entries[0].clone_from(&forged));
    let tile = scene.boot.join("tile/0/001");
    let mut hashes = fs::read(&tile).unwrap();
    hashes[..32].copy_from_slice(leaf_hash(&forged).as_bytes());
    fs::write(&tile, hashes).unwrap();
    let report = scene.examine();
    expect(&report, "tile-changed", "tile/1/000.p/2");
    expect(&report, "root", "checkpoint");
    expect(&report, "forked", &scene.enclave.boot().to_string());
    assert!(
        report.problems.iter().any(|problem| problem.problem.contains("tile/0/001")),
        "{:?}",
        report.problems
    );
}

#[test]
fn a_checkpoint_of_another_key_is_none() {
    let scene = Scene::new();
    let mut tree = Frontier::new();
    scene.enclave.entries.iter().for_each(|entry| tree.push(leaf_hash(entry)));
    let forged = scene.enclave.checkpoint(tree.size(), tree.root(), &Ed25519KeyPair::generate().unwrap());
    fs::write(scene.boot.join("checkpoint"), forged).unwrap();
    expect(&scene.examine(), "checkpoint-signature", "checkpoint");
}

#[test]
fn a_log_that_is_rolled_back_is_found_by_an_earlier_audit_and_by_a_receipt() {
    let scene = Scene::new();
    scene.enclave.write(&scene.store(), &scene.enclave.entries[..400]);
    let report = scene.examine();
    expect(&report, "rolled-back", "checkpoint");
    expect(&report, "receipt-not-in-log", "entry 590");
    // Without either, a shorter log is a log.
    assert!(examine(&scene.store(), None, &State::default(), None).is_sound());
}

#[test]
fn a_forked_log_is_found_by_an_earlier_audit_and_by_a_second_view() {
    let scene = Scene::new();
    let other = scene.folder.path().join("other");
    let mut entries = scene.enclave.entries.clone();
    entries[500] = Entry::Receipt { sha256: Sha256Digest::of(&[b"fork"]) }.to_bytes();
    scene.enclave.write(&other, &entries);
    // The fork is sound by itself: the enclave's key signed it.
    assert!(examine(&other, None, &State::default(), None).is_sound());
    expect(&examine(&other, None, &scene.state, None), "forked", &scene.enclave.boot().to_string());
    let report = examine(&scene.store(), None, &State::default(), Some(&other));
    expect(&report, "two-views", "entry 500");
    // A view that is only shorter is no fork.
    scene.enclave.write(&other, &scene.enclave.entries[..300]);
    assert!(examine(&scene.store(), None, &State::default(), Some(&other)).is_sound());
    fs::remove_dir_all(&other).unwrap();
    fs::create_dir(&other).unwrap();
    expect(&examine(&scene.store(), None, &State::default(), Some(&other)), "view-missing", "");
}

#[test]
fn a_replayed_boot_is_found_and_so_is_a_hidden_one() {
    let scene = Scene::new();
    let replayed = Sha256Digest::of(&[b"another boot"]);
    let status = std::process::Command::new("cp")
        .arg("-r")
        .arg(&scene.boot)
        .arg(scene.store().join(replayed.to_string()))
        .status();
    assert!(status.unwrap().success());
    expect(&scene.examine(), "boot-record", &replayed.to_string());

    let scene = Scene::new();
    fs::remove_dir_all(&scene.boot).unwrap();
    let report = scene.examine();
    expect(&report, "boot-gone", &scene.enclave.boot().to_string());
    expect(&report, "boot-hidden", "00000010.json");
}

#[test]
fn forged_foreign_and_omitted_receipts_are_found() {
    let scene = Scene::new();
    let boot = scene.folder.path().join("receipts").join(scene.enclave.boot().to_string());
    // Signed by a key that is not the boot's.
    let other = Ed25519KeyPair::generate().unwrap();
    let forged = receipt(&other, 42, 4, None.or(scene.enclave.receipts.last()), b"partner");
    let delivered = cleanroom_attestation::receipt::Delivered { envelope: forged.to_json(), salt: salt() };
    fs::write(boot.join("00000042.json"), delivered.to_json()).unwrap();
    expect(&scene.examine(), "receipt-signature", "00000042.json");
    fs::remove_file(boot.join("00000042.json")).unwrap();

    // Signed by the boot's key, and in no log.
    let unlogged = receipt(&scene.enclave.key, 595, 4, scene.enclave.receipts.last(), b"partner");
    scene.enclave.keep(&scene.folder.path().join("receipts"), &[unlogged]);
    expect(&scene.examine(), "receipt-not-in-log", "entry 595");
    fs::remove_file(boot.join("00000595.json")).unwrap();

    // Another partner's.
    let foreign = receipt(&scene.enclave.key, 596, 1, None, b"another partner");
    scene.enclave.keep(&scene.folder.path().join("receipts"), &[foreign]);
    expect(&scene.examine(), "receipt-partner", "00000596.json");
    fs::remove_file(boot.join("00000596.json")).unwrap();

    // One of the partner's own is not there.
    fs::remove_file(boot.join("00000300.json")).unwrap();
    expect(&scene.examine(), "receipt-gap", "number 3");
    fs::remove_file(boot.join("00000010.json")).unwrap();
    expect(&scene.examine(), "receipt-gap", "number 3");
}

#[test]
fn entries_that_no_enclave_writes_are_found() {
    let enclave = Enclave::new();
    let first = || enclave.entries[..2].to_vec();
    let cases: [(&str, Vec<u8>, Vec<u8>); 4] = [
        ("after-end", Entry::Shutdown { at_ms: 9 }.to_bytes(), enclave.entries[5].clone()),
        ("boot-twice", enclave.entries[5].clone(), enclave.entries[0].clone()),
        (
            "time-back",
            Entry::Denial { sha256: enclave.boot(), at_ms: 99_000_000 }.to_bytes(),
            Entry::Shutdown { at_ms: 9 }.to_bytes(),
        ),
        ("entry-form", enclave.entries[5].clone(), b"{\"kind\":\"new\"}".to_vec()),
    ];
    for (code, one, other) in cases {
        let folder = tempfile::tempdir().unwrap();
        enclave.write(folder.path(), &[first(), vec![one, other]].concat());
        expect(&examine(folder.path(), None, &State::default(), None), code, "entry 3");
    }
}

#[test]
fn a_stored_log_gives_a_proof_for_each_receipt_and_for_no_other_place() {
    let scene = Scene::new();
    let (store, boot) = (Store::Folder(scene.store()), scene.enclave.boot());
    let hashes = StoredHashes { store: &store, boot, size: SIZE as u64 };
    let mut tree = Frontier::new();
    scene.enclave.entries.iter().for_each(|entry| tree.push(leaf_hash(entry)));
    for index in (0..SIZE as u64).step_by(37).chain(RECEIPTS) {
        let path = inclusion_path(&hashes, index, SIZE as u64).unwrap();
        let leaf = leaf_hash(&scene.enclave.entries[index as usize]);
        let verify = |index| verify_inclusion(leaf, index, SIZE as u64, &path, &tree.root());
        assert_eq!(verify(index), Ok(()), "entry {index}");
        assert!(verify(index ^ 1).is_err());
    }
    let old = consistency_path(&hashes, 300, SIZE as u64).unwrap();
    let mut before = Frontier::new();
    scene.enclave.entries[..300].iter().for_each(|entry| before.push(leaf_hash(entry)));
    verify_consistency((300, &before.root()), (SIZE as u64, &tree.root()), &old).unwrap();
}

#[test]
fn a_state_remembers_failures_and_keeps_the_last_sound_view() {
    let scene = Scene::new();
    scene.enclave.write(&scene.store(), &scene.enclave.entries[..400]);
    let mut state = scene.state.clone();
    state.take(&scene.examine(), "2027-01-02T00:00:00Z".to_owned());
    assert_eq!(state.boots, scene.state.boots, "what is rolled back is not learnt");
    assert!(state.audits.last().unwrap().problems.iter().any(|problem| problem.starts_with("rolled-back")));
    assert_eq!(State::parse(&state.to_bytes()).unwrap(), state);
    for bad in [
        "",
        "{}",
        r#"{"version":2,"boots":{},"audits":[]}"#,
        r#"{"version":1,"boots":{"x":{"size":1,"root":""}},"audits":[]}"#,
    ] {
        assert!(State::parse(bad.as_bytes()).is_err());
    }
    assert_eq!(State::default().boots, BTreeMap::new());
}

#[test]
fn a_checkpoint_of_more_entries_than_anybody_can_store_ends_the_audit_and_fills_no_memory() {
    let scene = Scene::new();
    let checkpoint = scene.enclave.checkpoint(u64::MAX, Sha256Digest::of(&[b"root"]), &scene.enclave.key);
    fs::write(scene.boot.join("checkpoint"), checkpoint).unwrap();
    let report = scene.examine();
    expect(&report, "entries-missing", "tile/entries/003");
    expect(&report, "entries-unread", "tile/entries/");
    assert!(report.problems.len() < 100, "{} problems", report.problems.len());
}

#[test]
fn problems_of_one_kind_are_counted_when_there_are_many() {
    let scene = Scene::new();
    scene.change("tile/entries/000", 256, |entries| entries[1..].reverse());
    let report = scene.examine();
    let changed =
        report.problems.iter().filter(|problem| problem.code == "entry-changed").collect::<Vec<_>>();
    assert_eq!(changed.len(), 21, "{changed:?}");
    assert!(changed.last().unwrap().problem.contains("234 more"), "{:?}", changed.last());
}

#[test]
fn a_boot_with_receipts_under_no_release_is_none_of_an_enclave() {
    let scene = Scene::new();
    let root = String::from_utf8(Authorities::new().root()).unwrap();
    let policy = World::new().policy_under(&root);
    let against = Against { policy: Some(&policy), ..Against::default() };
    let report = audit(&Store::Folder(scene.store()), &against, |_, _| {}).unwrap();
    expect(&report, "boot-evidence", "entry 0");
    // An enclave that got no release served nobody, and its log says so.
    scene.enclave.write(&scene.store(), &scene.enclave.entries[..1]);
    assert!(audit(&Store::Folder(scene.store()), &against, |_, _| {}).unwrap().is_sound());
}

/// A witness's key.
struct Witness {
    key: Ed25519KeyPair,
    public: WitnessKey,
}

impl Witness {
    fn new(name: &str) -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        let public = WitnessKey::new(name, PublicKey::from_spki(&spki(&key)).unwrap()).unwrap();
        Self { key, public }
    }

    fn cosign(&self, note: &SignedCheckpoint) -> SignedCheckpoint {
        let signature = self.key.sign(&WitnessKey::message(note, 7));
        note.with(self.public.cosignature(7, signature.as_ref()))
    }
}

/// The checkpoint of a boot in a store.
fn note(boot: &Path) -> SignedCheckpoint {
    SignedCheckpoint::parse(&fs::read(boot.join("checkpoint")).unwrap()).unwrap()
}

/// The host shows each of two auditors its own log. One of the two witnesses lies, and cosigns both.
#[test]
fn a_witness_that_lies_is_not_enough_for_a_second_view() {
    let scene = Scene::new();
    let (honest, liar) = (Witness::new("honest"), Witness::new("liar"));
    let keys = [honest.public.clone(), liar.public.clone()];
    let list = scene.folder.path().join("list");
    let examine = |store: &Path, needed, lists: &[Store]| {
        let witnesses = Witnesses { keys: &keys, needed, lists };
        let against = Against { witnesses: Some(&witnesses), ..Against::default() };
        audit(&Store::Folder(store.to_owned()), &against, |_, _| {}).unwrap()
    };
    let genuine = note(&scene.boot);
    fs::write(scene.boot.join("witnessed"), honest.cosign(&liar.cosign(&genuine)).to_bytes()).unwrap();
    assert!(examine(&scene.store(), 2, &[]).is_sound());

    let second = scene.folder.path().join("second");
    let mut entries = scene.enclave.entries.clone();
    entries[500] = Entry::Receipt { sha256: Sha256Digest::of(&[b"fork"]) }.to_bytes();
    let boot = scene.enclave.write(&second, &entries);
    // The honest witness's line is of the other log.
    let line = honest.cosign(&genuine).cosignatures().last().unwrap().clone();
    fs::write(boot.join("witnessed"), liar.cosign(&note(&boot)).with(line).to_bytes()).unwrap();
    expect(&examine(&second, 2, &[]), "witness-too-few", "witnessed");
    // An auditor who asks for one witness alone is deceived by that one, until the other says what it cosigned.
    assert!(examine(&second, 1, &[]).is_sound());
    let listed = list.join(scene.enclave.boot().to_string()).join("checkpoint");
    fs::create_dir_all(listed.parent().unwrap()).unwrap();
    fs::write(&listed, honest.cosign(&genuine).to_bytes()).unwrap();
    let report = examine(&second, 1, &[Store::Folder(list)]);
    expect(&report, "witness-forked", &scene.enclave.boot().to_string());
}

#[test]
fn a_log_is_held_to_what_witnesses_have_cosigned() {
    let scene = Scene::new();
    let (one, two, stranger) = (Witness::new("one"), Witness::new("two"), Witness::new("stranger"));
    let keys = [one.public.clone(), two.public.clone()];
    let list = scene.folder.path().join("list");
    let examine = |lists: &[Store]| {
        let witnesses = Witnesses { keys: &keys, needed: 2, lists };
        let against = Against { witnesses: Some(&witnesses), ..Against::default() };
        audit(&Store::Folder(scene.store()), &against, |_, _| {}).unwrap()
    };
    let by_store = || examine(&[]);
    let by_list = || examine(&[Store::Folder(list.clone())]);
    let witnessed = scene.boot.join("witnessed");
    let all = |note: &SignedCheckpoint| one.cosign(&two.cosign(note)).to_bytes();
    let boot = scene.enclave.boot().to_string();

    expect(&by_store(), "witness-missing", "witnessed");
    let genuine = note(&scene.boot);
    fs::write(&witnessed, all(&genuine)).unwrap();
    let listed = list.join(&boot).join("checkpoint");
    fs::create_dir_all(listed.parent().unwrap()).unwrap();
    fs::write(&listed, one.cosign(&genuine).to_bytes()).unwrap();
    assert!(by_list().is_sound(), "{:?}", by_list().problems);

    // Too few, and others than the auditor knows.
    fs::write(&witnessed, one.cosign(&stranger.cosign(&genuine)).to_bytes()).unwrap();
    expect(&by_store(), "witness-too-few", "witnessed");
    fs::write(&witnessed, b"rubbish").unwrap();
    expect(&by_store(), "witness-signature", "witnessed");
    fs::write(&listed, stranger.cosign(&genuine).to_bytes()).unwrap();
    expect(&by_list(), "witness-signature", &boot);
    fs::write(&listed, one.cosign(&genuine).to_bytes()).unwrap();

    // Rolled back: the store shows what was cosigned later, or the witness does.
    let write = |entries: &[Vec<u8>]| _ = scene.enclave.write(&scene.store(), entries);
    write(&scene.enclave.entries[..400]);
    fs::write(&witnessed, all(&genuine)).unwrap();
    expect(&by_store(), "witness-ahead", "checkpoint");
    fs::write(&witnessed, all(&note(&scene.boot))).unwrap();
    assert!(by_store().is_sound(), "{:?}", by_store().problems);
    expect(&by_list(), "witness-ahead", "checkpoint");

    // Another log, which the enclave's key signed as well.
    let mut fork = scene.enclave.entries.clone();
    fork[500] = Entry::Receipt { sha256: Sha256Digest::of(&[b"fork"]) }.to_bytes();
    write(&fork);
    fs::write(&witnessed, all(&genuine)).unwrap();
    expect(&by_store(), "witness-forked", &boot);
    fs::write(&witnessed, all(&note(&scene.boot))).unwrap();
    assert!(by_store().is_sound(), "{:?}", by_store().problems);
    expect(&by_list(), "witness-forked", &boot);

    // The end of a log that nobody cosigned.
    write(&scene.enclave.entries[..599]);
    let before = all(&note(&scene.boot));
    write(&scene.enclave.entries);
    fs::write(&witnessed, before).unwrap();
    expect(&by_store(), "witness-behind", "witnessed");

    // The boot is gone, and the witness has taken it.
    fs::remove_dir_all(&scene.boot).unwrap();
    expect(&by_list(), "boot-hidden", &boot);
}
