//! The keeper's frames: its configuration for the worker, changes of release control, and evidence and
//! signatures for a connection.

use cleanroom_attestation::channel::{Fields, FrameKind, MAX_DOCUMENT_BYTES, RefusalCode, length_prefixed};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::receipt::MAX_DELIVERED_BYTES;
use cleanroom_attestation::release::{AuthorityDocument, BootMillis, Id, Nonce, TEXT_LIMIT, UnixMillis};
use cleanroom_attestation::safeguard::{SAFEGUARD_CLASSIFIER_LIMIT, SAFEGUARD_POLICY_LIMIT};
use zeroize::Zeroizing;

use crate::frame::{Kind, ProtocolError, frame};
use crate::from_worker::SessionTicket;

/// The longest configuration, in bytes.
const MAX_CONFIG_BYTES: usize = 1024 * 1024;
/// The longest receipt key (DER of its `SubjectPublicKeyInfo`) and the longest signature, in bytes.
const MAX_KEY_BYTES: usize = 256;

/// The kinds of a keeper's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeeperKind {
    /// [`FromKeeper::Start`]
    Start,
    /// [`FromKeeper::Serve`]
    Serve,
    /// [`FromKeeper::Drain`]
    Drain,
    /// [`FromKeeper::Probe`]
    Probe,
    /// [`FromKeeper::Change`] with a lease that begins
    Begin,
    /// [`FromKeeper::Change`] with a document
    Document(AuthorityDocument),
    /// [`FromKeeper::Evidence`]
    Evidence,
    /// [`FromKeeper::Public`]
    Public,
    /// [`FromKeeper::SignedEnd`]
    SignedEnd,
    /// [`FromKeeper::Refused`]
    Refused,
    /// [`FromKeeper::Receipt`]
    Receipt,
    /// [`FromKeeper::Change`] with a safeguard policy
    Policy,
    /// [`FromKeeper::Change`] with the file of a classifier
    Classifier,
    /// [`FromKeeper::Change`] with a partner that is held
    Hold,
    /// [`FromKeeper::Change`] with the time until which records can be sealed
    Sealing,
    /// [`FromKeeper::Change`] with the time until which the log is witnessed
    Witnessed,
}

impl Kind for KeeperKind {
    const ALL: &'static [Self] = &[
        Self::Start,
        Self::Serve,
        Self::Drain,
        Self::Begin,
        Self::Document(AuthorityDocument::Root),
        Self::Document(AuthorityDocument::Release),
        Self::Document(AuthorityDocument::Denial),
        Self::Document(AuthorityDocument::Lease),
        Self::Evidence,
        Self::Public,
        Self::SignedEnd,
        Self::Refused,
        Self::Receipt,
        Self::Policy,
        Self::Classifier,
        Self::Hold,
        Self::Probe,
        Self::Sealing,
        Self::Witnessed,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Start => 0x81,
            Self::Serve => 0x82,
            Self::Drain => 0x83,
            Self::Begin => 0x84,
            Self::Evidence => 0x85,
            Self::Public => 0x86,
            Self::SignedEnd => 0x87,
            Self::Refused => 0x88,
            Self::Receipt => 0x89,
            Self::Policy => 0x8a,
            Self::Hold => 0x8b,
            Self::Probe => 0x8c,
            Self::Sealing => 0x8d,
            Self::Witnessed => 0x8e,
            Self::Classifier => 0x8f,
            Self::Document(AuthorityDocument::Root) => 0x93,
            Self::Document(AuthorityDocument::Release) => 0x94,
            Self::Document(AuthorityDocument::Denial) => 0x95,
            Self::Document(AuthorityDocument::Lease) => 0x96,
        }
    }

    fn limit(self) -> usize {
        const DIGEST: usize = 4 + Sha256Digest::LENGTH;
        match self {
            Self::Start => 4 + MAX_CONFIG_BYTES + DIGEST + 4 + MAX_KEY_BYTES + 4 + 8,
            Self::Serve | Self::Drain | Self::Probe => 0,
            Self::Begin => 4 + 32 + 3 * (4 + 8),
            Self::Document(kind) => 4 + 8 + 4 + kind.envelope_limit(),
            Self::Evidence => {
                4 + Sha384Digest::LENGTH
                    + 4
                    + SessionTicket::TICKET_BYTES
                    + 4
                    + FrameKind::Evidence.max_body_bytes()
            }
            Self::Public => 4 + MAX_DOCUMENT_BYTES + 2 * DIGEST,
            Self::SignedEnd => 4 + 8 + 2 * DIGEST + 4 + MAX_KEY_BYTES,
            Self::Refused => 4 + 1,
            Self::Receipt => 4 + MAX_DELIVERED_BYTES,
            Self::Policy => 4 + SAFEGUARD_POLICY_LIMIT,
            Self::Classifier => 4 + SAFEGUARD_CLASSIFIER_LIMIT,
            Self::Hold => 4 + TEXT_LIMIT + DIGEST,
            Self::Sealing => 4 + 8,
            Self::Witnessed => DIGEST + 4 + 8,
        }
    }
}

