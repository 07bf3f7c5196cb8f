//! The device on the real swtpm, behind the project's front with AWS's vendor command: this test is the instance.
//!
//! swtpm is in Debian's package `swtpm`. Where it is absent, the test says so; with `CI` set it fails.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use cleanroom_attestation::channel::boot_measurement::{self, Registers, cap};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::document::{Document, Pcrs};
use cleanroom_attestation::measurement::extended_once;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Axis, AxisStatus, Expectation, Verdict, appraise};
use cleanroom_keeper::commitment::{CommitmentError, commit};
use cleanroom_keeper::receipt_key::ReceiptKey;
use cleanroom_keeper::security_module::{Device, SecurityModule};
use cleanroom_nitrotpm::{NitroTpm, TpmError, Transport};
use cleanroom_software_nsm::{DevelopmentRoot, TpmAttester};
use cleanroom_software_tpm::guest::Guest;
use cleanroom_tpm::{Message, NO_SESSIONS, PCR_EXTEND, SESSIONS, message, read_message};

const MODEL: Registers = Registers::NitroTpm;
const NONCE: [u8; 32] = [9; 32];
/// `TPM2_PCR_Reset`, and `TPM_RC_LOCALITY`.
const PCR_RESET: u32 = 0x13d;
const LOCALITY: u32 = 0x907;

struct Instance {
    guest: Guest,
    root: Arc<DevelopmentRoot>,
    _state: tempfile::TempDir,
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn zero() -> Sha384Digest {
    Sha384Digest::from_bytes([0; 48])
}

impl Instance {
    /// An instance whose firmware has measured something into registers 4 and 7. `None` when swtpm is not installed.
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
        let instance = Self { guest, root, _state: state };
        for register in [4, 7] {
            assert_eq!(instance.extend(register, &Sha384Digest::from_bytes([register; 48])), 0);
        }
        Some(instance)
    }

    fn tpm(&self) -> UnixStream {
        self.guest.tpm().unwrap()
    }

    fn device(&self) -> NitroTpm<UnixStream> {
        NitroTpm::start(self.tpm()).unwrap()
    }

    /// A command on a register as any program on the instance could send it. Gives the response's code.
    fn on_register(&self, code: u32, register: u8, parameters: &[u8]) -> u32 {
        let session = [0x40, 0, 0, 9, 0, 0, 1, 0, 0];
        let body: [&[u8]; 4] = [&[0, 0, 0, register], &[0, 0, 0, 9], &session, parameters];
        let mut tpm = self.tpm();
        tpm.write_all(&message(SESSIONS, code, &body)).unwrap();
        Message::parse(&read_message(&mut tpm).unwrap()).unwrap().code
    }

    fn extend(&self, register: u8, digest: &Sha384Digest) -> u32 {
        self.on_register(PCR_EXTEND, register, &[&[0, 0, 0, 1, 0, 0x0c][..], digest.as_bytes()].concat())
    }

    /// What a partner says of a document who expects this model and this receipt key.
    fn judge(&self, document: &[u8], model: &Sha256Digest, receipt_key: &ReceiptKey) -> Verdict {
        let [pcr4, pcr7] = [4, 7].map(|value| extended_once(&[value; 48]));
        let (root, pcr12) = (self.root.fingerprint(), zero());
        let policy = format!(
            "version = 1\n[[trust_anchor]]\nname = \"swtpm\"\ntier = \"development\"\nsha256 = \"{root}\"\n\
             [[nitrotpm_image]]\nname = \"test\"\npcrs.4 = \"{pcr4}\"\npcrs.7 = \"{pcr7}\"\npcrs.12 = \"{pcr12}\"\n"
        );
        let policy = Policy::from_toml(&policy).unwrap();
        let key = receipt_key.subject_public_key_info();
        let expected = Expectation {
            nonce: Some(&NONCE),
            user_data: Some(b"transcript"),
            public_key: Some(key),
            pcr16: Some(extended_once(boot_measurement::model(model).as_bytes())),
            pcr17: Some(extended_once(boot_measurement::receipt_key(key).as_bytes())),
        };
        appraise(document, &policy, &expected, Timestamp::from_millis(now_ms()), None)
    }
}

