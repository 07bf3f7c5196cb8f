//! A partner's own code proves a room on an instance with a NitroTPM: the real swtpm behind the project's front, the keeper's
//! device on it, and the worker's channel.
//!
//! swtpm is in Debian's package `swtpm`. Where it is absent, the test says so; with `CI` set it fails.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::Write as _;
use std::sync::Arc;

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::measurement::extended_once;
use cleanroom_attestation::policy::Policy;
use cleanroom_channel::identity::Identity;
use cleanroom_keeper::Attester;
use cleanroom_keeper::commitment::commit;
use cleanroom_keeper::receipt_key::ReceiptKey;
use cleanroom_keeper::security_module::SecurityModule;
use cleanroom_nitrotpm::NitroTpm;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::clock::now;
use cleanroom_software_nsm::{DevelopmentRoot, TpmAttester};
use cleanroom_software_tpm::guest::Guest;
use cleanroom_tests::platform::{model_digest, model_id, now_ms};
use cleanroom_tpm::{Message, PCR_EXTEND, SESSIONS, message, read_message};
use cleanroom_worker as worker;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

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
    let Some(program) = Guest::program() else {
        let missing = "swtpm is missing; get it with: apt-get install swtpm";
        assert!(std::env::var_os("CI").is_none_or(|value| value.is_empty()), "{missing}");
        eprintln!("NOT TESTED: {missing}");
        return;
    };
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