/// What a keeper says.
#[derive(Debug)]
pub enum FromKeeper {
    /// What to serve. After this frame come the bytes of the model, as many as it says, and nothing around them.
    Start(Start),
    /// Partners may come.
    Serve,
    /// Takes no more connections, lets running sessions end, and says so.
    Drain,
    /// Asks whether the worker and its engine work. Answer: [`FromWorker::Alive`](crate::FromWorker::Alive).
    Probe,
    /// Something in release control has changed. Answer: [`FromWorker::Done`](crate::FromWorker::Done).
    Change(Change),
    /// A session's evidence.
    Evidence(Evidence),
    /// Evidence without a connection.
    Public(PublicEvidence),
    /// The statement that a stream was ended.
    SignedEnd(SignedEnd),
    /// No evidence, and why.
    Refused(RefusalCode),
    /// A request's receipt: the signed envelope, as JSON.
    Receipt(Vec<u8>),
}

/// What to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The measured configuration.
    pub config: String,
    /// The identity of the model, committed to in PCR 16.
    pub model_digest: Sha256Digest,
    /// The receipt key, DER of its `SubjectPublicKeyInfo`, committed to in PCR 17.
    pub receipt_key: Vec<u8>,
    /// Bytes of the model.
    pub model_bytes: u64,
}

/// Something that the keeper's release control accepted, for the worker's copy of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A lease was asked for.
    Begin {
        /// With this nonce.
        nonce: Nonce,
        /// At this time of the machine's own clock.
        sent: BootMillis,
        /// Absolute time by the security module: at `read_at` it was not yet later than `unix`.
        unix: UnixMillis,
        /// When that was asked.
        read_at: BootMillis,
    },
    /// A document that the host handed in: a root, a release, a denial or a lease.
    Document {
        /// Which of them.
        kind: AuthorityDocument,
        /// When it was judged, by the machine's own clock.
        at: BootMillis,
        /// The signed envelope.
        envelope: Vec<u8>,
    },
    /// A safeguard policy that a release names: the bytes of its file.
    Policy(Vec<u8>),
    /// The file of a classifier. Whether a policy names it is the worker's to see.
    Classifier(Vec<u8>),
    /// A partner reached a limit of the safeguards.
    Hold {
        /// Its name in the release.
        partner: Id,
        /// The newest release then. The partner is held for as long as this is in force.
        release: Sha256Digest,
    },
    /// The log is witnessed as a release demands. Where one does, nothing begins without.
    Witnessed {
        /// The digest of the rule that is met.
        rule: Sha256Digest,
        /// Until this time of the machine's own clock.
        until: BootMillis,
    },
    /// Records can be sealed, or no longer. Where the release demands them, nothing begins without.
    Sealing {
        /// Until this time of the machine's own clock.
        until: BootMillis,
    },
}

/// A session's evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// `T` of the specification: what names the session and no other.
    pub transcript: Sha384Digest,
    /// What the worker shows when it asks for a receipt of a request on this session.
    pub ticket: [u8; SessionTicket::TICKET_BYTES],
    /// The body of the channel's `Evidence` frame, signed.
    pub body: Vec<u8>,
}

