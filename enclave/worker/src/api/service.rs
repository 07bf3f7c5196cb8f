//! The service behind the API: a backend, under a name, within limits.

use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::Response;
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::engine::Engine;
use cleanroom_attestation::release::{Keep, Refusal};
use cleanroom_backend::{Abilities, Backend, Handle, Input, Owner, PrepareError, Prepared, StartError, Task};
use cleanroom_config::{self as config, Traffic};
use cleanroom_console::Line;
use cleanroom_guard::Clock;
use cleanroom_link::load::Load;
use http::Request;
use tokio::sync::Semaphore;

use super::body;
use super::conversation::ConversationRequest;
use super::error::ApiError;
use super::json::ParameterName;
use super::models::PublicModel;
use super::receipts::Receipts;
use super::request::{Parameters, RequestLimits};
use super::secret::{SecretBuffer, SecretString};
use super::tools::{self, AbilityNames};
use super::uniform::uniform;
use crate::admission::{Admission, AdmissionLimits, Full, Slot, partners_share};
use crate::grant::{Grant, Grants, Stop};
use crate::keeper::Keeper;
use crate::policies::{Policies, ReadClassifier};
use crate::session::{PartnerId, SessionIdentity};

/// Everything that is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests in the backend: the sequences that it runs and the requests that it lets wait.
    pub generations: AdmissionLimits,
    /// Request bodies that are being received. Times `body_bytes`, this is the memory that uploads can take.
    pub uploads: AdmissionLimits,
    /// Bytes in one body.
    pub body_bytes: usize,
    /// Time for one body to arrive.
    pub body_time: Duration,
    /// How much a request may hold.
    pub request: RequestLimits,
    /// The longest time from a request's start to the end of its answer.
    pub request_time: Duration,
    /// How long a refused client is told to wait; whole seconds, at least one.
    pub retry_after: Duration,
}

impl Limits {
    /// Limits for a backend that runs and queues `generations` requests. One partner may have [`partners_share`] of them.
    #[must_use]
    pub fn new(generations: NonZeroUsize) -> Self {
        let generations = AdmissionLimits { total: generations, per_partner: partners_share(generations) };
        Self {
            generations,
            uploads: generations,
            body_bytes: 1024 * 1024,
            body_time: Duration::from_secs(30),
            request: RequestLimits::default(),
            request_time: Duration::from_secs(60 * 60),
            retry_after: Duration::from_secs(1),
        }
    }
}

impl From<&config::Limits> for Limits {
    fn from(limits: &config::Limits) -> Self {
        Self {
            request_time: limits.request_time,
            ..Self::new(limits.sequences.saturating_add(limits.queued))
        }
    }
}

/// A slot in the backend, and under release control the grant to use it.
pub(super) struct Admitted {
    pub(super) slot: Slot,
    pub(super) grant: Option<Grant>,
}

impl Admitted {
    /// Whose share of the backend the request takes.
    pub(super) fn owner(&self) -> Owner {
        owner(self.slot.partner())
    }

    /// How large that share is.
    pub(super) fn share(&self) -> NonZeroU8 {
        self.grant.as_ref().map_or(NonZeroU8::MIN, Grant::share)
    }
}

/// What the API serves: a backend, under a name, within limits.
pub struct Service {
    /// Gone once the model is revoked.
    backend: RwLock<Option<Arc<dyn Backend>>>,
    /// Under release control: who permits, and who signs when a stream ends early.
    pub(super) control: Option<(Grants, Keeper)>,
    /// Who makes receipts. Without it there are none.
    pub(super) receipts: Option<Arc<Receipts>>,
    pub(super) traffic: Option<Traffic>,
    /// The safeguard policies that are here.
    pub(super) policies: Policies,
    /// Reads their classifiers.
    classifier: Option<ReadClassifier>,
    /// Turns to read prompts with them.
    pub(super) readers: Arc<Semaphore>,
    pub(super) model: PublicModel,
    pub(super) limits: Limits,
    generations: Arc<Admission>,
    uploads: Arc<Admission>,
}

