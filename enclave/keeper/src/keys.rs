//! The key of sealed weights: asked for with evidence, share by share, before the enclave has a model.
//!
//! The host hands in roots, releases, denials and leases as it always does, and carries each broker's
//! challenge and answer, or those of AWS KMS, which can hold a share in a broker's place. It cannot read a
//! share, and cannot pass off another one: the share is sealed to a key that exists in this process alone,
//! and the release has a commitment to it. When enough shares are there, the connection ends, and what was
//! handed in on it is forgotten. The enclave then boots as it does without sealed weights, and the host
//! begins anew.

use std::io;
use std::sync::Arc;

use cleanroom_attestation::channel::{KmsEvidence, ModelId};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Accepted, Id, Refusal};
use cleanroom_config::Config;
use cleanroom_console::Line;
use cleanroom_guard::{Clock, Guard, KeyTerms, Sealing};
use cleanroom_key_release::{Collector, DataKey, KmsAnswer, Outcome, Purpose, SealedShare, ShareError};
use cleanroom_link::control::{ControlAnswer, ControlKind, ShareMessage, ShareState};
use cleanroom_link::listener::Listener;
use cleanroom_protocol::Change;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Halt;
use crate::broker_request::unattested;
use crate::control::{ask, read_request, state, write_answer};
use crate::security_module::{Precedence, SecurityModule, SecurityModuleError};

/// A key that brokers have released, and the model that it is for.
pub struct Released {
    /// The key.
    pub key: DataKey,
    /// The digest that the opened weights must have.
    pub model: Sha256Digest,
}

/// Waits until enough brokers have released their shares to this enclave. `None` when the host asks the enclave to end.
///
/// # Errors
/// [`Halt`], when the configuration's root is none. Whatever the host and the brokers do is refused with a code and waited out.
pub async fn obtain(
    config: &Config,
    root: &str,
    clock: Clock,
    security_module: &SecurityModule,
    listener: &mut impl Listener,
) -> Result<Option<Released>, Halt> {
    // The guard decides about one digest. Until the release has said which, it decides about none.
    let none = Sha256Digest::from_bytes([0; 32]);
    let guard = Guard::new(root, config.model.clone(), none, Sealing::Sealed, clock).map_err(Halt::Root)?;
    let mut asking = Asking {
        guard,
        model_id: config.model.clone(),
        expected: config.model_sha256,
        security_module: security_module.clone(),
        collecting: None,
    };
    Line::Sealed.say();
    loop {
        let stream = listener.connection().await;
        // A connection that breaks is followed by the next one.
        if let Ok(released) = asking.connection(stream).await {
            match &released {
                Some(_) => Line::KeyThere.say(),
                None => Line::EndedWithoutKey.say(),
            }
            return Ok(released);
        }
    }
}

/// An enclave that has no key yet.
struct Asking {
    guard: Arc<Guard>,
    model_id: ModelId,
    /// What the measured configuration says about the weights.
    expected: Option<Sha256Digest>,
    security_module: SecurityModule,
    /// The shares, and the release that they are for. Another release begins anew.
    collecting: Option<(Sha256Digest, Collector)>,
}

