//! A room on an instance with a NitroTPM, on the real swtpm behind the project's front: a partner's own code on the keeper's device
//! and the worker's channel, and all programs as processes.
//!
//! swtpm is in Debian's package `swtpm`. Where it is absent, the test says so; with `CI` set it fails.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::measurement::extended_once;
use cleanroom_attestation::policy::Policy;
use cleanroom_channel::identity::Identity;
use cleanroom_keeper::Attester;
use cleanroom_keeper::commitment::commit;
use cleanroom_keeper::receipt_key::ReceiptKey;
use cleanroom_keeper::security_module::SecurityModule;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_link::port;
use cleanroom_nitrotpm::NitroTpm;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::clock::now;
use cleanroom_software_nsm::{DevelopmentRoot, TpmAttester};
use cleanroom_software_tpm::guest::Guest;
use cleanroom_tests::clean_room::{Control, model};
use cleanroom_tests::official::{self, Package};
use cleanroom_tests::platform::{model_digest, model_id, now_ms};
use cleanroom_tests::processes::{Running, file, left_out, output, succeed};
use cleanroom_tpm::{Message, PCR_EXTEND, SESSIONS, message, read_message};
use cleanroom_worker as worker;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// The exit statuses of `cleanroom verify`.
const REFUSED: i32 = 1;
const PARTIAL: i32 = 3;

/// Where swtpm is, if it is installed.
fn swtpm() -> Option<PathBuf> {
    let program = Guest::program();
    if program.is_none() {
        left_out("swtpm is missing; get it with: apt-get install swtpm");
    }
    program
}

/// What firmware measures: 48 bytes of the register's own number.
fn measured(register: u8) -> Sha384Digest {
    extended_once(&[register; 48])
}

/// As firmware extends a register.
fn measure(guest: &Guest, register: u8) {
    let mut tpm = guest.tpm().unwrap();
    let password = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0];
    let digest = [&[0, 0, 0, 1, 0, 0x0c][..], &[register; 48]].concat();
    tpm.write_all(&message(SESSIONS, PCR_EXTEND, &[&[0, 0, 0, register], &password, &digest])).unwrap();
    assert_eq!(Message::parse(&read_message(&mut tpm).unwrap()).unwrap().code, 0);
}

/// The policy of a partner who expects an image with this register 4, and this model.
fn party(root: &DevelopmentRoot, pcr4: Sha384Digest, model: Sha256Digest) -> RelyingParty {
    let (root, pcr7, zero) = (root.fingerprint(), measured(7), Sha384Digest::from_bytes([0; 48]));
    let policy = format!(
        "version = 1\n[[trust_anchor]]\nname = \"swtpm\"\ntier = \"development\"\nsha256 = \"{root}\"\n\
         [[nitrotpm_image]]\nname = \"test\"\npcrs.4 = \"{pcr4}\"\npcrs.7 = \"{pcr7}\"\npcrs.12 = \"{zero}\"\n\
         [[model]]\nid = \"demo\"\nsha256 = \"{model}\"\n[freshness]\nmax_age = \"5m\"\n"
    );
    let policy = Policy::from_toml(&policy).unwrap();
    RelyingParty::new(&Identity::generate().unwrap(), policy, model_id()).unwrap()
}

#[tokio::test]
async fn a_partner_proves_a_room_whose_security_module_is_a_tpm() {
    let Some(program) = swtpm() else { return };
    let state = tempfile::tempdir().unwrap();
    let root = Arc::new(DevelopmentRoot::generate(now_ms()).unwrap());
    let attester = TpmAttester::start(Arc::clone(&root), now_ms()).unwrap();
    let guest = Guest::start(&program, state.path(), attester).unwrap();
    measure(&guest, 4);
    measure(&guest, 7);

    let security_module = SecurityModule::start(NitroTpm::start(guest.tpm().unwrap()).unwrap()).unwrap();
    let receipt_key = ReceiptKey::generate().unwrap();
    let committed = commit(&security_module, model_digest(), &receipt_key).await.unwrap();
    let attester = Attester::new(committed, model_id(), security_module, receipt_key);
    let (keeper, acceptor) = UnixStream::pair().unwrap();
    tokio::spawn(attester.serve(keeper));
    let room = worker::acceptor(acceptor).await.unwrap();

    let (ours, theirs) = UnixStream::pair().unwrap();
    let prove = async {
        let party = party(&root, measured(4), model_digest());
        let attested = party.challenge(ours).await?.appraise(now())?.confirm().await?;
        let mut stream = attested.into_stream();
        stream.write_all(b"a prompt").await?;
        stream.shutdown().await?;
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    let (session, proven) = tokio::join!(room.accept(theirs), prove);
    proven.unwrap();
    let mut prompt = Vec::new();
    session.unwrap().stream.read_to_end(&mut prompt).await.unwrap();
    assert_eq!(prompt, b"a prompt");

    // Another image, and another model: nothing leaves.
    let others = [
        party(&root, measured(5), model_digest()),
        party(&root, measured(4), Sha256Digest::of(&[b"others"])),
    ];
    for party in others {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let refused = async {
            party.challenge(ours).await.unwrap().appraise(now()).unwrap().confirm().await.err().unwrap()
        };
        let (session, refused) = tokio::join!(room.accept(theirs), refused);
        assert!(session.is_err() && refused.is_refusal());
        assert_eq!(refused.code(), "nitrotpm-pcr-mismatch");
    }
}

/// The TPM, the instance and its host as processes, and a partner's key.
struct Room {
    // In the order in which they end.
    host: Running,
    instance: Running,
    _tpm: Running,
    address: String,
    /// What the software TPM has measured.
    image: String,
}

impl Room {
    /// The address of the instance: one of this machine that no other process has. Their numbers have 22 bits.
    fn instance_address() -> Ipv4Addr {
        let [_, top, high, low] = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, 128 | top, high, low)
    }

    /// Starts everything anew in `path`, with a model in this file.
    fn start(path: &Path, model: &str) -> Self {
        let address = Self::instance_address().to_string();
        let program = file("cleanroom-instance");
        let program = program.to_str().unwrap();
        let measured = ["software-tpm", "--state", "tpm", "--measure", program, "--measure", "enclave.toml"];
        let mut tpm = Running::start("cleanroom-host", path, &measured);
        tpm.wait_for("ready: one program connects to ");
        let image = tpm.wait_for("image: ");
        let serve = ["--tpm", "tpm/tpm.sock", "--config", "enclave.toml", "--address", &address];
        let instance = Running::start("cleanroom-instance", path, &serve);
        let mut run = vec!["run", "--tier", "nitrotpm", "--instance", &address, "--model", model];
        run.extend(["--listen", "127.0.0.1:0", "--state", "state", "--log", "log"]);
        let mut host = Running::start("cleanroom-host", path, &run);
        let relay = host.wait_for("ready: partners connect to ");
        Self { host, instance, _tpm: tpm, address: relay, image }
    }

    /// A connection to a port of the instance, as anybody in its network can make one.
    async fn stranger(port: u32) -> std::io::Result<TcpStream> {
        TcpStream::connect((Self::instance_address(), u16::try_from(port).unwrap())).await
    }
}

