//! Release control from the outside: signed bytes in, acceptance or a typed refusal out.

mod adversary;
mod conformance;
mod decisions;
mod denials;
mod forms;
mod leases;
mod model_check;
mod policy;
mod retention;
mod schema;

use super::*;
use crate::crypto::backend::rand::SystemRandom;
use crate::crypto::backend::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use crate::digest::{Sha256Digest, Sha384Digest};

pub(super) const ROOM: &str = "grid-forecast";
/// What the tests call now: 2027-01-01T00:00:00Z.
pub(super) const TODAY: UnixMillis = UnixMillis(1_798_761_600_000);
pub(super) const HOUR: u64 = 3_600_000;
/// A year after [`TODAY`].
pub(super) const NEXT_YEAR: UnixMillis = UnixMillis(TODAY.0 + 365 * 24 * HOUR);

pub(super) fn id(text: &str) -> Id {
    text.parse().unwrap()
}

/// An image of an instance whose register 4 measures `pcr4`.
pub(super) fn tpm_image(pcr4: &str) -> TpmImage {
    let pcr = |text: &str| Sha384Digest::of(&[text.as_bytes()]);
    TpmImage { name: label("cleanroom 0.1.0, NitroTPM"), pcr4: pcr(pcr4), pcr7: pcr("7"), pcr12: zero() }
}

pub(super) fn zero() -> Sha384Digest {
    Sha384Digest::from_bytes([0; 48])
}

pub(super) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

pub(super) fn attribute(text: &str) -> Attribute {
    text.parse().unwrap()
}

pub(super) fn list<T, const MAX: usize>(items: impl IntoIterator<Item = T>) -> List<T, MAX> {
    List::new(items.into_iter().collect()).unwrap()
}

pub(super) fn sha256(text: &str) -> Sha256Digest {
    Sha256Digest::of(&[text.as_bytes()])
}

/// A key that signs.
pub(super) enum Signer {
    Ed25519(Ed25519KeyPair),
    P384(EcdsaKeyPair),
}

impl Signer {
    /// The same key for the same seed.
    pub(super) fn ed25519(seed: u8) -> Self {
        Self::Ed25519(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    pub(super) fn p384() -> Self {
        let algorithm = &ECDSA_P384_SHA384_ASN1_SIGNING;
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        #[cfg(feature = "aws-lc-rs")]
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref());
        #[cfg(not(feature = "aws-lc-rs"))]
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random);
        Self::P384(pair.unwrap())
    }