impl Asking {
    /// Serves one control connection until the key is there or the host asks for the end, or with an error until it breaks.
    async fn connection(
        &mut self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> io::Result<Option<Released>> {
        loop {
            let (kind, body) = read_request(&mut stream).await?;
            let (answer, last) = match self.answer(kind, body).await {
                Ok(Answer::Goes(answer)) => (answer, None),
                Ok(Answer::Last(answer, released)) => (answer, Some(released)),
                Err(refused) => (ControlAnswer::Refused(refused.code().to_owned()), None),
            };
            let written = write_answer(&mut stream, kind, &answer).await;
            match last {
                // It is so, whether or not the host still listens.
                Some(released) => return Ok(released),
                None => written?,
            }
        }
    }

    async fn answer(&mut self, kind: ControlKind, body: Vec<u8>) -> Result<Answer, Refused> {
        let goes = |answer| Ok(Answer::Goes(answer));
        match kind {
            ControlKind::State => goes(ControlAnswer::State(state(&self.guard))),
            ControlKind::Ask => goes(match ask(&self.guard, &self.security_module).await {
                Ok((request, _)) => ControlAnswer::Ask(request),
                Err(error) => ControlAnswer::Refused(error.code().to_owned()),
            }),
            ControlKind::Document(kind) => {
                let change = Change::Document { kind, at: self.guard.now(), envelope: body };
                goes(match self.guard.apply(&change) {
                    Ok(accepted) => ControlAnswer::Accepted(accepted),
                    Err(error) => ControlAnswer::Refused(error.code().to_owned()),
                })
            }
            ControlKind::Shares => {
                self.terms()?;
                goes(ControlAnswer::Shares(self.state()))
            }
            ControlKind::ShareAsk => {
                let request = self.request(&body).await?;
                goes(ControlAnswer::ShareRequest(request))
            }
            ControlKind::Share => self.take(&body),
            ControlKind::KmsAsk => {
                let document = self.document_for_kms(&body).await?;
                goes(ControlAnswer::ShareRequest(document))
            }
            ControlKind::KmsShare => self.take_from_kms(&body),
            // Whoever could judge is not there yet. The host hands it in again with the release.
            ControlKind::SafeguardPolicy | ControlKind::SafeguardClassifier | ControlKind::Probe => {
                goes(ControlAnswer::Refused("no-model-yet".to_owned()))
            }
            // What is kept is kept of answers, and there are none yet.
            ControlKind::Days
            | ControlKind::DayAsk
            | ControlKind::Day
            | ControlKind::Record
            | ControlKind::Open
            | ControlKind::PartAsk
            | ControlKind::Part
            | ControlKind::Opened => goes(ControlAnswer::Refused("no-model-yet".to_owned())),
            // The log begins with the weights' identity.
            // Witnesses too are asked about a log, and there is none yet.
            ControlKind::Log | ControlKind::Witnessed => {
                goes(ControlAnswer::Refused("no-log-yet".to_owned()))
            }
            ControlKind::Drain => Ok(Answer::Last(ControlAnswer::Accepted(Accepted::New), None)),
        }
    }

    /// The root, release and lease under which a key may be asked for now. Shares that were collected under another
    /// release are dropped.
    fn terms(&mut self) -> Result<KeyTerms, Refused> {
        let terms = self.guard.key_terms()?;
        if self.expected.is_some_and(|expected| expected != terms.model) {
            return Err(Refused::Terms(Refusal::ModelDigest));
        }
        if self.collecting.as_ref().is_none_or(|(release, _)| *release != terms.documents.release) {
            self.collecting = Some((terms.documents.release, Collector::new(terms.model, &terms.brokers)));
        }
        Ok(terms)
    }

    fn state(&self) -> ShareState {
        let collector = self.collecting.as_ref().map(|(_, collector)| collector);
        ShareState {
            needed: collector.map_or(0, |collector| collector.still_needed() as u64),
            missing: collector.map_or(Vec::new(), |collector| collector.missing().cloned().collect()),
        }
    }

    /// What the broker that gave a challenge is to get: evidence of this enclave, for this challenge.
    async fn request(&mut self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let ShareMessage { broker, bytes } = ShareMessage::decode(body).ok_or(Refused::Form)?;
        let KeyTerms { documents, model, brokers: _ } = self.terms()?;
        let model = (self.model_id.clone(), model);
        let security_module = self.security_module.clone();
        let (_, collector) = self.collecting.as_mut().ok_or(Refused::Form)?;
        let recipient = collector.recipient().clone();
        let mut request = unattested(&bytes, broker, model, documents, recipient).ok_or(Refused::Form)?;
        let evidence = request.evidence().evidence_request();
        request.document = security_module.evidence(&evidence, Precedence::Enclave).await?;
        let bytes = request.encode();
        collector.ask(request)?;
        Ok(bytes)
    }

    fn take(&mut self, body: &[u8]) -> Result<Answer, Refused> {
        let ShareMessage { broker, bytes } = ShareMessage::decode(body).ok_or(Refused::Form)?;
        let sealed = SealedShare::read(&bytes).ok_or(Refused::Form)?;
        let model = self.terms()?.model;
        let (_, collector) = self.collecting.as_mut().ok_or(Refused::Form)?;
        collector.take(&broker, &sealed)?;
        self.count(&broker, model)
    }

    /// What KMS is to get for the share of a broker: a document with the key to encrypt it to.
    async fn document_for_kms(&mut self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let broker: Id =
            core::str::from_utf8(body).ok().and_then(|name| name.parse().ok()).ok_or(Refused::Form)?;
        let KeyTerms { documents, model, brokers: _ } = self.terms()?;
        let (_, collector) = self.collecting.as_mut().ok_or(Refused::Form)?;
        let evidence = KmsEvidence {
            purpose: Purpose::Weights.word(),
            broker: &broker,
            model_digest: model,
            release: documents.release,
            recipient: collector.kms_recipient(&broker)?,
        };
        let evidence = evidence.evidence_request();
        Ok(self.security_module.evidence(&evidence, Precedence::Enclave).await?)
    }

    fn take_from_kms(&mut self, body: &[u8]) -> Result<Answer, Refused> {
        let ShareMessage { broker, bytes } = ShareMessage::decode(body).ok_or(Refused::Form)?;
        let answer = KmsAnswer::read(&bytes).ok_or(Refused::Form)?;
        let model = self.terms()?.model;
        let (_, collector) = self.collecting.as_mut().ok_or(Refused::Form)?;
        collector.take_kms(&broker, &answer)?;
        self.count(&broker, model)
    }

    /// What follows from a share of `broker` that was taken.
    fn count(&self, broker: &Id, model: Sha256Digest) -> Result<Answer, Refused> {
        let (_, collector) = self.collecting.as_ref().ok_or(Refused::Form)?;
        let outcome = collector.finish()?;
        Line::ShareTaken { broker, still_needed: collector.still_needed() }.say();
        let answer = ControlAnswer::Shares(self.state());
        Ok(match outcome {
            Outcome::Needs(_) => Answer::Goes(answer),
            Outcome::Key(key) => Answer::Last(answer, Some(Released { key, model })),
        })
    }
}

/// The answer to the host.
enum Answer {
    /// And more may follow.
    Goes(ControlAnswer),
    /// And that was all: the key is there, or the enclave is to end without it.
    Last(ControlAnswer, Option<Released>),
}

/// Why nothing came of what the host brought.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// Release, lease or a denial do not permit it.
    #[error(transparent)]
    Terms(#[from] Refusal),
    /// The share does not count.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The security module gave no evidence.
    #[error(transparent)]
    SecurityModule(#[from] SecurityModuleError),
    /// It is not what it should be.
    #[error("the host's message does not have the form in docs/protocol.md")]
    Form,
}

impl Refused {
    const fn code(&self) -> &'static str {
        match self {
            Self::Terms(refusal) => refusal.code(),
            Self::Share(error) => error.code(),
            Self::SecurityModule(_) => "security-module",
            Self::Form => "share-form",
        }
    }
}