/// Evidence that is bound to a nonce and to no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicEvidence {
    /// The attestation document.
    pub document: Vec<u8>,
    /// The release in force.
    pub release: Option<Sha256Digest>,
    /// The lease in force.
    pub lease: Option<Sha256Digest>,
}

/// A stream's last statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedEnd {
    /// When, by the security module's clock.
    pub at: UnixMillis,
    /// The newest release.
    pub release: Option<Sha256Digest>,
    /// The last lease.
    pub lease: Option<Sha256Digest>,
    /// The receipt key's signature.
    pub signature: Vec<u8>,
}

impl FromKeeper {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> KeeperKind {
        match self {
            Self::Start(_) => KeeperKind::Start,
            Self::Serve => KeeperKind::Serve,
            Self::Drain => KeeperKind::Drain,
            Self::Probe => KeeperKind::Probe,
            Self::Change(Change::Begin { .. }) => KeeperKind::Begin,
            Self::Change(Change::Document { kind, .. }) => KeeperKind::Document(*kind),
            Self::Change(Change::Policy(_)) => KeeperKind::Policy,
            Self::Change(Change::Classifier(_)) => KeeperKind::Classifier,
            Self::Change(Change::Hold { .. }) => KeeperKind::Hold,
            Self::Change(Change::Sealing { .. }) => KeeperKind::Sealing,
            Self::Change(Change::Witnessed { .. }) => KeeperKind::Witnessed,
            Self::Evidence(_) => KeeperKind::Evidence,
            Self::Public(_) => KeeperKind::Public,
            Self::SignedEnd(_) => KeeperKind::SignedEnd,
            Self::Refused(_) => KeeperKind::Refused,
            Self::Receipt(_) => KeeperKind::Receipt,
        }
    }

    /// A whole frame.
    #[must_use]
    pub fn frame(&self, id: u32) -> Zeroizing<Vec<u8>> {
        let body = match self {
            Self::Start(Start { config, model_digest, receipt_key, model_bytes }) => length_prefixed(&[
                config.as_bytes(),
                model_digest.as_bytes(),
                receipt_key,
                &model_bytes.to_be_bytes(),
            ]),
            Self::Serve | Self::Drain | Self::Probe => Vec::new(),
            Self::Change(Change::Begin { nonce, sent, unix, read_at }) => length_prefixed(&[
                nonce.as_bytes(),
                &sent.0.to_be_bytes(),
                &unix.0.to_be_bytes(),
                &read_at.0.to_be_bytes(),
            ]),
            Self::Change(Change::Document { kind: _, at, envelope }) => {
                length_prefixed(&[&at.0.to_be_bytes(), envelope])
            }
            Self::Change(Change::Policy(file) | Change::Classifier(file)) => length_prefixed(&[file]),
            Self::Change(Change::Hold { partner, release }) => {
                length_prefixed(&[partner.as_str().as_bytes(), release.as_bytes()])
            }
            Self::Change(Change::Sealing { until }) => length_prefixed(&[&until.0.to_be_bytes()]),
            Self::Change(Change::Witnessed { rule, until }) => {
                length_prefixed(&[rule.as_bytes(), &until.0.to_be_bytes()])
            }
            Self::Evidence(Evidence { transcript, ticket, body }) => {
                length_prefixed(&[transcript.as_bytes(), ticket, body])
            }
            Self::Public(PublicEvidence { document, release, lease }) => {
                length_prefixed(&[document, optional(release), optional(lease)])
            }
            Self::SignedEnd(SignedEnd { at, release, lease, signature }) => {
                length_prefixed(&[&at.0.to_be_bytes(), optional(release), optional(lease), signature])
            }
            Self::Refused(code) => length_prefixed(&[&code.encode()]),
            Self::Receipt(envelope) => length_prefixed(&[envelope]),
        };
        frame(self.kind(), id, &body)
    }