fn document(device: &mut impl Device, receipt_key: &ReceiptKey) -> Vec<u8> {
    let bytes = |bytes: &[u8]| Some(serde_bytes::ByteBuf::from(bytes));
    let request = Request::Attestation {
        nonce: bytes(&NONCE),
        user_data: bytes(b"transcript"),
        public_key: bytes(receipt_key.subject_public_key_info()),
    };
    match device.process(request) {
        Response::Attestation { document } => document,
        other => panic!("expected a document, got {other:?}"),
    }
}

fn register(device: &mut impl Device, index: u8) -> (Sha384Digest, bool) {
    match device.process(Request::DescribePCR { index: u16::from(index) }) {
        Response::DescribePCR { lock, data } => (Sha384Digest::try_from(&data[..]).unwrap(), lock),
        other => panic!("expected a register, got {other:?}"),
    }
}

/// A device that the test keeps, too.
#[derive(Clone)]
struct Shared(Arc<std::sync::Mutex<NitroTpm<UnixStream>>>);

impl Device for Shared {
    const REGISTERS: Registers = Registers::NitroTpm;

    fn process(&mut self, request: Request) -> Response {
        self.0.lock().unwrap().process(request)
    }
}

/// A device on which the keeper has committed.
async fn committed(instance: &Instance, model: Sha256Digest, receipt_key: &ReceiptKey) -> Shared {
    let device = Shared(Arc::new(std::sync::Mutex::new(instance.device())));
    let security_module = SecurityModule::start(device.clone()).unwrap();
    commit(&security_module, model, receipt_key).await.unwrap();
    device
}

#[tokio::test]
async fn a_document_proves_the_image_the_model_and_the_receipt_key() {
    let Some(instance) = Instance::start() else { return };
    let (model, receipt_key) = (Sha256Digest::of(&[b"weights"]), ReceiptKey::generate().unwrap());
    let mut device = committed(&instance, model, &receipt_key).await;
    let bytes = document(&mut device, &receipt_key);
    let verdict = instance.judge(&bytes, &model, &receipt_key);
    assert!(verdict.accepted_session().is_ok(), "{verdict}");

    let parsed = Document::parse(&bytes).unwrap();
    let Pcrs::NitroTpm(registers) = parsed.pcrs() else { panic!("expected registers of a TPM") };
    let once = extended_once(boot_measurement::model(&model).as_bytes());
    assert_eq!(registers.get(14), Some(&Sha384Digest::of(&[once.as_bytes(), cap().as_bytes()])));

    // Another model, and another receipt key.
    let other = instance.judge(&bytes, &Sha256Digest::of(&[b"others"]), &receipt_key);
    assert_eq!(other.accepted().unwrap_err().code(), "nitrotpm-pcr-mismatch");
    assert_eq!(other.axis(Axis::Model), AxisStatus::Failed);
    let other = instance.judge(&bytes, &model, &ReceiptKey::generate().unwrap());
    assert_eq!(other.axis(Axis::Session), AxisStatus::Failed);
    // A second document, with the index as the first one left it.
    let again = document(&mut device, &receipt_key);
    assert!(instance.judge(&again, &model, &receipt_key).accepted_session().is_ok());
}

#[tokio::test]
async fn nobody_commits_twice_in_one_boot() {
    let Some(instance) = Instance::start() else { return };
    let (model, receipt_key) = (Sha256Digest::of(&[b"weights"]), ReceiptKey::generate().unwrap());
    let mut device = committed(&instance, model, &receipt_key).await;
    // The same start cannot, nor can another one, which a keeper that ended would be.
    let again = SecurityModule::start(device.clone()).unwrap();
    let touched = CommitmentError::Touched { index: 14 };
    assert_eq!(commit(&again, model, &receipt_key).await.unwrap_err(), touched);
    for index in [14, 15] {
        let extend = Request::ExtendPCR { index, data: vec![1; 48] };
        assert!(matches!(device.process(extend), Response::Error(ErrorCode::ReadOnlyIndex)));
        let lock = Request::LockPCR { index };
        assert!(matches!(device.process(lock), Response::Error(ErrorCode::ReadOnlyIndex)));
    }
    let later = SecurityModule::start(instance.device()).unwrap();
    assert_eq!(commit(&later, model, &receipt_key).await.unwrap_err(), touched);
    // The index is the later start's now.
    let request = Request::Attestation { nonce: None, user_data: None, public_key: None };
    assert!(matches!(device.process(request), Response::Error(ErrorCode::InternalError)));
}

