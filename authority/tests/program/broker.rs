//! A broker as a process, and enclaves that ask it for its share: the right one, and every kind of wrong one.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cleanroom_attestation::channel::{ModelId, Nonce, ShownLease};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{
    BootMillis, Envelope, LeaseRequest, Nonce as LeaseNonce, Payload as _, PayloadType, TrustedState,
    UnixMillis, Verified,
};
use cleanroom_forge::{Cbor, Forge, MODULE_ID, Name, Time, pcr};
use cleanroom_key_release::{
    DataKey, Purpose, Recipient, RetentionRequest, SealedShare, Secret, Share, ShareRequest, Wanted,
};
use cleanroom_program::file::fault::VARIABLE;
use serde_json::Value;

use crate::folder::{EXPIRES, Folder};
use crate::lease_service::signing_key;
use crate::service::Service;

const SERVE: &str = "--root root.json --release release.json --denials denials --policy trust.toml \
                     --allow allow.toml --log broker.log";

/// Three authorities with a released, sealed model, and security modules under a root of the test.
pub(crate) struct World {
    pub(crate) folder: Folder,
    forge: Forge,
    certificates: Vec<Vec<u8>>,
    recipient: Recipient,
}

/// What an enclave shows, before it is made into a request.
pub(crate) struct Enclave {
    root: String,
    release: String,
    pub(crate) request: ShareRequest,
    pub(crate) forge: Forge,
    /// What the document is made for, if that is not the request.
    claims: Option<ShareRequest>,
    /// What of the retention it is made for, if it is not a share of weights.
    pub(crate) wanted: Option<Wanted>,
}