impl Service {
    /// A service that nobody uses yet. `digest` is the model's identity.
    pub fn new(
        backend: Arc<dyn Backend>,
        id: ModelId,
        digest: Sha256Digest,
        limits: impl Into<Limits>,
    ) -> Self {
        let (model, limits) = (PublicModel::new(id, &digest, now()), limits.into());
        let (generations, uploads) = (Admission::new(limits.generations), Admission::new(limits.uploads));
        let backend = RwLock::new(Some(backend));
        Self {
            backend,
            control: None,
            receipts: None,
            traffic: None,
            policies: Policies::default(),
            classifier: None,
            readers: Arc::new(readers()),
            model,
            limits,
            generations,
            uploads,
        }
    }

    /// Which exchanges the release has kept, if it has any kept.
    pub(super) fn keep(&self) -> Option<Keep> {
        let (grants, _) = self.control.as_ref()?;
        grants.guard().retention().map(|rule| rule.keep)
    }

    /// The same service, under release control. The keeper signs the early end of a stream.
    #[must_use]
    pub fn guarded(mut self, grants: Grants, keeper: Keeper) -> Self {
        self.control = Some((grants, keeper));
        self
    }

    /// The same service, which has the keeper give a receipt for each request. `clock` is the machine's own.
    #[must_use]
    pub fn receipted(mut self, keeper: Keeper, clock: Clock) -> Self {
        self.receipts = Some(Receipts::new(keeper, clock));
        self
    }

    /// The same service, whose answers look from outside as `traffic` says.
    #[must_use]
    pub const fn shaped(mut self, traffic: Option<Traffic>) -> Self {
        self.traffic = traffic;
        self
    }

    /// The same service, whose safeguards have their classifiers read by `read`.
    #[must_use]
    pub fn classified_by(mut self, read: ReadClassifier) -> Self {
        self.classifier = Some(read);
        self
    }

    /// The same service, which tells its clients of the engine that runs the model.
    #[must_use]
    pub fn behind(mut self, engine: Option<Engine>) -> Self {
        self.model.engine = engine;
        self
    }

    /// Whether the authorities permit this partner anything now.
    pub(crate) fn check(&self, partner: PartnerId) -> Result<(), ApiError> {
        let Some((grants, _)) = &self.control else { return Ok(()) };
        grants.guard().check(partner.digest()).map_err(|refusal| {
            // Nothing is kept for a partner that may not use it.
            self.backend().into_iter().for_each(|backend| backend.forget(owner(partner)));
            ApiError::Stopped(refusal.into())
        })
    }

    /// Lets the backend keep what it has read of this partner's prompts, for its next ones, until the last such value is
    /// dropped.
    pub(crate) fn presence(&self, partner: PartnerId) -> Option<Handle> {
        self.backend().ok().map(|backend| backend.presence(owner(partner)))
    }

    /// Reads a safeguard policy. Whether it can judge.
    pub(crate) fn read_policy(&self, policy: &[u8]) -> bool {
        self.policies.read(policy)
    }

    /// Reads a classifier that a policy waits for. The policies that can judge now.
    pub(crate) fn read_classifier(&self, file: &[u8]) -> Vec<Sha256Digest> {
        self.classifier.map_or_else(Vec::new, |read| self.policies.read_classifier(file, read))
    }

    /// Lets go of everything that the authorities no longer permit.
    pub(crate) async fn release_changed(&self) {
        let Some((grants, _)) = &self.control else { return };
        self.policies.keep(&grants.guard().policies());
        if grants.guard().is_revoked() {
            self.erase().await;
        }
        let Ok(backend) = self.backend() else { return };
        for present in backend.present() {
            if grants.guard().check(&Sha256Digest::from_bytes(present.0)).is_err() {
                backend.forget(present);
            }
        }
    }

    /// Lets go of the weights for ever. Their memory is overwritten when the last request that still reads them has ended,
    /// which is after the token that it is at.
    async fn erase(&self) {
        let backend = self.backend.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(backend) = backend {
            Line::ModelRevoked.say();
            // Waits for the backend's threads.
            _ = tokio::task::spawn_blocking(move || drop(backend)).await;
        }
    }

    pub(super) fn backend(&self) -> Result<Arc<dyn Backend>, ApiError> {
        let backend = self.backend.read().unwrap_or_else(PoisonError::into_inner).clone();
        backend.ok_or(ApiError::Stopped(Stop::Refused(Refusal::ModelRevoked)))
    }

