//! Three authorities, two of which must agree: they sign roots, releases, leases and denials.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::log::{SignedCheckpoint, WitnessKey};
use cleanroom_attestation::release::{
    Algorithm, AuditRules, Denial, DocumentName, Envelope, Image, Lease, LeaseRequest, LeaseRules, Limits,
    List, Model, ModelState, Opening, Partner, Payload, PayloadType, PublicKey, Release, RoleRule, Roles,
    Root, RootKey, Target, TrustedState, UnixMillis, Witness,
};

use crate::platform::now_ms;

/// How long every lease runs, in milliseconds.
pub const LEASE_MS: u64 = 60_000;

/// Three authorities, each with an offline and an online key, and the key of a witness.
pub struct Authorities {
    offline: [Ed25519KeyPair; 3],
    online: [Ed25519KeyPair; 3],
    witnesses: [Ed25519KeyPair; 3],
    /// What the third authority's keys become in root 2.
    next: [Ed25519KeyPair; 2],
    /// When the keys were made, in milliseconds: roots and releases must be the same bytes whenever they are asked for.
    made_ms: u64,
    /// How far the clocks of the authorities are ahead of this machine's, in milliseconds.
    pub shift_ms: i64,
}

impl Default for Authorities {
    fn default() -> Self {
        Self::new()
    }
}

impl Authorities {
    /// New keys.
    #[must_use]
    pub fn new() -> Self {
        let keys = || std::array::from_fn(|_| Ed25519KeyPair::generate().unwrap());
        let next = std::array::from_fn(|_| Ed25519KeyPair::generate().unwrap());
        Self { offline: keys(), online: keys(), witnesses: keys(), next, made_ms: now_ms(), shift_ms: 0 }
    }

    /// Root 1, signed.
    #[must_use]
    pub fn root(&self) -> Vec<u8> {
        let offline = self.offline.each_ref();
        self.root_of(1, offline, self.online.each_ref())
    }

    /// Root 2, signed by the quorums of both: the third authority has other keys in it.
    #[must_use]
    pub fn next_root(&self) -> Vec<u8> {
        let ([a, b, _], [online_a, online_b, _]) = (&self.offline, &self.online);
        let [offline_c, online_c] = &self.next;
        self.root_of(2, [a, b, offline_c], [online_a, online_b, online_c])
    }

    fn root_of(&self, version: u64, offline: [&Ed25519KeyPair; 3], online: [&Ed25519KeyPair; 3]) -> Vec<u8> {
        let names = ["a", "b", "c"];
        let key = |kind: &str, name: &str, key: &Ed25519KeyPair| RootKey {
            name: format!("{name}-{kind}").parse().unwrap(),
            authority: name.parse().unwrap(),
            spki: public(key),
        };
        let offline = names.iter().zip(offline).map(|(name, pair)| key("offline", name, pair));
        let online = names.iter().zip(online).map(|(name, pair)| key("online", name, pair));
        let witnesses = names.iter().zip(&self.witnesses).map(|(name, pair)| key("witness", name, pair));
        let rule = |threshold, kind: &str| RoleRule {
            threshold,
            keys: list(names.iter().map(|name| format!("{name}-{kind}").parse().unwrap())),
        };
        let root = Root {
            room: "grid-forecast".parse().unwrap(),
            version,
            expires: self.in_years(10),
            minimum_release: 1,
            keys: list(offline.chain(online).chain(witnesses)),
            roles: Roles {
                root: rule(2, "offline"),
                release: rule(2, "offline"),
                deny: rule(1, "offline"),
                lease: rule(1, "online"),
                witness: rule(1, "witness"),
            },
        };
        seal(PayloadType::Root, &root.to_payload(), &[&self.offline[0], &self.offline[1]])
    }

    /// The root's envelope as text.
    #[must_use]
    pub fn root_text(&self) -> String {
        String::from_utf8(self.root()).unwrap()
    }