pub(crate) fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn model() -> Sha256Digest {
    Sha256Digest::from_bytes([0xcd; 32])
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        folder.root();
        let brokers = "--broker bank --broker utility --broker regulator";
        folder.ok(&format!("broker secret new --model-sha256 {} --needed 2 {brokers} --out keys", model()));
        let mut forge = Forge::new();
        for index in 0..5 {
            let certificate = forge.certificate(index);
            (certificate.not_before, certificate.not_after) =
                (Time::utc("200101000000Z"), Time::utc("491231235959Z"));
        }
        let certificates = forge.certificates();
        let anchor = Sha256Digest::of(&[&certificates[0]]);
        let world = Self { folder, forge, certificates, recipient: Recipient::generate() };
        world.release(1, "--weights demo=keys/weights.json");
        let folder = &world.folder;
        std::fs::create_dir(folder.path("denials")).unwrap();
        let root = String::from_utf8(folder.read("root.json")).unwrap();
        let trust = format!(
            "version = 1\n[[trust_anchor]]\nname = \"test\"\ntier = \"development\"\nsha256 = \"{anchor}\"\n\
             [release]\nroot = '''{root}'''\n[freshness]\nmax_age = \"2m\"\n"
        );
        folder.write("trust.toml", trust.as_bytes());
        world.allow(&hex(&pcr(0)), &model());
        world
    }

    /// Puts a release with these further options in force, signed by two.
    pub(crate) fn release(&self, version: u32, options: &str) {
        let pcrs = [0, 1, 2].map(|index| hex(&pcr(index))).join(",");
        let from = if version == 1 {
            format!("--expires {EXPIRES} --image v1={pcrs} --model demo={} --lease-seconds 60", model())
        } else {
            "--from release.json".to_owned()
        };
        let folder = &self.folder;
        folder.ok(&format!("release draft --root root.json {from} {options} --out next.draft.json"));
        for (document, key) in [("next.draft.json", "b.pem"), ("next.json", "c.pem")] {
            folder.ok(&format!("release sign {document} --root root.json --key {key}"));
        }
        std::fs::remove_file(folder.path("next.draft.json")).unwrap();
        std::fs::rename(folder.path("next.json"), folder.path("release.json")).unwrap();
    }

    /// Makes its security modules those of instances with a NitroTPM, of an image that a release names. Their registers 14 and 15
    /// are untouched.
    pub(crate) fn become_instances(&mut self) {
        const MODULE: &str = "i-0123456789abcdef0-tpm0000000000000000";
        self.forge.document.become_tpm(MODULE);
        for register in [14, 15] {
            self.forge.document.put_pcr(register, &[0; 48]);
        }
        self.forge.leaf().subject = Name::of(&format!("{MODULE}.eu-forge-1.forged"));
        // The others stay as they are, because a policy pins the first.
        let leaf = self.forge.certificates().pop().unwrap();
        *self.certificates.last_mut().unwrap() = leaf;
        let [pcr4, pcr7] = [4, 7].map(|index| hex(&pcr(index)));
        self.release(2, &format!("--image instance=nitrotpm:{pcr4},{pcr7},{}", hex(&[0; 48])));
    }

    /// Puts the image of these instances on the broker's own list, and no image of enclaves.
    pub(crate) fn allow_instances(&self) {
        let (pcr4, model) = (hex(&pcr(4)), model());
        let list = format!(
            "version = 1\nnitrotpm_images = [\"{pcr4}\"]\n[[model]]\nid = \"demo\"\nsha256 = \"{model}\"\n"
        );
        self.folder.write("allow.toml", list.as_bytes());
    }

    fn allow(&self, image: &str, model: &Sha256Digest) {
        let list =
            format!("version = 1\nimages = [\"{image}\"]\n[[model]]\nid = \"demo\"\nsha256 = \"{model}\"\n");
        self.folder.write("allow.toml", list.as_bytes());
    }

    fn serve(&self, share: &str) -> Service {
        let mut command =
            self.folder.command(&format!("broker serve --listen 127.0.0.1:0 {SERVE} --share {share}"));
        Service::spawn(command.stderr(Stdio::null())).unwrap()
    }

    fn bank(&self) -> Service {
        self.serve("keys/bank.share")
    }

    /// An enclave that does everything right, for a challenge of `broker`.
    pub(crate) fn enclave(&self, broker: &Service) -> Enclave {
        let (status, nonce) = broker.ask("POST", "/v1/challenge", b"");
        assert_eq!(status, 200);
        let request = ShareRequest {
            nonce: Nonce::from_bytes(nonce.try_into().unwrap()),
            broker: "bank".parse().unwrap(),
            model_id: ModelId::new("demo").unwrap(),
            model_digest: model(),
            root_version: 0,
            root: model(),
            release: model(),
            lease: Vec::new(),
            recipient: self.recipient.public().clone(),
            document: Vec::new(),
        };
        let mut forge = self.forge.clone();
        forge.document.put("timestamp", Cbor::Unsigned(now_ms()));
        Enclave {
            root: "root.json".to_owned(),
            release: "release.json".to_owned(),
            request,
            forge,
            claims: None,
            wanted: None,
        }
    }

    /// The request of an enclave that holds its root and its release, with a lease and a document.
    pub(crate) fn request(
        &self,
        mut enclave: Enclave,
        change: impl FnOnce(&mut ShareRequest),
    ) -> ShareRequest {
        let folder = &self.folder;
        let mut state = TrustedState::new(&folder.read(&enclave.root)).unwrap();
        state.accept_release(&folder.read(&enclave.release)).unwrap();
        let release_sha256 = state.release().map(Verified::digest).unwrap();
        let (root_version, root_sha256) = (state.root().version, state.root().digest());
        let nonce = LeaseNonce::from_bytes([7; 32]);
        state.begin_lease(nonce, BootMillis(0)).unwrap();
        let asked = LeaseRequest { nonce, root_version, root_sha256, release_sha256 };
        let lease = state.draft_lease(&asked, UnixMillis(now_ms())).unwrap();
        let mut envelope = Envelope::unsigned(PayloadType::Lease, &lease.to_payload()).unwrap();
        let key = signing_key(&folder.read("a-online.pem"));
        let signature = key.sign(envelope.pae());
        let public = state.root().keys.iter().find(|key| key.name.as_str() == "a-online").unwrap();
        envelope.attach(&public.spki, signature.as_ref()).unwrap();
        let envelope = envelope.to_json();
        let request = &mut enclave.request;
        (request.root_version, request.root, request.release) = (root_version, root_sha256, release_sha256);
        request.lease = ShownLease { left_ms: 50_000, envelopes: vec![&envelope] }.encode();
        change(request);
        let evidence = match &enclave.wanted {
            Some(wanted) => {
                RetentionRequest { asked: request.clone(), wanted: wanted.clone() }.evidence_request()
            }
            None => enclave.claims.as_ref().unwrap_or(request).evidence().evidence_request(),
        };
        let document = &mut enclave.forge.document;
        document.put("nonce", Cbor::bytes(evidence.nonce()));
        document.put("user_data", Cbor::bytes(evidence.user_data()));
        enclave.request.document = enclave.forge.document_with(&self.certificates);
        enclave.request
    }

    /// The request of an enclave that does everything right.
    fn right(&self, broker: &Service) -> ShareRequest {
        self.request(self.enclave(broker), |_| {})
    }

    /// The entries of the log.
    fn log(&self) -> Vec<Value> {
        let text = String::from_utf8(self.folder.read("broker.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The code with which a request is refused.
fn refused(broker: &Service, request: &ShareRequest) -> String {
    let (status, answer) = broker.ask("POST", "/v1/share", &request.encode());
    assert_ne!(status, 200);
    let json: Value = serde_json::from_slice(&answer).unwrap();
    json["error"]["code"].as_str().unwrap().to_owned()
}

#[test]
fn two_of_three_brokers_give_the_key_that_the_model_was_sealed_with() {
    let world = World::new();
    let mut shares: Vec<Share> = Vec::new();
    for name in ["regulator", "bank"] {
        let mut command = world.folder.command(&format!(
            "broker serve --listen 127.0.0.1:0 {} --share keys/{name}.share",
            SERVE.replace("broker.log", &format!("{name}.log"))
        ));
        let broker = Service::spawn(command.stderr(Stdio::null())).unwrap();
        let request = world.request(world.enclave(&broker), |request| request.broker = name.parse().unwrap());
        let (status, sealed) = broker.ask("POST", "/v1/share", &request.encode());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&sealed));
        let sealed = SealedShare::read(&sealed).unwrap();
        shares.push(world.recipient.open(&sealed, &request).unwrap());
        // It is worth nothing to another enclave, and for another request.
        assert!(Recipient::generate().open(&sealed, &request).is_none());
        assert!(world.recipient.open(&sealed, &world.right(&broker)).is_none());
    }
    let secret = Secret::join(&[&shares[0], &shares[1]]).unwrap();
    let key = DataKey::derive(&secret, Purpose::Weights, &model()).unwrap();
    let written = String::from_utf8(world.folder.read("keys/data.key")).unwrap();
    assert_eq!(written.trim(), hex(key.as_bytes()));
    // One alone gives another secret.
    let alone = Secret::join(&[&shares[0]]).unwrap();
    let other = DataKey::derive(&alone, Purpose::Weights, &model()).unwrap();
    assert_ne!(other.as_bytes(), key.as_bytes());
}

#[test]
fn whoever_is_not_the_released_enclave_gets_nothing_and_each_has_an_entry() {
    let world = World::new();
    let broker = world.bank();
    let mut expected: Vec<String> = Vec::new();
    let mut is_refused = |request: &ShareRequest, code: &str| {
        assert_eq!(refused(&broker, request), code);
        expected.push(code.to_owned());
    };
    // Another image, debug mode, another root of security modules, another deployment is below.
    let image = |index: u64, value: &[u8]| {
        let mut enclave = world.enclave(&broker);
        enclave.forge.document.put_pcr(index, value);
        world.request(enclave, |_| {})
    };
    is_refused(&image(0, &[9; 48]), "pcr0-mismatch");
    is_refused(&image(2, &[9; 48]), "pcr2-mismatch");
    is_refused(&image(0, &[0; 48]), "debug-enclave");
    // An enclave that has a model already.
    is_refused(&image(16, &[1; 48]), "model-committed");
    is_refused(&image(17, &[1; 48]), "model-committed");
    let mut foreign = world.enclave(&broker);
    foreign.forge.chain = Forge::new().chain;
    let mut request = world.request(foreign, |_| {});
    let mut document = Forge::new();
    document.document.put("nonce", Cbor::bytes(request.nonce.as_bytes()));
    request.document = document.document();
    assert!(!refused(&broker, &request).is_empty());

    // Another model's key: one that the release does not name, and the right name with other weights.
    let other = Sha256Digest::from_bytes([0xee; 32]);
    let changed = |change: fn(&mut ShareRequest)| world.request(world.enclave(&broker), change);
    is_refused(&changed(|request| request.model_id = ModelId::new("other").unwrap()), "model-not-released");
    let mut enclave = world.enclave(&broker);
    enclave.request.model_digest = other;
    is_refused(&world.request(enclave, |_| {}), "model-not-released");
    // A broker's name that is another's.
    is_refused(&changed(|request| request.broker = "utility".parse().unwrap()), "share-unknown");

    // A document that was made for something else: another recipient, another lease, another purpose.
    let mut enclave = world.enclave(&broker);
    let mut claims = world.right(&broker);
    claims.nonce = enclave.request.nonce.clone();
    claims.recipient = Recipient::generate().public().clone();
    enclave.claims = Some(claims);
    is_refused(&world.request(enclave, |_| {}), "user-data-mismatch");

    // A request that is played again, and a document that is shown for another challenge.
    let right = world.right(&broker);
    assert_eq!(broker.ask("POST", "/v1/share", &right.encode()).0, 200);
    is_refused(&right, "challenge-answered");
    let mut replayed = world.right(&broker);
    replayed.document = right.document.clone();
    is_refused(&replayed, "nonce-mismatch");
    let mut invented = right.clone();
    invented.nonce = Nonce::from_bytes([5; 32]);
    is_refused(&invented, "challenge-unknown");

    // An old root, another release.
    is_refused(&changed(|request| request.root_version = 2), "root-outdated");
    is_refused(&changed(|request| request.root = Sha256Digest::of(&[b"x"])), "root-outdated");
    is_refused(&changed(|request| request.release = Sha256Digest::of(&[b"x"])), "release-outdated");
    // No lease, one that has ended, one that is said to run for longer than it was given for.
    is_refused(&changed(|request| request.lease = Vec::new()), "no-lease");
    let left = |request: &mut ShareRequest, left_ms: u64| {
        let envelopes = ShownLease::decode(&request.lease).unwrap().envelopes;
        request.lease = ShownLease { left_ms, envelopes }.encode();
    };
    is_refused(&world.request(world.enclave(&broker), |request| left(request, 0)), "lease-lapsed");
    is_refused(&world.request(world.enclave(&broker), |request| left(request, 60_001)), "lease-too-long");
    // Not a request at all.
    let (status, answer) = broker.ask("POST", "/v1/share", b"what");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status, answer["error"]["code"].as_str().unwrap()), (400, "share-request"));

    let log = world.log();
    let codes: Vec<&str> = log.iter().filter_map(|entry| entry["code"].as_str()).collect();
    for code in &expected {
        assert!(codes.contains(&code.as_str()), "{code} has an entry: {codes:?}");
    }
    let given: Vec<&Value> = log.iter().filter(|entry| entry["result"] == "given").collect();
    assert_eq!(given.len(), 1);
    assert_eq!(given[0]["enclave"]["module_id"], MODULE_ID);
    assert_eq!(given[0]["asked"]["model_sha256"], model().to_string());
    let verified = world.folder.json("broker log verify broker.log");
    assert_eq!((verified["entries"].as_u64(), verified["given"].as_u64()), (Some(log.len() as u64), Some(1)));

    // The report for overseers says it, and that a line was taken out.
    let line = "report --root root.json --release release.json --broker-log broker.log";
    let report = world.folder.json(line);
    let said: Vec<&str> =
        report["events"].as_array().unwrap().iter().map(|event| event["says"].as_str().unwrap()).collect();
    let given = format!("The broker gave the enclave {MODULE_ID} its share of the key of the model ");
    assert_eq!(said.iter().filter(|said| said.starts_with(&given)).count(), 1, "{said:?}");
    assert!(said.iter().any(|said| said.starts_with("The broker refused ")), "{said:?}");
    let text = String::from_utf8(world.folder.read("broker.log")).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    world.folder.write("broker.log", rest.as_bytes());
    assert_eq!(world.folder.refused(line), "report");
}