/// Writes the policy of a partner who expects this image and the model in this file.
fn write_policy(path: &Path, name: &str, image: &str, model: &str) {
    let model = format!("demo={model}");
    let trust =
        ["trust", "--development-root", "tpm/development-root.pem", "--image", image, "--model", &model];
    std::fs::write(path.join(name), succeed("cleanroom-authority", path, &trust)).unwrap();
}

/// What `cleanroom verify` says of a room under a policy.
fn verdict(path: &Path, address: &str, policy: &str) -> serde_json::Value {
    let verify = ["verify", address, "--key", "partner.key", "--policy", policy, "--json"];
    let output = output("cleanroom", path, &verify);
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // Nothing failed, and no deployment was asked about: a TPM says nothing of one.
    let expected = if verdict["accepted"] == true { PARTIAL } else { REFUSED };
    assert_eq!(output.status.code(), Some(expected), "{verdict}");
    verdict
}

/// A room that serves `demo` to everybody, in a folder of its own.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let _ = succeed("cleanroom", path, &["key", "new", "--key", "partner.key"]);
    std::fs::write(path.join("enclave.toml"), "version = 1\nmodel = \"demo\"\npartners = \"any\"\n").unwrap();
    std::fs::write(path.join("model.gguf"), model()).unwrap();
    folder
}

#[tokio::test]
async fn an_instance_proves_itself_and_serves_and_no_other_image_or_model_does() {
    if swtpm().is_none() {
        return;
    }
    let folder = folder();
    let path = folder.path();
    let mut room = Room::start(path, "model.gguf");
    write_policy(path, "trust.toml", &room.image, "model.gguf");

    // Through the host, and without it.
    let direct = format!("{}:{}", Room::instance_address(), port::PARTNERS);
    for address in [&room.address, &direct] {
        let verdict = verdict(path, address, "trust.toml");
        assert_eq!(
            (&verdict["accepted"], &verdict["verdict"]["tier"]),
            (&true.into(), &"development".into())
        );
        let chat = ["chat", address, "--key", "partner.key", "--prompt", "What is attestation?"];
        let answer = succeed("cleanroom", path, &chat);
        assert!(answer.starts_with("Attestation proves which image"), "{answer}");
    }
    let connect = ["connect", &direct, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"];
    let mut proxy = Running::start("cleanroom", path, &connect);
    let base_url = proxy.wait_for("\"base_url\": \"");
    official::expect_passed(official::run(Package::OpenAi, base_url.trim_end_matches("\",")).unwrap());
    assert!(proxy.stop().success());

    // Another program, or another configuration.
    let pcr4 = room.image.split(',').next().unwrap();
    let other = room.image.replace(pcr4, &format!("nitrotpm:{}", measured(4)));
    write_policy(path, "other.toml", &other, "model.gguf");
    assert_eq!(verdict(path, &direct, "other.toml")["code"], "nitrotpm-pcr-mismatch");

    // Whoever reaches the ports gets no further than a host.
    assert!(
        Room::stranger(port::MODEL).await.is_err(),
        "the model is there, and nobody can bring another one"
    );
    let mut control = Control::over(Room::stranger(port::CONTROL).await.unwrap());
    let answer = control.send(ControlKind::RELEASE, b"{}").await;
    assert_eq!(answer, ControlAnswer::Refused("no-release-control".to_owned()));
    drop(control);

    // The host has it drain, and the log gets its end.
    assert!(room.host.stop().success());
    assert!(room.instance.stop().success());
    drop(room);

    // The next start of the machine, with other weights.
    let mut weights = model();
    *weights.last_mut().unwrap() ^= 1;
    std::fs::write(path.join("other.gguf"), &weights).unwrap();
    let room = Room::start(path, "other.gguf");
    write_policy(path, "trust.toml", &room.image, "model.gguf");
    let refused = verdict(path, &direct, "trust.toml");
    assert_eq!(refused["code"], "nitrotpm-pcr-mismatch", "{refused}");
    write_policy(path, "new.toml", &room.image, "other.gguf");
    assert_eq!(verdict(path, &direct, "new.toml")["accepted"], true);
}
