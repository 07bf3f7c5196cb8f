//! A witness as a process, and hosts that ask it: with a log that grows, and with every kind of wrong one.

use std::process::{Command, Stdio};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use cleanroom_attestation::channel::{ModelId, Nonce, PublicAttestation, boot_measurement};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{
    AddCheckpoint, BootRecord, Checkpoint, Edge, Entry, NoteKey, NoteSignature, SignedCheckpoint,
    StoredTiles, Tile, WitnessKey, boot_of, consistency_path, leaf_hash, origin,
};
use cleanroom_attestation::measurement::extended_once;
use cleanroom_forge::{Cbor, Forge, Time, pcr};
use cleanroom_program::file::fault::VARIABLE;
use serde_json::Value;

use crate::folder::Folder;
use crate::service::Service;

const SERVE: &str = "witness serve --listen 127.0.0.1:0 --key witness.pem --name witness.example \
                     --policy trust.toml --state state";

/// A witness's folder, and security modules under a root of the test.
struct World {
    folder: Folder,
    forge: Forge,
    certificates: Vec<Vec<u8>>,
    witness: WitnessKey,
}

/// An enclave's log.
struct Log {
    key: Ed25519KeyPair,
    record: Vec<u8>,
    entries: Vec<Vec<u8>>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl World {
    fn new() -> Self {
        let folder = Folder::new();
        folder.ok("key new witness.pem");
        let mut forge = Forge::new();
        for index in 0..5 {
            let certificate = forge.certificate(index);
            (certificate.not_before, certificate.not_after) =
                (Time::utc("200101000000Z"), Time::utc("491231235959Z"));
        }
        let certificates = forge.certificates();
        let anchor = Sha256Digest::of(&[&certificates[0]]);
        let [pcr0, pcr1, pcr2] = [0, 1, 2].map(|index| hex(&pcr(index)));
        let trust = format!(
            "version = 1\n[[trust_anchor]]\nname = \"test\"\ntier = \"development\"\nsha256 = \"{anchor}\"\n\
             [[image]]\nname = \"v1\"\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n"
        );
        folder.write("trust.toml", trust.as_bytes());
        let key = folder.ok("witness key --key witness.pem --name witness.example");
        Self { folder, forge, certificates, witness: key.trim().parse().unwrap() }
    }

    fn start(&self, fault: Option<&str>) -> Option<Service> {
        let mut command: Command = self.folder.command(SERVE);
        if let Some(fault) = fault {
            command.env(VARIABLE, fault);
        }
        Service::spawn(command.stderr(Stdio::null()))
    }

    fn serve(&self) -> Service {
        self.start(None).unwrap()
    }

    /// A log whose record is the evidence of a genuine enclave, but for `change`.
    fn log(&self, change: impl FnOnce(&mut Forge)) -> Log {
        let key = Ed25519KeyPair::generate().unwrap();
        let spki = key.public_key().as_der().unwrap().as_ref().to_vec();
        let (model, digest) = (ModelId::new("demo").unwrap(), Sha256Digest::of(&[b"model"]));
        let nonce = Nonce::from_bytes([9; 32]);
        let attestation = PublicAttestation {
            nonce: &nonce,
            model_id: &model,
            model_digest: digest,
            release: None,
            lease: None,
            receipt_key: &spki,
        };
        let evidence = attestation.evidence_request();
        let mut forge = self.forge.clone();
        let document = &mut forge.document;
        document.put("nonce", Cbor::bytes(evidence.nonce()));
        document.put("user_data", Cbor::bytes(evidence.user_data()));
        document.put("public_key", Cbor::bytes(&spki));
        document.put_pcr(16, extended_once(boot_measurement::model(&digest).as_bytes()).as_bytes());
        document.put_pcr(17, extended_once(boot_measurement::receipt_key(&spki).as_bytes()).as_bytes());
        change(&mut forge);
        let document = forge.document_with(&self.certificates);
        let record = Entry::Boot(BootRecord::new(&spki, model, digest, 1, &document)).to_bytes();
        let further = (1..1000_u64).map(|at_ms| Entry::Shutdown { at_ms }.to_bytes());
        let entries = std::iter::once(record.clone()).chain(further).collect();
        Log { key, record, entries }
    }

    fn genuine(&self) -> Log {
        self.log(|_| {})
    }
}

impl Log {
    fn boot(&self) -> Sha256Digest {
        boot_of(self.key.public_key().as_der().unwrap().as_ref())
    }

    fn note_key(&self) -> NoteKey {
        NoteKey::of_boot(self.key.public_key().as_der().unwrap().as_ref()).unwrap()
    }