#[test]
fn an_instance_gets_the_share_when_release_and_own_list_name_its_image() {
    let mut world = World::new();
    let enclave = (world.forge.clone(), world.certificates.clone());
    world.become_instances();
    // On the list of the other kind the value says nothing.
    world.allow(&hex(&pcr(4)), &model());
    let broker = world.bank();
    assert_eq!(refused(&broker, &world.right(&broker)), "image-not-allowed");
    drop(broker);
    world.allow_instances();
    let broker = world.bank();
    assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);

    let register = |change: &dyn Fn(&mut Forge)| {
        let mut enclave = world.enclave(&broker);
        change(&mut enclave.forge);
        refused(&broker, &world.request(enclave, |_| {}))
    };
    for index in [4, 7, 12] {
        let code = register(&|forge| forge.document.put_pcr(index, &[9; 48]));
        assert_eq!(code, "nitrotpm-pcr-mismatch", "{index}");
    }
    for index in [14, 15] {
        assert_eq!(register(&|forge| forge.document.put_pcr(index, &[1; 48])), "model-committed");
        assert_eq!(register(&|forge| forge.document.remove_pcr(index)), "model-committed");
    }
    drop(broker);

    // An enclave of the same release is not on this list; an instance is in no deployment.
    let instance = (world.forge, world.certificates);
    (world.forge, world.certificates) = enclave;
    let broker = world.bank();
    assert_eq!(refused(&broker, &world.right(&broker)), "image-not-allowed");
    (world.forge, world.certificates) = instance;
    world.release(3, &format!("--deployment eu=pcr8:{}", hex(&pcr(8))));
    assert_eq!(refused(&broker, &world.right(&broker)), "pcr8-mismatch");
}