#[tokio::test]
async fn a_closed_register_has_no_way_back_and_none_onwards() {
    let Some(instance) = Instance::start() else { return };
    let (model, receipt_key) = (Sha256Digest::of(&[b"weights"]), ReceiptKey::generate().unwrap());
    let mut device = committed(&instance, model, &receipt_key).await;
    let before = [14, 15].map(|index| register(&mut device, index));
    assert!(before.iter().all(|(value, closed)| *closed && !value.is_zero()));
    for index in [14, 15] {
        assert_eq!(instance.on_register(PCR_RESET, index, &[]), LOCALITY);
    }
    assert_eq!([14, 15].map(|index| register(&mut device, index)), before);
    // That is why 16 holds nothing: whoever speaks to the TPM sets it back.
    assert_eq!(instance.extend(16, &Sha384Digest::from_bytes([1; 48])), 0);
    assert_eq!(instance.on_register(PCR_RESET, 16, &[]), 0);
    assert!(register(&mut device, 16).0.is_zero());

    let bytes = document(&mut device, &receipt_key);
    assert!(instance.judge(&bytes, &model, &receipt_key).accepted_session().is_ok());
    // A second cap, by whoever got at the TPM.
    assert_eq!(instance.extend(14, &cap()), 0);
    let bytes = document(&mut device, &receipt_key);
    let verdict = instance.judge(&bytes, &model, &receipt_key);
    assert_eq!(verdict.accepted().unwrap_err().code(), "nitrotpm-pcr-mismatch");
    assert_eq!(verdict.axis(Axis::Model), AxisStatus::Failed);
    assert_eq!(verdict.axis(Axis::Session), AxisStatus::Passed);
}

#[test]
fn a_commitment_that_is_not_closed_proves_nothing() {
    let Some(instance) = Instance::start() else { return };
    let (model, receipt_key) = (Sha256Digest::of(&[b"weights"]), ReceiptKey::generate().unwrap());
    let mut device = instance.device();
    let key = boot_measurement::receipt_key(receipt_key.subject_public_key_info());
    for (index, data) in [(MODEL.model(), boot_measurement::model(&model)), (MODEL.receipt_key(), key)] {
        let request = Request::ExtendPCR { index: u16::from(index), data: data.as_bytes().to_vec() };
        let Response::ExtendPCR { data: value } = device.process(request) else { panic!("no value") };
        assert_eq!(value, extended_once(data.as_bytes()).as_bytes());
    }
    let bytes = document(&mut device, &receipt_key);
    let verdict = instance.judge(&bytes, &model, &receipt_key);
    assert_eq!([Axis::Model, Axis::Session].map(|axis| verdict.axis(axis)), [AxisStatus::Failed; 2]);
    for index in [14, 15] {
        assert!(matches!(device.process(Request::LockPCR { index }), Response::LockPCR));
    }
    let bytes = document(&mut device, &receipt_key);
    assert!(instance.judge(&bytes, &model, &receipt_key).accepted_session().is_ok());
}