    /// A release of the model `demo` in one image for the partner `p`.
    #[must_use]
    pub fn release(
        &self,
        version: u64,
        image: [Sha384Digest; 3],
        model: Sha256Digest,
        key: Sha256Digest,
    ) -> Release {
        let [pcr0, pcr1, pcr2] = image;
        Release {
            room: "grid-forecast".parse().unwrap(),
            version,
            expires: self.in_years(5),
            supersedes_denials: List::default(),
            images: list([Image { name: "the image".parse().unwrap(), pcr0, pcr1, pcr2 }]),
            nitrotpm_images: None,
            deployments: None,
            models: list([Model {
                id: "demo".parse().unwrap(),
                sha256: model,
                state: ModelState::Active,
                weights: None,
                safeguards: None,
                retention: None,
            }]),
            partners: list([Partner {
                id: "p".parse().unwrap(),
                keys: list([key]),
                models: list(["demo".parse().unwrap()]),
                limits: Limits {
                    requests_per_minute: 60,
                    tokens_per_day: 100_000,
                    concurrency: 4,
                    share: None,
                },
                expires: self.in_years(5),
                attributes: None,
            }]),
            egress: List::default(),
            witnesses: List::default(),
            lease: LeaseRules { seconds: LEASE_MS / 1000, issuers: 1 },
            audit: AuditRules { checkpoint_seconds: 0, witnesses: 0 },
        }
    }

    /// The same release, which demands that so many of the three witnesses have cosigned the log within so many seconds.
    #[must_use]
    pub fn witnessed(&self, release: Release, needed: u64, seconds: u64) -> Release {
        let witness = |name: &str| Witness {
            key: format!("{name}-witness").parse().unwrap(),
            url: format!("http://{name}.example:8720").parse().unwrap(),
        };
        Release {
            witnesses: list(["a", "b", "c"].map(witness)),
            audit: AuditRules { checkpoint_seconds: seconds, witnesses: needed },
            ..release
        }
    }

    /// A checkpoint with the cosignature of a witness.
    #[must_use]
    pub fn cosign(&self, witness: usize, note: &SignedCheckpoint) -> SignedCheckpoint {
        let pair = &self.witnesses[witness];
        let key = WitnessKey::new(["a-witness", "b-witness", "c-witness"][witness], public(pair)).unwrap();
        let seconds = self.now().0 / 1000;
        let signature = pair.sign(&WitnessKey::message(note, seconds));
        note.with(key.cosignature(seconds, signature.as_ref()))
    }

    /// Signed by two of three.
    #[must_use]
    pub fn sign(&self, release: &Release) -> Vec<u8> {
        self.sign_as([1, 2], release)
    }

    /// Signed by two of three: `0` and `1` still count in root 2, `2` does not.
    #[must_use]
    pub fn sign_as(&self, signers: [usize; 2], release: &Release) -> Vec<u8> {
        seal(PayloadType::Release, &release.to_payload(), &signers.map(|signer| &self.offline[signer]))
    }

    /// Signed by one alone, which is not enough.
    #[must_use]
    pub fn sign_alone(&self, release: &Release) -> Vec<u8> {
        seal(PayloadType::Release, &release.to_payload(), &[&self.offline[1]])
    }

    /// An opening, signed by these authorities.
    #[must_use]
    pub fn sign_opening(&self, opening: &Opening, signers: &[usize]) -> Vec<u8> {
        let signers: Vec<&Ed25519KeyPair> = signers.iter().map(|signer| &self.offline[*signer]).collect();
        seal(PayloadType::Opening, &opening.to_payload(), &signers)
    }

    /// One authority's denial of the model, and its digest.
    #[must_use]
    pub fn deny_model(&self) -> (Vec<u8>, Sha256Digest) {
        self.deny(Target::Model("demo".parse().unwrap()))
    }