#[test]
fn what_the_authorities_and_the_broker_itself_say_counts_at_once() {
    let world = World::new();
    let broker = world.bank();
    let folder = &world.folder;
    assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
    // A halt, by one authority.
    folder
        .ok("halt demo --root root.json --release release.json --key c.pem --reason r --out denials/d.json");
    assert_eq!(refused(&broker, &world.right(&broker)), "model-denied");
    std::fs::remove_file(folder.path("denials/d.json")).unwrap();
    assert_eq!(refused(&broker, &world.right(&broker)), "model-denied", "it is never forgotten");
    drop(broker);

    // Its own list.
    world.allow(&hex(&pcr(1)), &model());
    let broker = world.bank();
    assert_eq!(refused(&broker, &world.right(&broker)), "image-not-allowed");
    drop(broker);
    world.allow(&hex(&pcr(0)), &Sha256Digest::from_bytes([1; 32]));
    let broker = world.bank();
    assert_eq!(refused(&broker, &world.right(&broker)), "model-not-allowed");
    drop(broker);
    world.allow(&hex(&pcr(0)), &model());

    // Another deployment, a model that does not serve, a release whose shares are others.
    world.release(2, &format!("--deployment eu=pcr8:{}", "99".repeat(48)));
    let broker = world.bank();
    assert_eq!(refused(&broker, &world.right(&broker)), "pcr8-mismatch");
    // Two places that are told apart by different registers, and the enclave is in neither.
    world.release(3, &format!("--deployment eu=pcr8:{0} --deployment us=pcr3:{0}", "99".repeat(48)));
    assert_eq!(refused(&broker, &world.right(&broker)), "deployment");
    world.release(4, &format!("--deployment eu=pcr8:{} --state demo=draining", hex(&pcr(8))));
    assert_eq!(refused(&broker, &world.right(&broker)), "model-not-active");
    folder.ok(&format!("broker secret new --model-sha256 {} --needed 1 --broker bank --out other", model()));
    world.release(5, "--state demo=active --weights demo=other/weights.json");
    assert_eq!(refused(&broker, &world.right(&broker)), "share-unknown");
    // The newest release is the one that counts, without a new start.
    world.release(6, "--weights demo=keys/weights.json");
    assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
    // Documents that cannot be read: nothing is given.
    folder.write("release.json", b"{}");
    let (status, _) = broker.ask("GET", "/healthz", b"");
    assert_eq!(status, 503);
}

