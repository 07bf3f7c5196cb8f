//! The front before the real swtpm: this test is a guest on the data channel.
//!
//! swtpm is in Debian's package `swtpm`. Where it is absent, the test says so; with `CI` set it fails.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up has failed")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::document::{Document, Pcrs};
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Expectation, Outcome, appraise};
use cleanroom_software_nsm::{DevelopmentRoot, TpmAttester};
use cleanroom_software_tpm::device::{AUTH_TYPE, NOT_LARGE, NV_RANGE};
use cleanroom_software_tpm::guest::Guest;
use serde::Deserialize as _;

/// The owner's hierarchy, and an index that the test takes.
const OWNER: u32 = 0x4000_0001;
const INDEX: u32 = 0x0180_1234;
/// `AUTHREAD | AUTHWRITE | NO_DA`.
const ATTRIBUTES: u32 = 0x0204_0004;
/// SHA-512, as AWS's programs choose for the index's name.
const NAME_ALGORITHM: u16 = 0x0d;
/// What swtpm answers when the password is wrong (`TPM_RC_BAD_AUTH`, first session).
const BAD_AUTH: u32 = 0x9a2;

struct Machine {
    /// The guest's TPM.
    tpm: UnixStream,
    root: Arc<DevelopmentRoot>,
    _guest: Guest,
    _state: tempfile::TempDir,
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl Machine {
    /// `None` when swtpm is not installed.
    fn start() -> Option<Self> {
        let Some(program) = Guest::program() else {
            let missing = "swtpm is missing; get it with: apt-get install swtpm";
            assert!(std::env::var_os("CI").is_none_or(|value| value.is_empty()), "{missing}");
            eprintln!("NOT TESTED: {missing}");
            return None;
        };
        let state = tempfile::tempdir().unwrap();
        let root = Arc::new(DevelopmentRoot::generate(now_ms()).unwrap());
        let attester = TpmAttester::start(Arc::clone(&root), now_ms()).unwrap();
        let guest = Guest::start(&program, state.path(), attester).unwrap();
        Some(Self { tpm: guest.tpm().unwrap(), root, _guest: guest, _state: state })
    }

    /// Sends one command. Gives the response's code and what follows it.
    fn command(&mut self, tag: u16, code: u32, parts: &[&[u8]]) -> (u32, Vec<u8>) {
        let body = parts.concat();
        let length = u32::try_from(10 + body.len()).unwrap();
        let header = [&tag.to_be_bytes()[..], &length.to_be_bytes(), &code.to_be_bytes()].concat();
        self.tpm.write_all(&[header, body].concat()).unwrap();
        let mut header = [0; 10];
        self.tpm.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes(header[2..6].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap() - 10];
        self.tpm.read_exact(&mut body).unwrap();
        (u32::from_be_bytes(header[6..].try_into().unwrap()), body)
    }

    /// A command with these handles, authorised by `password`. Gives the response's code and parameters.
    fn authorised(
        &mut self,
        code: u32,
        handles: &[u32],
        password: &[u8],
        parameters: &[u8],
    ) -> (u32, Vec<u8>) {
        let handles: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        let session = [&[0x40, 0, 0, 9, 0, 0, 1][..], &sized(password)].concat();
        let length = u32::try_from(session.len()).unwrap().to_be_bytes();
        let (code, body) = self.command(0x8002, code, &[&handles, &length, &session, parameters]);
        if code != 0 {
            return (code, Vec::new());
        }
        let length = usize::try_from(u32::from_be_bytes(body[..4].try_into().unwrap())).unwrap();
        assert_eq!(body[4 + length..], [0, 0, 1, 0, 0], "an authorisation area of a password");
        (code, body[4..4 + length].to_vec())
    }

    fn define(&mut self, index: u32, password: &[u8], length: u16) -> u32 {
        let public = public_area(index, length);
        self.authorised(0x12a, &[OWNER], b"", &[sized(password), sized(&public)].concat()).0
    }

    fn write(&mut self, password: &[u8], offset: u16, data: &[u8]) -> u32 {
        let parameters = [&sized(data)[..], &offset.to_be_bytes()].concat();
        self.authorised(0x137, &[INDEX, INDEX], password, &parameters).0
    }

    fn read(&mut self, password: &[u8], offset: u16, length: u16) -> Result<Vec<u8>, u32> {
        let parameters = [length.to_be_bytes(), offset.to_be_bytes()].concat();
        match self.authorised(0x14e, &[INDEX, INDEX], password, &parameters) {
            (0, data) => Ok(data[2..].to_vec()),
            (code, _) => Err(code),
        }
    }

    /// AWS's sequence: a request into the index, the vendor command, and the answer out of it.
    fn ask(&mut self, password: &[u8], request: &Request) -> Response {
        let request = serde_cbor::to_vec(request).unwrap();
        for (piece, offset) in request.chunks(1024).zip((0..).step_by(1024)) {
            assert_eq!(self.write(password, offset, piece), 0);
        }
        assert_eq!(self.authorised(0x2000_0001, &[INDEX, INDEX], password, &[]), (0, Vec::new()));
        let answer: Vec<u8> =
            (0..8192).step_by(1024).flat_map(|offset| self.read(password, offset, 1024).unwrap()).collect();
        Response::deserialize(&mut serde_cbor::Deserializer::from_slice(&answer)).unwrap()
    }
}

/// The public area of an index of data.
fn public_area(index: u32, length: u16) -> Vec<u8> {
    let (index, name, attributes) =
        (index.to_be_bytes(), NAME_ALGORITHM.to_be_bytes(), ATTRIBUTES.to_be_bytes());
    [&index[..], &name, &attributes, &[0, 0], &length.to_be_bytes()].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn attestation(nonce: &[u8]) -> Request {
    let bytes = |bytes: &[u8]| Some(serde_bytes::ByteBuf::from(bytes));
    Request::Attestation { nonce: bytes(nonce), user_data: bytes(b"user data"), public_key: bytes(b"key") }
}

#[test]
fn a_guest_gets_documents_of_its_own_registers() {
    let Some(mut machine) = Machine::start() else { return };
    let password = [7; 64];
    assert_eq!(machine.define(INDEX, &password, 8192), 0);

    // What firmware would measure into registers 4 and 7.
    let digest = [4; 48];
    let digests = [&[0, 0, 0, 1, 0, 0x0c][..], &digest].concat();
    for register in [4, 7] {
        assert_eq!(machine.authorised(0x182, &[register], b"", &digests).0, 0);
    }

    let nonce = [9; 32];
    let Response::Attestation { document } = machine.ask(&password, &attestation(&nonce)) else {
        panic!("expected a document");
    };
    let parsed = Document::parse(&document).unwrap();
    assert!(parsed.module_id().contains("-tpm"), "{}", parsed.module_id());
    let Pcrs::NitroTpm(registers) = parsed.pcrs() else { panic!("expected registers of a TPM") };
    let zero = Sha384Digest::from_bytes([0; 48]);
    let extended = Sha384Digest::of(&[&[0; 48], &digest]);
    assert_eq!(registers.iter().count(), 24);
    assert_eq!((registers.get(4), registers.get(12)), (Some(&extended), Some(&zero)));
    assert_eq!(registers.get(17), Some(&Sha384Digest::from_bytes([0xff; 48])));

    let policy = |pcr4: Sha384Digest| {
        let root = machine.root.fingerprint();
        let text = format!(
            "version = 1\n[[trust_anchor]]\nname = \"swtpm\"\ntier = \"development\"\nsha256 = \"{root}\"\n\
             [[nitrotpm_image]]\nname = \"test\"\npcrs.4 = \"{pcr4}\"\npcrs.7 = \"{extended}\"\npcrs.12 = \"{zero}\"\n"
        );
        Policy::from_toml(&text).unwrap()
    };
    let expected =
        Expectation { nonce: Some(&nonce), user_data: Some(b"user data"), ..Expectation::default() };
    let judge = |pcr4| appraise(&document, &policy(pcr4), &expected, Timestamp::from_millis(now_ms()), None);
    // Nothing failed; nobody asked about the public key, the model and the receipt key.
    assert_eq!(judge(extended).outcome(), Outcome::Partial, "{}", judge(extended));
    assert_eq!(judge(Sha384Digest::from_bytes([1; 48])).outcome(), Outcome::Fail);

    // The same index answers again, with the registers of that time, and another guest's request is no request.
    let Response::Attestation { document: again } = machine.ask(&password, &attestation(&[8; 32])) else {
        panic!("expected a document");
    };
    assert_eq!(Document::parse(&again).unwrap().nonce(), Some(&[8; 32][..]));
    assert!(matches!(
        machine.ask(&password, &Request::GetRandom),
        Response::Error(ErrorCode::InvalidOperation)
    ));
    assert!(matches!(
        machine.ask(&password, &attestation(&[1; 513])),
        Response::Error(ErrorCode::InputTooLarge)
    ));
}

#[test]
fn swtpm_judges_every_authorisation() {
    let Some(mut machine) = Machine::start() else { return };
    let password = [7; 64];
    assert_eq!(machine.define(INDEX, &password, 8192), 0);
    assert_eq!(machine.write(&password, 100, b"data"), 0);
    assert_eq!(machine.read(&password, 100, 4), Ok(b"data".to_vec()));
    assert_eq!(machine.read(&password, 8190, 2), Ok(vec![0; 2]));
    // Another password reads, writes and attests nothing.
    assert_eq!(machine.read(b"other", 100, 4), Err(BAD_AUTH));
    assert_eq!(machine.write(b"other", 100, b"gone"), BAD_AUTH);
    assert_eq!(machine.authorised(0x2000_0001, &[INDEX, INDEX], b"other", &[]).0, BAD_AUTH);
    assert_eq!(machine.read(&password, 100, 4), Ok(b"data".to_vec()));
    // Nothing is read or written behind the end, nor more than one command carries.
    assert_eq!(machine.read(&password, 8191, 2), Err(NV_RANGE));
    assert_eq!(machine.write(&password, 8191, b"xy"), NV_RANGE);
    assert_eq!(machine.read(&password, 0, 1025), Err(NV_RANGE));
    // The index is there once, and its public area has the length that it was given.
    assert_ne!(machine.define(INDEX, &password, 8192), 0);
    let (code, public) = machine.command(0x8001, 0x169, &[&INDEX.to_be_bytes()]);
    assert_eq!((code, &public[14..16]), (0, &8192_u16.to_be_bytes()[..]));
    assert_eq!(public.len(), 2 + 14 + 2 + 2 + 64, "a name of SHA-512");
    assert_eq!(machine.write(&password, 0, &[0; 1025]), NV_RANGE);
    // A session that protects the command's length is refused by name.
    let session = [&[2, 0, 0, 0, 0, 0, 1][..], &sized(&[0; 64])].concat();
    let length = u32::try_from(session.len()).unwrap().to_be_bytes();
    let index = INDEX.to_be_bytes();
    for code in [0x2000_0001, 0x137, 0x14e] {
        let refused = machine.command(0x8002, code, &[&index, &index, &length, &session, &[0, 0, 0, 0]]);
        assert_eq!(refused.0, AUTH_TYPE, "{code:#x}");
    }
    let public = public_area(INDEX + 1, 8192);
    let parameters = [sized(b""), sized(&public)].concat();
    let refused = machine.command(0x8002, 0x12a, &[&OWNER.to_be_bytes(), &length, &session, &parameters]);
    assert_eq!(refused.0, AUTH_TYPE);
    // Gone is gone.
    assert_eq!(machine.authorised(0x122, &[OWNER, INDEX], b"", &[]).0, 0);
    assert!(machine.read(&password, 100, 4).is_err());
    assert_eq!(machine.authorised(0x2000_0001, &[INDEX, INDEX], &password, &[]).0, NOT_LARGE);
}

#[test]
fn other_indexes_are_swtpms_own() {
    let Some(mut machine) = Machine::start() else { return };
    assert_eq!(machine.define(INDEX, b"", 64), 0);
    assert_eq!(machine.write(b"", 0, &[5; 64]), 0);
    assert_eq!(machine.read(b"", 0, 64), Ok(vec![5; 64]));
    assert!(machine.read(b"", 1, 64).is_err());
    assert_eq!(machine.authorised(0x2000_0001, &[INDEX, INDEX], b"", &[]).0, NOT_LARGE);
    // Longer than AWS's: swtpm refuses it.
    assert_ne!(machine.define(INDEX + 1, b"", 8193), 0);
}