    /// What the model can be asked for.
    pub(super) fn abilities(&self) -> Result<Abilities, ApiError> {
        self.backend().map(|backend| backend.abilities())
    }

    /// Requests that hold a slot in the backend, or an answer that is still being read.
    pub fn active(&self) -> usize {
        self.generations.taken()
    }

    /// How much there is to do, once the backend has done a step; nothing when it has ended. While it stands still, this does
    /// not complete.
    pub(crate) async fn probe(&self) -> Option<Load> {
        let step = self.backend().ok().map(|backend| backend.step());
        if let Some(step) = step
            && !step.await
            && self.backend().is_ok()
        {
            return None;
        }
        // A model that is revoked has no backend, and the enclave refuses requests as it should.
        Some(Load::of(self.active(), self.limits.generations.total.get()))
    }

    /// Takes in the body, if there is space for the request that it makes.
    pub(super) async fn receive(
        &self,
        session: &SessionIdentity,
        request: Request<Body>,
    ) -> Result<SecretBuffer, ApiError> {
        self.generations.has_room(session.partner).map_err(|full| self.busy(full))?;
        let _upload = self.uploads.admit(session.partner).map_err(|full| self.busy(full))?;
        let (parts, body) = request.into_parts();
        body::read(&parts.headers, body, self.limits.body_bytes, self.limits.body_time).await
    }

    /// Takes in a conversation that `parse` reads and this model can answer, and slots for it. `names` are those of its
    /// parameters in this endpoint.
    pub(super) async fn conversation(
        &self,
        session: &SessionIdentity,
        request: Request<Body>,
        parse: fn(&[u8], &RequestLimits, u64) -> Result<ConversationRequest, ApiError>,
        names: &AbilityNames,
    ) -> Result<(Parameters, Vec<Input>, Vec<Admitted>), ApiError> {
        let body = self.receive(session, request).await?;
        let ConversationRequest { parameters, mut conversation, thinking } =
            parse(body.as_slice(), &self.limits.request, random()?)?;
        drop(body);
        self.model.check(parameters.model.as_str())?;
        tools::settle(&mut conversation, thinking, &self.abilities()?, names)?;
        let slots = self.admit(session, &parameters.model, parameters.choices)?;
        Ok((parameters, vec![Input::Chat(conversation)], slots))
    }

    /// Checks the model's name and takes slots in the backend, one for each choice.
    pub(super) fn admit(
        &self,
        session: &SessionIdentity,
        model: &SecretString,
        choices: u32,
    ) -> Result<Vec<Admitted>, ApiError> {
        self.model.check(model.as_str())?;
        let most = self.limits.generations.per_partner.min(self.limits.generations.total).get();
        if choices as usize > most {
            return Err(ApiError::InvalidValue {
                param: ParameterName::known("n"),
                expected: format!(
                    "an integer from 1 to {most}, the requests that a partner may have at once"
                ),
            });
        }
        let admit = |_| {
            let slot = self.generations.admit(session.partner).map_err(|full| self.busy(full))?;
            let grant = self.control.as_ref().map(|(grants, _)| grants.admit(session)).transpose();
            Ok(Admitted { slot, grant: grant.map_err(ApiError::Stopped)? })
        };
        (0..choices).map(admit).collect()
    }

    /// Lets the backend read a request. The slots, which the caller holds already, bound how many do so at once. `param` is
    /// the parameter that holds the prompt, `schema` the one that holds the form of the answer.
    pub(super) async fn prepare(
        &self,
        task: Task,
        param: &'static str,
        schema: &'static str,
    ) -> Result<Box<dyn Prepared>, ApiError> {
        let prepared = self.backend()?.prepare(task).await;
        prepared.map_err(|error| match error {
            PrepareError::TooLong { bytes, limit } => ApiError::PromptTooLong { param, bytes, limit },
            PrepareError::Prompt(reason) => ApiError::PromptRefused { param, reason },
            PrepareError::Tool { index, reason } => {
                ApiError::SchemaRefused { param: "tools", reason: format!("tools[{index}]: {reason}") }
            }
            PrepareError::Schema(reason) => ApiError::SchemaRefused { param: schema, reason },
            PrepareError::Cannot { param, what } => {
                ApiError::ModelCannot { param: ParameterName::known(param), what }
            }
            PrepareError::Unavailable => ApiError::EngineUnavailable { retry_after: self.limits.retry_after },
            PrepareError::Stopped => ApiError::Failed,
        })
    }