#[test]
fn a_hangup_has_the_broker_read_its_own_files_again_all_or_none() {
    let world = World::new();
    let (folder, log) = (&world.folder, world.folder.path("program.log"));
    let line = format!("broker serve --listen 127.0.0.1:0 {SERVE} --share keys/bank.share");
    let broker = Service::spawn(folder.command(&line).stderr(File::create(&log).unwrap())).unwrap();
    let said = broker.hang_up(&log, 1);
    assert!(said.contains("policy: as before, own list: as before"), "{said}");
    assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);

    world.allow(&hex(&pcr(1)), &model());
    assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200, "nobody asked for it");
    let said = broker.hang_up(&log, 2);
    assert!(said.contains("policy: as before, own list: another one"), "{said}");
    assert_eq!(refused(&broker, &world.right(&broker)), "image-not-allowed");

    // A list that could be used, beside a policy that cannot: neither counts.
    world.allow(&hex(&pcr(0)), &model());
    let trust = folder.read("trust.toml");
    folder.write("trust.toml", b"nonsense");
    let said = broker.hang_up(&log, 3);
    assert!(said.contains("nothing of it taken") && said.contains("trust.toml"), "{said}");
    assert_eq!(refused(&broker, &world.right(&broker)), "image-not-allowed");
    folder.write("trust.toml", &trust);
    let said = broker.hang_up(&log, 4);
    assert!(said.contains("own list: another one"), "{said}");
    assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
}

