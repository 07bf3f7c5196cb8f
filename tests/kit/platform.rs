//! A clean room in this process: a real attester on a software security module under a root of its own.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::policy::Policy;
use cleanroom_channel::identity::Identity;
use cleanroom_keeper::Attester;
use cleanroom_keeper::commitment::commit;
use cleanroom_keeper::receipt_key::ReceiptKey;
use cleanroom_keeper::security_module::{Device, SecurityModule};
use cleanroom_partner::channel::RelyingParty;
use cleanroom_program::file::create_secret;
use cleanroom_software_nsm::{DevelopmentRoot, Measurements, SoftwareNsm};
use cleanroom_worker as worker;
use cleanroom_worker::channel::Acceptor;
use tokio::net::UnixStream;

use crate::official::Partner;

/// The name of the model of every room.
#[must_use]
pub fn model_id() -> ModelId {
    ModelId::new("demo").unwrap()
}

/// The identity of the model of every room.
#[must_use]
pub fn model_digest() -> Sha256Digest {
    Sha256Digest::of(&[b"the weights"])
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Keeps back answers until it is lifted.
#[derive(Clone, Default)]
struct Hold(Arc<(Mutex<bool>, Condvar)>);

impl Hold {
    fn set(&self, held: bool) {
        let (state, changed) = &*self.0;
        *state.lock().unwrap() = held;
        changed.notify_all();
    }

    fn pass(&self) {
        let (state, changed) = &*self.0;
        drop(changed.wait_while(state.lock().unwrap(), |held| *held).unwrap());
    }
}

/// A software security module as the enclave's device. Clones are the same module.
#[derive(Clone)]
pub struct SoftwareDevice {
    module: Arc<Mutex<SoftwareNsm>>,
    shift_ms: i64,
    delay: Duration,
    requests: Arc<AtomicUsize>,
    hold: Hold,
}

impl SoftwareDevice {
    /// Asks the module for a document with any fields, as only whoever runs the module can.
    #[must_use]
    pub fn attest(&self, nonce: &[u8], user_data: &[u8], public_key: &[u8]) -> Vec<u8> {
        let bytes = |bytes: &[u8]| Some(serde_bytes::ByteBuf::from(bytes));
        let request = Request::Attestation {
            nonce: bytes(nonce),
            user_data: bytes(user_data),
            public_key: bytes(public_key),
        };
        match self.clone().process(request) {
            Response::Attestation { document } => document,
            other => panic!("expected a document, got {other:?}"),
        }
    }
}

impl Device for SoftwareDevice {
    fn process(&mut self, request: Request) -> Response {
        let request = serde_cbor::to_vec(&request).unwrap();
        self.requests.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.delay);
        self.hold.pass();
        let now = now_ms().saturating_add_signed(self.shift_ms);
        let answer = self.module.lock().unwrap().process(&request, now);
        serde_cbor::from_slice(&answer).unwrap_or(Response::Error(ErrorCode::InternalError))
    }
}

/// A development root, the measurements of an image, and rooms and partners that agree on both.
pub struct World {
    root: Arc<DevelopmentRoot>,
    /// What the partner's policy accepts.
    pub accepted: Measurements,
    pcrs: [Sha384Digest; 3],
    shift_ms: i64,
    delay: Duration,
    requests: Arc<AtomicUsize>,
    hold: Hold,
}

impl World {
    /// A new root and an image.
    #[must_use]
    pub fn new() -> Self {
        Self::at(0)
    }

    /// The same, in which security modules are `shift_ms` ahead of the clock of the machine that everything runs on.
    #[must_use]
    pub fn at(shift_ms: i64) -> Self {
        let root = DevelopmentRoot::generate(now_ms().saturating_add_signed(shift_ms)).unwrap();
        let root = Arc::new(root);
        let pcrs = [b"0", b"1", b"2"].map(|name| Sha384Digest::of(&[name]));
        Self {
            root,
            accepted: Measurements::of_image(pcrs[0], pcrs[1], pcrs[2]),
            pcrs,
            shift_ms,
            delay: Duration::ZERO,
            requests: Arc::default(),
            hold: Hold::default(),
        }
    }

