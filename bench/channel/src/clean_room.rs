//! A clean room for measuring: the enclave's own code on a software security module whose time is kept.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::policy::Policy;
use cleanroom_keeper::Attester;
use cleanroom_keeper::commitment::commit;
use cleanroom_keeper::receipt_key::ReceiptKey;
use cleanroom_keeper::security_module::{Device, SecurityModule};
use cleanroom_software_nsm::serve::system_time_ms;
use cleanroom_software_nsm::{DevelopmentRoot, Measurements, SoftwareNsm};
use cleanroom_worker as worker;
use cleanroom_worker::channel::Acceptor;
use tokio::net::UnixStream;

use crate::clock;

/// The name of the model of every room.
pub(crate) const MODEL: &str = "bench";

/// What the security module used, over all its answers.
#[derive(Clone, Default)]
pub(crate) struct ModuleTime(Arc<Spent>);

#[derive(Default)]
struct Spent {
    wall: AtomicU64,
    cpu: AtomicU64,
}

impl ModuleTime {
    /// Elapsed time and processor time of all answers so far.
    pub(crate) fn spent(&self) -> (Duration, Duration) {
        let read = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        (read(&self.0.wall), read(&self.0.cpu))
    }

    fn add(&self, wall: Duration, cpu: Duration) {
        self.0.wall.fetch_add(wall.as_nanos() as u64, Ordering::Relaxed);
        self.0.cpu.fetch_add(cpu.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// A software security module as the enclave's device. All that stands for `/dev/nsm` is timed, its CBOR included, as the driver's
/// callers pay for that too.
struct TimedDevice {
    nsm: SoftwareNsm,
    time: ModuleTime,
}

impl Device for TimedDevice {
    fn process(&mut self, request: Request) -> Response {
        let (wall, cpu) = (Instant::now(), clock::thread());
        let answer =
            serde_cbor::to_vec(&request).ok().map(|request| self.nsm.process(&request, system_time_ms()));
        let answer = answer.and_then(|answer| serde_cbor::from_slice(&answer).ok());
        self.time.add(wall.elapsed(), clock::thread() - cpu);
        answer.unwrap_or(Response::Error(ErrorCode::InternalError))
    }
}

/// A development root and an enclave image under it.
pub(crate) struct World {
    root: Arc<DevelopmentRoot>,
    pcrs: [Sha384Digest; 3],
}

impl World {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let root = Arc::new(DevelopmentRoot::generate(system_time_ms())?);
        Ok(Self { root, pcrs: [b"0", b"1", b"2"].map(|name| Sha384Digest::of(&[name])) })
    }

    /// The security module of an enclave that has just booted.
    pub(crate) fn device(&self) -> Result<(impl Device + use<>, ModuleTime), Box<dyn Error>> {
        let [pcr0, pcr1, pcr2] = self.pcrs;
        let measurements = Measurements::of_image(pcr0, pcr1, pcr2);
        let nsm = SoftwareNsm::builder(Arc::clone(&self.root), measurements).start(system_time_ms())?;
        let time = ModuleTime::default();
        Ok((TimedDevice { nsm, time: time.clone() }, time))
    }

    /// An enclave that can attest and serves nothing.
    pub(crate) async fn acceptor(
        &self,
        model: Sha256Digest,
    ) -> Result<(Acceptor, ModuleTime), Box<dyn Error>> {
        let (device, time) = self.device()?;
        let security_module = SecurityModule::start(device)?;
        let receipt_key = ReceiptKey::generate()?;
        let committed = commit(&security_module, model, &receipt_key).await?;
        let attester = Attester::new(committed, model_id(), security_module, receipt_key);
        let (keeper, acceptor) = UnixStream::pair()?;
        // Ends with the acceptor.
        tokio::spawn(attester.serve(keeper));
        Ok((worker::acceptor(acceptor).await?, time))
    }

    /// The policy of a partner who accepts this image under this root with this model, as a file.
    pub(crate) fn policy(&self, model: Sha256Digest) -> String {
        let [pcr0, pcr1, pcr2] = self.pcrs;
        let root = self.root.fingerprint();
        format!(
            "version = 1\n\
             [[trust_anchor]]\nname = \"bench\"\ntier = \"development\"\nsha256 = \"{root}\"\n\
             [[image]]\nname = \"the image\"\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n\
             [[model]]\nid = \"{MODEL}\"\nsha256 = \"{model}\"\n\
             [freshness]\nmax_age = \"5m\"\n"
        )
    }
}

/// The model's name.
pub(crate) fn model_id() -> ModelId {
    ModelId::new(MODEL).expect("a valid name")
}

/// Reads what [`World::policy`] wrote.
pub(crate) fn read_policy(text: &str) -> Result<Policy, Box<dyn Error>> {
    Ok(Policy::from_toml(text)?)
}