/// A host can start enclaves of the release, and have each refused as often as it likes.
#[test]
fn refusals_of_genuine_enclaves_do_not_fill_the_log() {
    const REFUSED: u64 = 130;
    let world = World::new();
    let broker = world.bank();
    for _ in 0..REFUSED {
        let request = world.request(world.enclave(&broker), |request| {
            let envelopes = ShownLease::decode(&request.lease).unwrap().envelopes;
            request.lease = ShownLease { left_ms: 0, envelopes }.encode();
        });
        assert_eq!(refused(&broker, &request), "lease-lapsed");
    }
    // Requests that prove nothing have a number of their own.
    assert_eq!(broker.ask("POST", "/v1/share", b"what").0, 400);
    assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
    let log = world.log();
    let of = |code: &str| log.iter().filter(|entry| entry["code"] == code).count();
    // Two minutes may have begun, on a machine that is busy.
    let lapsed = of("lease-lapsed") as u64;
    assert!((60..REFUSED).contains(&lapsed), "{lapsed}");
    assert_eq!(of("share-request"), 1);
    let left_out: u64 = log.iter().filter_map(|entry| entry["left_out"].as_u64()).sum();
    assert_eq!(lapsed + left_out, REFUSED, "what has no entry is counted");
}

/// Anybody can ask a broker, so a request must not cost the reading of all that authorities ever signed.
#[test]
fn documents_that_did_not_change_are_not_read_for_each_request() {
    let world = World::new();
    let broker = world.bank();
    assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
    let request = world.right(&broker);
    // Other bytes, and nothing that would tell.
    let path = world.folder.path("release.json");
    let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
    let release = world.folder.read("release.json");
    world.folder.write("release.json", &vec![b' '; release.len()]);
    let touch = |time| File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    touch(changed);
    assert_eq!(broker.ask("POST", "/v1/share", &request.encode()).0, 200);
    // A file that changed is read at once, for whoever asks.
    touch(changed + Duration::from_secs(1));
    assert_eq!(broker.ask("GET", "/healthz", b"").0, 503);
    world.folder.write("release.json", &release);
    assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
}