    /// One authority's denial, and its digest.
    #[must_use]
    pub fn deny(&self, halt: Target) -> (Vec<u8>, Sha256Digest) {
        let denial = Denial {
            room: "grid-forecast".parse().unwrap(),
            halt,
            reason: "a leak is suspected".parse().unwrap(),
            serial: Sha256Digest::of(&[b"serial"]),
        };
        let payload = denial.to_payload();
        (seal(PayloadType::Denial, &payload, &[&self.offline[2]]), Sha256Digest::of(&[&payload]))
    }

    /// What the first authority's lease service answers when it holds `release` and `denials`.
    #[must_use]
    pub fn lease(&self, request: &LeaseRequest, release: &[u8], denials: &[&[u8]]) -> Vec<u8> {
        self.lease_of(0, request, release, denials)
    }

    /// What an authority's lease service answers when it holds `release` and `denials`.
    #[must_use]
    pub fn lease_of(
        &self,
        issuer: usize,
        request: &LeaseRequest,
        release: &[u8],
        denials: &[&[u8]],
    ) -> Vec<u8> {
        let mut state = self.service(request.root_version);
        state.accept_release(release).unwrap();
        for denial in denials {
            state.accept_denial(denial).unwrap();
        }
        let lease = state.draft_lease(request, self.now()).unwrap();
        seal(PayloadType::Lease, &lease.to_payload(), &[&self.online[issuer]])
    }

    /// A lease that an issuer's key signs and no honest issuer would: it lists any `denials`, for any time.
    #[must_use]
    pub fn hostile_lease(
        &self,
        issuer: usize,
        request: &LeaseRequest,
        version: u64,
        seconds: u64,
        denials: &[Sha256Digest],
    ) -> Vec<u8> {
        let lease = Lease {
            nonce: request.nonce,
            root: DocumentName { version: request.root_version, sha256: request.root_sha256 },
            release: DocumentName { version, sha256: request.release_sha256 },
            seconds,
            denials: list(denials.iter().copied()),
        };
        self.hostile_payload(issuer, &lease.to_payload())
    }

    /// Any bytes as the payload of an issuer's lease.
    #[must_use]
    pub fn hostile_payload(&self, issuer: usize, payload: &[u8]) -> Vec<u8> {
        seal(PayloadType::Lease, payload, &[&self.online[issuer]])
    }

    /// Something of the form of a denial, signed by a key that may sign leases and no denials.
    #[must_use]
    pub fn forged_denial(&self, issuer: usize, halt: Target) -> Vec<u8> {
        let denial = Denial {
            room: "grid-forecast".parse().unwrap(),
            halt,
            reason: "forged".parse().unwrap(),
            serial: Sha256Digest::of(&[b"forged"]),
        };
        seal(PayloadType::Denial, &denial.to_payload(), &[&self.online[issuer]])
    }

    /// What time it is, by the authorities' clocks.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        UnixMillis(now_ms().saturating_add_signed(self.shift_ms))
    }

    /// What a lease service knows that has root `root_version` and nothing else.
    #[must_use]
    pub fn service(&self, root_version: u64) -> TrustedState {
        let mut state = TrustedState::new(&self.root()).unwrap();
        if root_version == 2 {
            state.accept_root(&self.next_root()).unwrap();
        }
        state
    }

    /// So many years after the keys were made.
    const fn in_years(&self, years: u64) -> UnixMillis {
        UnixMillis((self.made_ms / 1000 + years * 365 * 24 * 3600) * 1000)
    }
}

fn public(key: &Ed25519KeyPair) -> PublicKey {
    PublicKey::from_raw(Algorithm::Ed25519, key.public_key().as_ref()).unwrap()
}

fn list<T, const MAX: usize>(items: impl IntoIterator<Item = T>) -> List<T, MAX> {
    List::new(items.into_iter().collect()).unwrap()
}

fn seal(payload_type: PayloadType, payload: &[u8], signers: &[&Ed25519KeyPair]) -> Vec<u8> {
    let mut envelope = Envelope::unsigned(payload_type, payload).unwrap();
    for signer in signers {
        let signature = signer.sign(envelope.pae());
        envelope.attach(&public(signer), signature.as_ref()).unwrap();
    }
    envelope.to_json()
}