    pub(super) fn public(&self) -> PublicKey {
        match self {
            Self::Ed25519(pair) => {
                PublicKey::from_raw(Algorithm::Ed25519, pair.public_key().as_ref()).unwrap()
            }
            Self::P384(pair) => PublicKey::from_raw(Algorithm::P384, pair.public_key().as_ref()).unwrap(),
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::P384(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
        }
    }
}

/// The JSON of an envelope around `payload`, signed by `signers`.
pub(super) fn seal(payload_type: PayloadType, payload: &[u8], signers: &[&Signer]) -> Vec<u8> {
    let mut envelope = Envelope::unsigned(payload_type, payload).unwrap();
    for signer in signers {
        let signature = signer.sign(envelope.pae());
        envelope.attach(&signer.public(), &signature).unwrap();
    }
    envelope.to_json()
}

/// Three authorities, each with an offline key (root, release, deny) and an online one (lease).
pub(super) struct World {
    pub(super) offline: [Signer; 3],
    pub(super) online: [Signer; 3],
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            offline: [Signer::ed25519(1), Signer::ed25519(2), Signer::p384()],
            online: [Signer::ed25519(11), Signer::ed25519(12), Signer::ed25519(13)],
        }
    }

    /// Version 1: two of three for root and release, any one for the rest.
    pub(super) fn root(&self) -> Root {
        let names = ["a", "b", "c"];
        let key = |kind: &str, name: &str, signer: &Signer| RootKey {
            name: id(&format!("{name}-{kind}")),
            authority: id(name),
            spki: signer.public(),
        };
        let offline = names.iter().zip(&self.offline).map(|(name, signer)| key("offline", name, signer));
        let online = names.iter().zip(&self.online).map(|(name, signer)| key("online", name, signer));
        let rule = |threshold, kind: &str| RoleRule {
            threshold,
            keys: list(names.iter().map(|name| id(&format!("{name}-{kind}")))),
        };
        Root {
            room: id(ROOM),
            version: 1,
            expires: NEXT_YEAR,
            minimum_release: 1,
            keys: list(offline.chain(online)),
            roles: Roles {
                root: rule(2, "offline"),
                release: rule(2, "offline"),
                deny: rule(1, "offline"),
                lease: rule(1, "online"),
                witness: RoleRule::default(),
            },
        }
    }

    /// Two models, two partners.
    pub(super) fn release(&self, version: u64) -> Release {
        let partner = |name: &str, models: &[&str]| Partner {
            id: id(name),
            keys: list([sha256(name)]),
            models: list(models.iter().map(|model| id(model))),
            limits: Limits {
                requests_per_minute: 60,
                tokens_per_day: 1_000_000,
                concurrency: 4,
                share: None,
            },
            expires: NEXT_YEAR,
            attributes: None,
        };
        let model = |name: &str| Model {
            id: id(name),
            sha256: sha256(name),
            state: ModelState::Active,
            weights: None,
            safeguards: None,
            retention: None,
        };
        let pcr = |text: &str| Sha384Digest::of(&[text.as_bytes()]);
        Release {
            room: id(ROOM),
            version,
            expires: NEXT_YEAR,
            supersedes_denials: List::default(),
            images: list([Image {
                name: label("cleanroom 0.1.0"),
                pcr0: pcr("0"),
                pcr1: pcr("1"),
                pcr2: pcr("2"),
            }]),
            nitrotpm_images: None,
            deployments: None,
            models: list([model("m"), model("n")]),
            partners: list([partner("p", &["m", "n"]), partner("q", &["n"])]),
            egress: List::default(),
            witnesses: List::default(),
            lease: LeaseRules { seconds: 60, issuers: 1 },
            audit: AuditRules { checkpoint_seconds: 0, witnesses: 0 },
        }
    }

    /// Signed by the first two authorities.
    pub(super) fn seal_root(&self, root: &Root) -> Vec<u8> {
        seal(PayloadType::Root, &root.to_payload(), &[&self.offline[0], &self.offline[1]])
    }

    /// Signed by the last two authorities, one with Ed25519 and one with P-384.
    pub(super) fn seal_release(&self, release: &Release) -> Vec<u8> {
        seal(PayloadType::Release, &release.to_payload(), &[&self.offline[1], &self.offline[2]])
    }

    pub(super) fn denial(&self, halt: Target, serial: &str) -> Denial {
        Denial { room: id(ROOM), halt, reason: label("a leak is suspected"), serial: sha256(serial) }
    }

    /// Signed by the one authority `by`.
    pub(super) fn seal_denial(&self, denial: &Denial, by: usize) -> Vec<u8> {
        seal(PayloadType::Denial, &denial.to_payload(), &[&self.offline[by]])
    }

    /// The digest by which leases and releases name a denial.
    pub(super) fn digest_of(denial: &Denial) -> Sha256Digest {
        Sha256Digest::of(&[&denial.to_payload()])
    }

    /// Signed by the one issuer `by`.
    pub(super) fn seal_lease(&self, lease: &Lease, by: usize) -> Vec<u8> {
        seal(PayloadType::Lease, &lease.to_payload(), &[&self.online[by]])
    }

    pub(super) fn state(&self) -> TrustedState {
        TrustedState::new(&self.seal_root(&self.root())).unwrap()
    }

    /// A state with release 1.
    pub(super) fn released(&self) -> TrustedState {
        let mut state = self.state();
        state.accept_release(&self.seal_release(&self.release(1))).unwrap();
        state
    }

    /// What an issuer that holds the same state says to `nonce`.
    pub(super) fn answer(&self, state: &TrustedState, nonce: Nonce) -> Lease {
        state.draft_lease(&request(state, nonce), TODAY).unwrap()
    }

    /// Asks for a lease and accepts the answer of an issuer that knows what the enclave knows.
    pub(super) fn renew(&self, state: &mut TrustedState, nonce: Nonce, now: BootMillis) {
        let issuer = state.clone();
        self.renew_as(state, &issuer, 0, nonce, now);
    }

    /// Asks for a lease and accepts the answer of the issuer `by`, who holds the state `issuer`.
    pub(super) fn renew_as(
        &self,
        state: &mut TrustedState,
        issuer: &TrustedState,
        by: usize,
        nonce: Nonce,
        now: BootMillis,
    ) {
        state.begin_lease(nonce, now).unwrap();
        let lease = self.seal_lease(&self.answer(issuer, nonce), by);
        assert_eq!(state.accept_lease(&lease, now), Ok(Accepted::New));
    }
}

pub(super) fn request(state: &TrustedState, nonce: Nonce) -> LeaseRequest {
    let release_sha256 = state.release().map_or(sha256("none"), Verified::digest);
    let root = state.root();
    LeaseRequest { nonce, root_version: root.version, root_sha256: root.digest(), release_sha256 }
}

pub(super) fn nonce(number: u8) -> Nonce {
    Nonce::from_bytes([number; 32])
}

/// Whether `partner` may start a request to `model`.
pub(super) fn ask(state: &TrustedState, partner: &str, model: &str, now: BootMillis) -> Decision {
    ask_at(state, partner, model, Phase::Start, now, TODAY)
}

pub(super) fn ask_at(
    state: &TrustedState,
    partner: &str,
    model: &str,
    phase: Phase,
    now: BootMillis,
    unix: UnixMillis,
) -> Decision {
    let question = Question { partner_key: &sha256(partner), model, model_sha256: &sha256(model), phase };
    state.decide(&question, now, unix)
}

pub(super) fn serves(decision: Decision) -> bool {
    matches!(decision, Decision::Serve { .. })
}

/// The code of the error in `result`.
pub(super) fn code<T>(result: Result<T, ReleaseError>) -> &'static str {
    result.err().map_or("accepted", |error| error.code())
}