#[test]
fn an_enclave_that_shows_an_old_root_gets_nothing() {
    let world = World::new();
    let folder = &world.folder;
    folder.ok("root rotate --from root.json --remove a --out root2.draft.json");
    folder.ok("root sign root2.draft.json --key b.pem --previous root.json");
    folder.ok("root sign root2.json --key c.pem --previous root.json");
    let mut command = folder.command(&format!(
        "broker serve --listen 127.0.0.1:0 {} --share keys/bank.share",
        SERVE.replace("root.json", "root.json,root2.json")
    ));
    let broker = Service::spawn(command.stderr(Stdio::null())).unwrap();
    // Its lease was given under root 1, by a key that root 2 has not.
    assert_eq!(refused(&broker, &world.right(&broker)), "root-outdated");
    // To say that it holds root 2 does not help: its lease says otherwise.
    let root2: Value = folder.json("status --root root.json,root2.json");
    let digest: Sha256Digest = root2["root"]["sha256"].as_str().unwrap().parse().unwrap();
    let request = world.request(world.enclave(&broker), |request| {
        (request.root_version, request.root) = (2, digest);
    });
    assert_eq!(refused(&broker, &request), "threshold");
}

#[test]
fn a_share_that_is_not_in_the_log_is_not_given() {
    let world = World::new();
    // Reading the share, the log's open, its sync and its folder's come before it listens; then the entry.
    let mut given = Vec::new();
    for kind in ["", "!"] {
        for number in 1..=9 {
            let _ = std::fs::remove_file(world.folder.path("broker.log"));
            let line = format!("broker serve --listen 127.0.0.1:0 {SERVE} --share keys/bank.share");
            let mut command = world.folder.command(&line);
            command.stderr(Stdio::null()).env(VARIABLE, format!("{number}{kind}"));
            let Some(broker) = Service::spawn(&mut command) else { continue };
            let answer = broker.try_ask("POST", "/v1/share", &world.right(&broker).encode());
            let was_given = answer.as_ref().is_ok_and(|(status, _)| *status == 200);
            if let (false, Ok((status, answer))) = (was_given, &answer) {
                let json: Value = serde_json::from_slice(answer).unwrap();
                assert_eq!((*status, json["error"]["code"].as_str()), (503, Some("not-logged")));
                // The disk is well again: so is the broker, and nothing is left of the half entry.
                assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
            }
            given.push((format!("{number}{kind}"), was_given));
            drop(broker);
            // Whatever a power cut left, a new start goes on behind it.
            let broker = world.bank();
            assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
            let entries = world.log();
            let logged = entries.iter().filter(|entry| entry["result"] == "given").count();
            assert!(logged > usize::from(was_given), "{number}{kind}: given and not in the log");
            world.folder.ok("broker log verify broker.log");
        }
    }
    assert!(given.iter().any(|(_, given)| *given) && given.iter().any(|(_, given)| !given), "{given:?}");
}