    /// An answer as long as the traffic's shape has it.
    pub(crate) async fn uniform(&self, answer: Response) -> Response {
        match self.traffic {
            Some(traffic) => uniform(answer, traffic).await,
            None => answer,
        }
    }

    /// Why a prepared request did not start.
    pub(super) fn not_started(&self, param: &'static str, error: StartError) -> ApiError {
        match error {
            StartError::Busy => self.busy(Full),
            StartError::PromptTooLong { tokens, limit } => {
                ApiError::ContextLengthExceeded { param, tokens, limit }
            }
            StartError::PromptEmpty => ApiError::PromptEmpty { param },
            StartError::BiasToken { vocabulary } => ApiError::InvalidValue {
                param: ParameterName::known("logit_bias"),
                expected: format!("token ids below {vocabulary}, the model's number of tokens"),
            },
            StartError::NoEmbeddings => ApiError::NoEmbeddings,
            // A backend that is gone was erased with its model, or it failed.
            StartError::Stopped => self.backend().err().unwrap_or(ApiError::Failed),
        }
    }

    pub(super) fn busy(&self, _: Full) -> ApiError {
        ApiError::Busy { retry_after: self.limits.retry_after }
    }
}

/// Turns for so many pieces of prompts at once that the backend keeps most of the processors. There are as many as the
/// runtime has threads: a confined process may not ask the system.
fn readers() -> Semaphore {
    let processors =
        tokio::runtime::Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
    Semaphore::new((processors / 4).max(1))
}

/// Whose share of the backend a partner's requests take.
fn owner(partner: PartnerId) -> Owner {
    Owner(*partner.digest().as_bytes())
}

/// Seconds since 1970 by the enclave's clock, which the host could have set: for people to read, not evidence.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// 64 random bits of the enclave's own.
pub(super) fn random() -> Result<u64, ApiError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ApiError::Failed)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use cleanroom_backend::Pending;
    use tokio::sync::watch;

    use super::*;

    /// A backend whose steps the test ends: with a number it has done a step, without a sender it has ended.
    struct Scripted(watch::Receiver<u32>);

    impl Backend for Scripted {
        fn abilities(&self) -> Abilities {
            Abilities {
                chat: Ok(false),
                tools: false,
                reasoning: false,
                has_switch: false,
                has_effort: false,
                embedding_width: None,
            }
        }

        fn prepare(&self, _: Task) -> Pending<'_, Result<Box<dyn Prepared>, PrepareError>> {
            Box::pin(std::future::ready(Err(PrepareError::Stopped)))
        }

        fn presence(&self, _: Owner) -> Handle {
            Handle::new(())
        }

        fn present(&self) -> Vec<Owner> {
            Vec::new()
        }

        fn forget(&self, _: Owner) {}

        fn step(&self) -> Pending<'static, bool> {
            let mut steps = self.0.clone();
            steps.mark_unchanged();
            Box::pin(async move { steps.changed().await.is_ok() })
        }
    }

    fn service() -> (watch::Sender<u32>, Service) {
        let (steps, seen) = watch::channel(0);
        let digest = Sha256Digest::of(&[b"model"]);
        let limits = Limits::new(NonZeroUsize::MIN);
        (steps, Service::new(Arc::new(Scripted(seen)), ModelId::new("demo").unwrap(), digest, limits))
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_answered_only_when_the_backend_has_done_a_step() {
        let (steps, service) = service();
        let probe = tokio::time::timeout(Duration::from_secs(1000), service.probe());
        assert!(probe.await.is_err(), "it stands still");
        let step = async { steps.send(1).unwrap() };
        assert_eq!(tokio::join!(service.probe(), step).0, Some(Load::Idle));
        let slot = service.generations.admit(Sha256Digest::of(&[b"key"]).into()).ok();
        let step = async { steps.send(2).unwrap() };
        assert_eq!(tokio::join!(service.probe(), step).0, Some(Load::Full));
        drop(slot);
        drop(steps);
        assert_eq!(service.probe().await, None, "it has ended");
        // A model that was revoked is gone, as it should be.
        service.erase().await;
        assert_eq!(service.probe().await, Some(Load::Idle));
    }
}