    /// The request for the first `size` entries after `old` of them.
    fn request(&self, old: u64, size: u64) -> AddCheckpoint {
        let entries = &self.entries[..usize::try_from(size).unwrap()];
        let mut edge = Edge::default();
        let files = edge.append(entries);
        let read = |tile: Tile| files.iter().find(|(of, _)| *of == tile).map(|(_, bytes)| bytes.clone());
        let proof = consistency_path(&StoredTiles { size, read }, old, size).unwrap();
        AddCheckpoint { old, proof, checkpoint: self.checkpoint(size, edge.root(), &self.key) }
    }

    fn checkpoint(&self, size: u64, root: Sha256Digest, key: &Ed25519KeyPair) -> SignedCheckpoint {
        let checkpoint = Checkpoint { origin: origin(&self.boot()), size, root };
        let signature = key.sign(checkpoint.text().as_bytes());
        SignedCheckpoint::parse(&checkpoint.signed(&self.note_key(), signature.as_ref())).unwrap()
    }
}

fn introduce(service: &Service, log: &Log) -> u16 {
    service.try_ask("POST", "/v1/boots", &log.record).map_or(0, |(status, _)| status)
}

/// Status and body; 0 when the witness ended instead.
fn add(service: &Service, request: &AddCheckpoint) -> (u16, Vec<u8>) {
    service.try_ask("POST", "/add-checkpoint", &request.to_bytes()).unwrap_or_default()
}

/// The code of a refusal.
fn code(answer: &(u16, Vec<u8>)) -> (u16, String) {
    let json: Value = serde_json::from_slice(&answer.1).unwrap();
    (answer.0, json["error"]["code"].as_str().unwrap().to_owned())
}

#[test]
fn a_log_that_grows_is_cosigned_and_the_witness_remembers_it() {
    let (world, log) = (World::new(), World::new().genuine());
    let foreign = {
        let service = world.serve();
        code(&service.ask("POST", "/v1/boots", &log.record))
    };
    assert_eq!(foreign, (403, "root-not-trusted".to_owned()), "another root of security modules");

    let log = world.genuine();
    let service = world.serve();
    assert_eq!(code(&add(&service, &log.request(0, 1))), (404, "log-unknown".to_owned()));
    assert_eq!((introduce(&service, &log), introduce(&service, &log)), (201, 200));
    let mut old = 0;
    for size in [1, 2, 255, 256, 257, 257, 999] {
        let request = log.request(old, size);
        let (status, lines) = add(&service, &request);
        assert_eq!(status, 200, "{size}: {}", String::from_utf8_lossy(&lines));
        let lines = NoteSignature::parse_lines(&lines).unwrap();
        let cosigned = lines.into_iter().fold(request.checkpoint, |note, line| note.with(line));
        assert!(world.witness.cosigned(&cosigned).is_some_and(|seconds| seconds > 1_700_000_000));
        old = size;
    }
    drop(service);

    // Started again, it knows how far it came, and its lists are where a store's are.
    let service = world.serve();
    assert_eq!(add(&service, &log.request(256, 999)), (409, b"999\n".to_vec()));
    assert_eq!(service.ask("GET", "/boots", b"").1, format!("{}\n", log.boot()).into_bytes());
    let note = service.ask("GET", &format!("/{}/checkpoint", log.boot()), b"").1;
    let note = SignedCheckpoint::parse(&note).unwrap();
    assert_eq!(note.verify(&log.note_key()).unwrap().size, 999);
    assert!(world.witness.cosigned(&note).is_some() && note.signatures().len() == 2);
    assert_eq!(service.json("GET", "/v1/status", b"").1["boots"], 1);
    assert!(
        String::from_utf8(service.ask("GET", "/metrics", b"").1)
            .unwrap()
            .contains("cleanroom_witness_boots 1")
    );
}

#[test]
fn nothing_is_cosigned_that_does_not_contain_what_was_cosigned_before() {
    let (world, other) = (World::new(), Ed25519KeyPair::generate().unwrap());
    let (service, log) = (world.serve(), world.genuine());
    assert_eq!(introduce(&service, &log), 201);
    assert_eq!(add(&service, &log.request(0, 300)).0, 200);

    // Shorter, or another one of the same size.
    assert_eq!(add(&service, &log.request(0, 299)), (409, b"300\n".to_vec()));
    assert_eq!(code(&add(&service, &AddCheckpoint { old: 300, ..log.request(0, 299) })).0, 400);
    let fork = Log { entries: log.entries.iter().rev().cloned().collect(), key: log.key, record: log.record };
    assert_eq!(add(&service, &AddCheckpoint { old: 300, ..fork.request(0, 300) }), (409, b"300\n".to_vec()));
    // Longer, and not the same beginning; or the proof is another's.
    assert_eq!(code(&add(&service, &fork.request(300, 400))), (422, "proof".to_owned()));
    let log = Log { entries: fork.entries.iter().rev().cloned().collect(), ..fork };
    let right = log.request(300, 400);
    for wrong in [
        AddCheckpoint { proof: Vec::new(), ..right.clone() },
        AddCheckpoint { proof: right.proof[1..].to_vec(), ..right.clone() },
        AddCheckpoint { proof: [&right.proof[..], &[leaf_hash(b"")]].concat(), ..right.clone() },
    ] {
        assert_eq!(code(&add(&service, &wrong)), (422, "proof".to_owned()));
    }
    // Signed by somebody else.
    let root = right.checkpoint.unverified().root;
    let forged = AddCheckpoint { checkpoint: log.checkpoint(400, root, &other), ..right.clone() };
    assert_eq!(code(&add(&service, &forged)), (403, "checkpoint-signature".to_owned()));
    assert_eq!(code(&service.ask("POST", "/add-checkpoint", b"old 300\n\nrubbish\n")).0, 400);
    // All of that changed nothing.
    assert_eq!(add(&service, &right).0, 200);
}

#[test]
fn a_boot_is_taken_on_the_evidence_of_an_accepted_enclave_alone() {
    let world = World::new();
    let service = world.serve();
    let refused = |change: fn(&mut Forge)| code(&service.ask("POST", "/v1/boots", &world.log(change).record));
    for (change, expected) in [
        ((|forge| forge.document.put_pcr(0, &[7; 48])) as fn(&mut Forge), "pcr0-mismatch"),
        (|forge| forge.document.put_pcr(0, &[0; 48]), "debug-enclave"),
        (|forge| forge.document.put_pcr(16, &[7; 48]), "pcr16-mismatch"),
        (|forge| forge.document.put_pcr(17, &[7; 48]), "pcr17-mismatch"),
        (|forge| forge.document.put("user_data", Cbor::bytes(b"another purpose")), "user-data-mismatch"),
        (|forge| forge.document.put("public_key", Cbor::bytes(b"another key")), "public-key-mismatch"),
    ] {
        assert_eq!(refused(change), (403, expected.to_owned()));
    }
    // A genuine document under another key than the log's.
    let (one, two) = (world.genuine(), world.genuine());
    let Ok(Entry::Boot(record)) = Entry::parse(&one.record) else { panic!("a boot record") };
    let key = two.key.public_key().as_der().unwrap().as_ref().to_vec();
    let model = ModelId::new("demo").unwrap();
    let digest = Sha256Digest::of(&[b"model"]);
    let stolen = BootRecord::new(&key, model, digest, 1, &record.document().unwrap());
    let answer = service.ask("POST", "/v1/boots", &Entry::Boot(stolen).to_bytes());
    assert_eq!(answer.0, 403, "{}", String::from_utf8_lossy(&answer.1));
    assert_eq!(service.ask("POST", "/v1/boots", &one.entries[1]).0, 400);
    assert!(service.ask("GET", "/boots", b"").1.is_empty());
}

#[test]
fn a_hangup_has_the_witness_read_its_policy_again() {
    let world = World::new();
    let (folder, log) = (&world.folder, world.folder.path("program.log"));
    let stderr = std::fs::File::create(&log).unwrap();
    let service = Service::spawn(folder.command(SERVE).stderr(stderr)).unwrap();
    let trust = String::from_utf8(folder.read("trust.toml")).unwrap();
    folder.write("trust.toml", b"nonsense");
    let said = service.hang_up(&log, 1);
    assert!(said.contains("nothing of it taken") && said.contains("trust.toml"), "{said}");
    assert_eq!(introduce(&service, &world.genuine()), 201);

    folder.write("trust.toml", trust.replace(&hex(&pcr(0)), &"07".repeat(48)).as_bytes());
    let said = service.hang_up(&log, 2);
    assert!(said.contains("policy: another one"), "{said}");
    let refused = code(&service.ask("POST", "/v1/boots", &world.genuine().record));
    assert_eq!(refused, (403, "pcr0-mismatch".to_owned()));
    // A log that is witnessed already stays.
    assert_eq!(String::from_utf8(service.ask("GET", "/boots", b"").1).unwrap().lines().count(), 1);
    folder.write("trust.toml", trust.as_bytes());
    let said = service.hang_up(&log, 3);
    assert!(said.contains("policy: another one"), "{said}");
    assert_eq!(introduce(&service, &world.genuine()), 201);
}

#[test]
fn what_was_cosigned_is_on_the_disk_whenever_the_witness_ends() {
    let mut met = 0;
    // A fault once, a disk that stays full, the program killed in place of the operation.
    for kind in ["", "+", "!"] {
        for number in 1..=24 {
            let (world, fault) = (World::new(), format!("{number}{kind}"));
            let log = world.genuine();
            let Some(service) = world.start(Some(&fault)) else {
                met += 1;
                continue;
            };
            let taken = introduce(&service, &log);
            let mut cosigned = 0;
            for (old, size) in [(0, 3), (3, 300)] {
                match add(&service, &log.request(old, size)).0 {
                    200 => cosigned = size,
                    // Sent again, as the answer asks for.
                    503 if kind.is_empty() => {
                        assert_eq!(add(&service, &log.request(old, size)).0, 200, "{fault}");
                        cosigned = size;
                        met += 1;
                    }
                    _ => {
                        met += 1;
                        break;
                    }
                }
            }
            // Killed, not asked to end.
            drop(service);
            let service = world.serve();
            if taken == 201 {
                assert_eq!(introduce(&service, &log), 200, "{fault}: the boot was taken and is forgotten");
            } else {
                assert_eq!(introduce(&service, &log) / 100, 2, "{fault}");
            }
            // A log that was rolled back below what was cosigned is refused.
            if cosigned > 0 {
                assert_eq!(add(&service, &log.request(0, cosigned - 1)).0, 409, "{fault}: forgotten");
            }
            let known = match add(&service, &log.request(0, 400)) {
                (200, _) => 0,
                (409, size) => String::from_utf8(size).unwrap().trim().parse().unwrap(),
                other => panic!("{fault}: {other:?}"),
            };
            assert!(known >= cosigned, "{fault}: {known} of {cosigned}");
            if known > 0 {
                assert_eq!(add(&service, &log.request(known, 400)).0, 200, "{fault}");
            }
        }
    }
    assert!(met > 20, "a fault was met {met} times");
}

#[test]
fn a_state_that_was_changed_is_refused_at_the_start() {
    let world = World::new();
    let log = world.genuine();
    let service = world.serve();
    introduce(&service, &log);
    assert_eq!(add(&service, &log.request(0, 5)).0, 200);
    drop(service);
    let path = format!("state/{}/checkpoint", log.boot());
    let genuine = world.folder.read(&path);
    for rolled_back in [log.request(0, 4).checkpoint.to_bytes(), b"rubbish".to_vec(), Vec::new()] {
        world.folder.write(&path, &rolled_back);
        let run = world.folder.run(SERVE);
        assert_eq!(run.status, 1, "{}", run.stderr);
        assert!(run.stderr.contains("checkpoint"), "{}", run.stderr);
    }
    world.folder.write(&path, &genuine);
    drop(world.serve());
    // Another key is another witness.
    world.folder.ok("key new other.pem");
    assert_eq!(world.folder.run(&SERVE.replace("witness.pem", "other.pem")).status, 1);
    assert_eq!(world.folder.run(&SERVE.replace("witness.example", "other.example")).status, 1);
}

/// The report for overseers has the boots that the witness took, and names what is damaged.
#[test]
fn the_report_shows_what_a_witness_knows() {
    let world = World::new();
    world.folder.released();
    let service = world.serve();
    let (first, second) = (world.genuine(), world.genuine());
    for log in [&first, &second] {
        assert_eq!(introduce(&service, log), 201);
    }
    assert_eq!(add(&service, &first.request(0, 300)).0, 200);
    drop(service);
    let line = "report --root root.json --release release.json --witness-state state";
    let report = world.folder.json(line);
    let of = |log: &Log| {
        let boots = report["boots"].as_array().unwrap().iter();
        boots.into_iter().find(|boot| boot["boot"] == log.boot().to_string()).unwrap().clone()
    };
    assert_eq!((&of(&first)["cosigned"], &of(&first)["model"]), (&300.into(), &"demo".into()));
    assert!(of(&first)["cosigned_at"].as_str().unwrap() > "2026");
    assert_eq!(of(&second)["cosigned"], 0);
    assert_eq!(report["events"].as_array().unwrap().len(), 2);

    // A checkpoint that the enclave did not sign, and a line that names no boot.
    let forged = first.checkpoint(301, Sha256Digest::of(&[b"root"]), &second.key);
    world.folder.write(&format!("state/{}/checkpoint", first.boot()), &forged.to_bytes());
    let list = String::from_utf8(world.folder.read("state/boots")).unwrap();
    world.folder.write("state/boots", format!("{list}../elsewhere\n").as_bytes());
    let run = world.folder.run(&format!("{line} --json"));
    assert_eq!(run.status, 1);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["problems"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(report["boots"].as_array().unwrap().len(), 1);
}