#[test]
fn a_log_that_was_changed_is_noticed() {
    let world = World::new();
    let broker = world.bank();
    for _ in 0..3 {
        assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
    }
    drop(broker);
    let folder = &world.folder;
    let last = folder.json("broker log verify broker.log")["last"].as_str().unwrap().to_owned();
    let whole = String::from_utf8(folder.read("broker.log")).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let (first, second, third) = (lines[0], lines[1], lines[2]);
    let changed = third.replace("\"given\"", "\"refused\"");
    for text in [
        format!("{first}\n{third}\n"),
        format!("{second}\n{third}\n"),
        format!("{first}\n{}\n{third}\n", second.replace("\"given\"", "\"refused\"")),
        format!("{first}\nnonsense\n"),
    ] {
        folder.write("broker.log", text.as_bytes());
        assert_eq!(folder.refused("broker log verify broker.log"), "log");
        assert_eq!(
            folder.refused(&format!("broker serve --listen 127.0.0.1:0 {SERVE} --share keys/bank.share")),
            "log"
        );
    }
    // The last entry has none behind it. Whoever noted its digest notices.
    folder.write("broker.log", format!("{first}\n{second}\n{changed}\n").as_bytes());
    folder.ok("broker log verify broker.log");
    assert_eq!(folder.refused(&format!("broker log verify broker.log --contains {last}")), "log");
    folder.write("broker.log", whole.as_bytes());
    folder.ok(&format!("broker log verify broker.log --contains {last}"));
    // Two brokers never write into one log.
    let _broker = world.bank();
    let run = folder.run(&format!("broker serve --listen 127.0.0.1:0 {SERVE} --share keys/bank.share"));
    assert_eq!(run.status, 3, "{}", run.stderr);
}

#[test]
fn one_enclave_gets_its_share_often_enough_and_no_more() {
    let world = World::new();
    let broker = world.bank();
    for _ in 0..10 {
        assert_eq!(broker.ask("POST", "/v1/share", &world.right(&broker).encode()).0, 200);
    }
    assert_eq!(refused(&broker, &world.right(&broker)), "too-many-shares");
    // Requests that prove nothing cannot fill the log.
    let before = world.log().len();
    for _ in 0..80 {
        assert_eq!(broker.ask("POST", "/v1/share", b"what").0, 400);
    }
    assert_eq!(world.log().len(), before + 60);
}

#[test]
fn shares_are_secret_files_and_say_what_they_are_for() {
    let world = World::new();
    let folder = &world.folder;
    let shown = folder.json("broker secret show keys/bank.share");
    let weights: Value = serde_json::from_slice(&folder.read("keys/weights.json")).unwrap();
    assert_eq!(weights["brokers"]["of"][0]["name"], "bank");
    assert_eq!(shown["commitment"], weights["brokers"]["of"][0]["sha256"]);
    let share = String::from_utf8(folder.read("keys/bank.share")).unwrap();
    let secret = serde_json::from_str::<Value>(&share).unwrap()["share"].as_str().unwrap().to_owned();
    assert!(!folder.ok("broker secret show keys/bank.share").contains(&secret));
    // A share of another form, and one that others can read.
    folder.ok("broker secret show keys/utility.share");
    let path = folder.path("keys/utility.share");
    std::fs::write(&path, share.replace("weights", "retention")).unwrap();
    assert_eq!(folder.refused("broker secret show keys/utility.share"), "share");
    std::fs::write(&path, share.replace(&secret, &secret[2..])).unwrap();
    assert_eq!(folder.refused("broker secret show keys/utility.share"), "share");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&path, mode).unwrap();
    assert_eq!(folder.run("broker secret show keys/utility.share").status, 3);
    // Nothing is written over, and numbers fit together.
    let again = format!("broker secret new --model-sha256 {} --needed 1 --broker bank --out keys", model());
    assert_eq!(folder.run(&again).status, 3);
    for (needed, brokers) in
        [("2", "--broker a"), ("0", "--broker a"), ("1", "--broker a --broker a"), ("1", "--broker a/b")]
    {
        let line =
            format!("broker secret new --model-sha256 {} --needed {needed} {brokers} --out no", model());
        assert_eq!(folder.run(&line).status, 2, "{line}");
        assert!(!folder.exists("no"));
    }
}