#[test]
fn the_other_registers_are_read_and_never_written() {
    let Some(instance) = Instance::start() else { return };
    let mut device = instance.device();
    assert_eq!(register(&mut device, 4), (extended_once(&[4; 48]), false));
    assert_eq!(register(&mut device, 23), (zero(), false));
    for index in [0, 4, 13, 16, 17, 23, 24, 255, 270] {
        let refused = |response| matches!(response, Response::Error(ErrorCode::InvalidIndex));
        assert!(refused(device.process(Request::ExtendPCR { index, data: vec![1; 48] })), "{index}");
        assert!(refused(device.process(Request::LockPCR { index })), "{index}");
    }
    let short = Request::ExtendPCR { index: 14, data: vec![1; 47] };
    assert!(matches!(device.process(short), Response::Error(ErrorCode::InvalidArgument)));
    for index in [24, 270] {
        let described = device.process(Request::DescribePCR { index });
        assert!(matches!(described, Response::Error(ErrorCode::InvalidIndex)));
    }
    assert!(matches!(device.process(Request::DescribeNSM), Response::Error(ErrorCode::InvalidOperation)));
    // The TPM's own refusal comes back as it is.
    let nonce = Some(serde_bytes::ByteBuf::from(vec![1; 513]));
    let long = Request::Attestation { nonce, user_data: None, public_key: None };
    assert!(matches!(device.process(long), Response::Error(ErrorCode::InputTooLarge)));
    let nonce = Some(serde_bytes::ByteBuf::from(vec![1; 8192]));
    let long = Request::Attestation { nonce, user_data: None, public_key: None };
    assert!(matches!(device.process(long), Response::Error(ErrorCode::InputTooLarge)));
}

#[test]
fn the_tpm_gives_random_bytes() {
    let Some(instance) = Instance::start() else { return };
    let mut device = instance.device();
    let mut pools = [Vec::new(), Vec::new()];
    for pool in &mut pools {
        device.mix_into(&mut *pool).unwrap();
        assert_eq!(pool.len(), 256);
    }
    let [one, other] = pools;
    assert_ne!(one, other);
    let Response::GetRandom { random } = device.process(Request::GetRandom) else {
        panic!("no random bytes")
    };
    assert_eq!(random.len(), 256);
    assert_ne!(random, one);
}

/// A TPM one of whose responses arrives damaged.
struct Damaged {
    tpm: UnixStream,
    left: usize,
    damage: fn(&mut Vec<u8>),
}

impl Transport for Damaged {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut response = self.tpm.transact(command)?;
        if self.left == 0 {
            (self.damage)(&mut response);
        }
        self.left = self.left.wrapping_sub(1);
        Ok(response)
    }
}

/// Sets a response's length to what it has.
fn whole(response: &mut [u8]) {
    let length = u32::try_from(response.len()).unwrap();
    response[2..6].copy_from_slice(&length.to_be_bytes());
}

#[test]
fn no_response_that_is_damaged_counts() {
    let Some(instance) = Instance::start() else { return };
    // From here on each start finds an index that it takes away first.
    drop(instance.device());
    let damages: [fn(&mut Vec<u8>); 7] = [
        Vec::clear,
        |response| response.truncate(9),
        |response| _ = response.pop(),
        |response| response.push(0),
        |response| {
            _ = response.pop();
            whole(response);
        },
        |response| {
            response.push(0);
            whole(response);
        },
        |response| {
            let tag = if response[..2] == SESSIONS.to_be_bytes() { NO_SESSIONS } else { SESSIONS };
            response[..2].copy_from_slice(&tag.to_be_bytes());
        },
    ];
    // Three responses of the start, one of a register, a request of one piece, the vendor command, and eight pieces.
    let responses = 3 + 1 + 1 + 1 + 8;
    let run = |left: usize, damage: fn(&mut Vec<u8>)| -> Result<(), Option<TpmError>> {
        let transport = Damaged { tpm: instance.tpm(), left, damage };
        let mut device = NitroTpm::start(transport).map_err(Some)?;
        let Response::DescribePCR { .. } = device.process(Request::DescribePCR { index: 14 }) else {
            return Err(None);
        };
        let request = Request::Attestation { nonce: None, user_data: None, public_key: None };
        match device.process(request) {
            Response::Attestation { document } if Document::parse(&document).is_ok() => Ok(()),
            _ => Err(None),
        }
    };
    for left in 0..responses {
        for (number, damage) in damages.into_iter().enumerate() {
            assert!(run(left, damage).is_err(), "response {left}, damage {number}");
        }
    }
    assert!(run(responses, Vec::clear).is_ok(), "there are more responses than these");
}