    /// The same, whose security modules take this long for each answer, as hardware does.
    #[must_use]
    pub fn slow(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// How many requests the security modules have begun.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Whether the security modules keep back every answer.
    pub fn hold(&self, held: bool) {
        self.hold.set(held);
    }

    /// Milliseconds since the Unix epoch by the clock of the security modules.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        now_ms().saturating_add_signed(self.shift_ms)
    }

    /// PCR 0, 1 and 2 of the accepted image.
    #[must_use]
    pub const fn image(&self) -> [Sha384Digest; 3] {
        self.pcrs
    }

    /// The policy that pins `root` and takes everything else from what is released under it.
    #[must_use]
    pub fn policy_under(&self, root: &str) -> Policy {
        Policy::from_toml(&self.policy_text_under(root)).unwrap()
    }

    /// The same as a policy's file has it.
    #[must_use]
    pub fn policy_text_under(&self, root: &str) -> String {
        let anchor = self.root.fingerprint();
        format!(
            "version = 1\n[[trust_anchor]]\nname = \"test\"\ntier = \"development\"\nsha256 = \"{anchor}\"\n\
             [release]\nmodel = \"demo\"\nroot = '''{root}'''\n[freshness]\nmax_age = \"5m\"\n"
        )
    }

    /// The security module of an enclave with `measurements` that has booted just now.
    #[must_use]
    pub fn device(&self, measurements: Measurements) -> SoftwareDevice {
        let nsm = SoftwareNsm::builder(Arc::clone(&self.root), measurements).start(self.now_ms()).unwrap();
        SoftwareDevice {
            module: Arc::new(Mutex::new(nsm)),
            shift_ms: self.shift_ms,
            delay: self.delay,
            requests: Arc::clone(&self.requests),
            hold: self.hold.clone(),
        }
    }

    /// An enclave with `measurements`, booted and ready.
    pub async fn enclave(&self, measurements: Measurements) -> Acceptor {
        self.enclave_on(self.device(measurements)).await
    }

    /// An enclave on a security module.
    pub async fn enclave_on(&self, device: SoftwareDevice) -> Acceptor {
        let security_module = SecurityModule::start(device).unwrap();
        let receipt_key = ReceiptKey::generate().unwrap();
        let committed = commit(&security_module, model_digest(), &receipt_key).await.unwrap();
        let attester = Attester::new(committed, model_id(), security_module, receipt_key);
        let (keeper, acceptor) = UnixStream::pair().unwrap();
        // Ends with the acceptor.
        tokio::spawn(attester.serve(keeper));
        worker::acceptor(acceptor).await.unwrap()
    }

    /// The partner's policy: this root, this image, this model.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy_for(model_digest())
    }

    /// The same for another model.
    #[must_use]
    pub fn policy_for(&self, model: Sha256Digest) -> Policy {
        Policy::from_toml(&self.policy_text(model)).unwrap()
    }

    /// The same as a policy's file has it.
    #[must_use]
    pub fn policy_text(&self, model: Sha256Digest) -> String {
        let [pcr0, pcr1, pcr2] = self.pcrs;
        let root = self.root.fingerprint();
        format!(
            "version = 1\n\
             [[trust_anchor]]\nname = \"test\"\ntier = \"development\"\nsha256 = \"{root}\"\n\
             [[image]]\nname = \"the image\"\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n\
             [[model]]\nid = \"demo\"\nsha256 = \"{model}\"\n\
             [freshness]\nmax_age = \"5m\"\n"
        )
    }

    /// Writes the files of a partner into a folder: this policy, and a key.
    #[must_use]
    pub fn partner_files(&self, folder: &Path, model: Sha256Digest, address: String) -> Partner {
        let (policy, key) = (folder.join("trust.toml"), folder.join("cleanroom.key"));
        std::fs::write(&policy, self.policy_text(model)).unwrap();
        create_secret(&key, Identity::generate().unwrap().to_pem().as_bytes()).unwrap();
        Partner { address, policy, key }
    }

    /// A partner with a key of its own and [`World::policy`].
    #[must_use]
    pub fn partner(&self) -> RelyingParty {
        RelyingParty::new(&Identity::generate().unwrap(), self.policy(), model_id()).unwrap()
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