    /// Reads the body of a frame of `kind`.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`] when it is not exactly what the kind requires.
    pub fn decode(kind: KeeperKind, body: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(body);
        let decoded = Self::fields(kind, &mut fields).filter(|_| fields.is_at_end());
        decoded.ok_or(ProtocolError::Malformed(kind.code()))
    }

    fn fields(kind: KeeperKind, fields: &mut Fields<'_>) -> Option<Self> {
        Some(match kind {
            KeeperKind::Start => Self::Start(Start {
                config: core::str::from_utf8(fields.next(MAX_CONFIG_BYTES)?).ok()?.to_owned(),
                model_digest: fields.next(Sha256Digest::LENGTH)?.try_into().ok()?,
                receipt_key: fields.next(MAX_KEY_BYTES)?.to_vec(),
                model_bytes: number(fields)?,
            }),
            KeeperKind::Serve => Self::Serve,
            KeeperKind::Drain => Self::Drain,
            KeeperKind::Probe => Self::Probe,
            KeeperKind::Begin => Self::Change(Change::Begin {
                nonce: Nonce::from_bytes(fields.next(32)?.try_into().ok()?),
                sent: BootMillis(number(fields)?),
                unix: UnixMillis(number(fields)?),
                read_at: BootMillis(number(fields)?),
            }),
            KeeperKind::Document(kind) => Self::Change(Change::Document {
                kind,
                at: BootMillis(number(fields)?),
                envelope: fields.next(kind.envelope_limit())?.to_vec(),
            }),
            KeeperKind::Evidence => Self::Evidence(Evidence {
                transcript: fields.next(Sha384Digest::LENGTH)?.try_into().ok()?,
                ticket: fields.next(SessionTicket::TICKET_BYTES)?.try_into().ok()?,
                body: fields.next(FrameKind::Evidence.max_body_bytes())?.to_vec(),
            }),
            KeeperKind::Public => Self::Public(PublicEvidence {
                document: fields.next(MAX_DOCUMENT_BYTES)?.to_vec(),
                release: optional_field(fields)?,
                lease: optional_field(fields)?,
            }),
            KeeperKind::SignedEnd => Self::SignedEnd(SignedEnd {
                at: UnixMillis(number(fields)?),
                release: optional_field(fields)?,
                lease: optional_field(fields)?,
                signature: fields.next(MAX_KEY_BYTES)?.to_vec(),
            }),
            KeeperKind::Refused => Self::Refused(RefusalCode::decode(fields.next(1)?).ok()?),
            KeeperKind::Receipt => Self::Receipt(fields.next(MAX_DELIVERED_BYTES)?.to_vec()),
            KeeperKind::Policy => Self::Change(Change::Policy(fields.next(SAFEGUARD_POLICY_LIMIT)?.to_vec())),
            KeeperKind::Classifier => {
                Self::Change(Change::Classifier(fields.next(SAFEGUARD_CLASSIFIER_LIMIT)?.to_vec()))
            }
            KeeperKind::Sealing => Self::Change(Change::Sealing { until: BootMillis(number(fields)?) }),
            KeeperKind::Witnessed => Self::Change(Change::Witnessed {
                rule: fields.next(Sha256Digest::LENGTH)?.try_into().ok()?,
                until: BootMillis(number(fields)?),
            }),
            KeeperKind::Hold => {
                let partner = core::str::from_utf8(fields.next(TEXT_LIMIT)?).ok()?.parse().ok()?;
                let release = fields.next(Sha256Digest::LENGTH)?.try_into().ok()?;
                Self::Change(Change::Hold { partner, release })
            }
        })
    }
}

fn number(fields: &mut Fields<'_>) -> Option<u64> {
    Some(u64::from_be_bytes(fields.next(8)?.try_into().ok()?))
}

/// The bytes of a digest, or nothing.
fn optional(digest: &Option<Sha256Digest>) -> &[u8] {
    digest.as_ref().map_or(&[], |digest| digest.as_bytes().as_slice())
}

fn optional_field(fields: &mut Fields<'_>) -> Option<Option<Sha256Digest>> {
    match fields.next(Sha256Digest::LENGTH)? {
        [] => Some(None),
        digest => digest.try_into().ok().map(Some),
    }
}
