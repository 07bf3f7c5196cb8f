//! The state machine against a model of it that fits on a page. A host delivers anything, in any order, any number of times. The
//! enclave accepts exactly what the model accepts and serves exactly when the model does: over every short history, and over
//! random long ones. `adversary.rs` checks what follows from that when issuers are honest or hostile.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// What a hostile host can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// Lets time pass, in seconds.
    Wait(u64),
    /// Lets the enclave draw the next nonce.
    Ask,
    /// Delivers a lease that some issuer signed at some time for someone; it may list the denial of the partner `p`.
    Lease { issuer: usize, nonce: Answers, version: u64, seconds: u64, root: u64, lists_partner: bool },
    /// Delivers a release.
    Release(u64),
    /// Delivers the denial of the model `m`, of the partner `p` or of the attribute that `p` has in some releases.
    Deny(Halt),
    /// Delivers root 2, which has no issuer 0 any more, and not the deny key that halts the partner.
    Rotate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Answers {
    LastNonce,
    NonceBefore,
    AnotherEnclave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Halt {
    Model,
    Partner,
    Attribute,
}

/// What the releases of these histories say about `p` using `m`; `q` may use `n` in all of them.
struct Spec {
    start: bool,
    goes_on: bool,
    lifts_model_denial: bool,
    /// Whether `p` has the attribute that a denial names.
    has_attribute: bool,
    issuers: usize,
}

const VERSIONS: u64 = 5;

fn spec(version: u64) -> Spec {
    let all = Spec { start: true, goes_on: true, lifts_model_denial: false, has_attribute: true, issuers: 1 };
    match version {
        1 => all,
        2 => Spec { start: false, ..all },
        3 => Spec { lifts_model_denial: true, has_attribute: false, ..all },
        4 => Spec { start: false, goes_on: false, lifts_model_denial: true, ..all },
        _ => Spec { issuers: 2, ..all },
    }
}

#[derive(Debug, Clone, Default)]
struct Model {
    now: u64,
    rotated: bool,
    newest: Option<u64>,
    denied: BTreeSet<Halt>,
    nonces: u8,
    /// When the last nonce was sent, if it still counts.
    sent: Option<u64>,
    /// The issuers that answered, in this order, and the longest time that each gave.
    answers: Vec<(usize, u64)>,
    /// Begin, end, release and issuers of the last lease.
    live: Option<(u64, u64, u64, BTreeSet<usize>)>,
}

impl Model {
    /// Whether the step is accepted, and what it changes.
    fn step(&mut self, step: Step) -> bool {
        match step {
            Step::Wait(seconds) => self.now += seconds * 1000,
            Step::Ask => {
                self.nonces += 1;
                (self.sent, self.answers) = (Some(self.now), Vec::new());
            }
            Step::Release(version) => {
                if self.newest.is_some_and(|newest| version < newest) {
                    return false;
                }
                if self.newest != Some(version) {
                    (self.newest, self.answers) = (Some(version), Vec::new());
                }
            }
            Step::Deny(halt) => {
                if self.rotated && halt == Halt::Partner {
                    return false;
                }
                self.denied.insert(halt);
            }
            Step::Rotate => {
                if !self.rotated {
                    (self.rotated, self.sent) = (true, None);
                    self.live = self.live.take().and_then(|(begin, end, version, mut issuers)| {
                        issuers.remove(&0);
                        (issuers.len() >= spec(version).issuers).then_some((begin, end, version, issuers))
                    });
                }
            }
            Step::Lease { issuer, nonce, version, seconds, root, lists_partner } => {
                let Some(sent) = self.sent else { return false };
                let for_us = nonce == Answers::LastNonce && root == 1 + u64::from(self.rotated);
                let known_issuer = !(self.rotated && issuer == 0);
                let in_time = seconds <= 60 && self.now < sent + seconds * 1000;
                if !(for_us && known_issuer && in_time && self.newest == Some(version)) {
                    return false;
                }
                // Root 2 has no key any more that signed this denial.
                if lists_partner && (self.rotated || !self.denied.contains(&Halt::Partner)) {
                    return false;
                }
                match self.answers.iter_mut().find(|(who, _)| *who == issuer) {
                    Some((_, longest)) => *longest = seconds.max(*longest),
                    None => self.answers.push((issuer, seconds)),
                }
                let mut longest = self.answers.clone();
                longest.sort_by_key(|(_, seconds)| std::cmp::Reverse(*seconds));
                longest.truncate(spec(version).issuers);
                if longest.len() == spec(version).issuers {
                    let end = sent + longest.last().unwrap().1 * 1000;
                    let issuers = longest.iter().map(|(issuer, _)| *issuer).collect();
                    self.live = Some((sent, end, version, issuers));
                    if self.rotated {
                        self.denied.remove(&Halt::Partner);
                    }
                }
            }
        }
        true
    }

    /// When `p` (using `m`) or else `q` (using `n`) must stop, if it may go on now.
    fn until(&self, p: bool, phase: Phase) -> Option<u64> {
        let newest = self.newest?;
        let (begin, end, leased, _) = self.live.as_ref()?;
        assert!(self.now >= *begin);
        let permitted = |version: u64| {
            let spec = spec(version);
            let denied = self.denied.contains(&Halt::Partner)
                || (self.denied.contains(&Halt::Model) && !spec.lifts_model_denial)
                || (self.denied.contains(&Halt::Attribute) && spec.has_attribute);
            !p || (!denied && if phase == Phase::Start { spec.start } else { spec.goes_on })
        };
        (self.now < *end && permitted(newest) && permitted(*leased)).then_some(*end)
    }
}

/// The enclave and the model side by side, and everything that was ever signed.
struct Bench {
    world: World,
    sealed: RefCell<HashMap<(Step, u8), Vec<u8>>>,
}

#[derive(Clone)]
struct Pair {
    state: TrustedState,
    model: Model,
}

impl Bench {
    fn new() -> Self {
        let world = World { offline: [1, 2, 3].map(Signer::ed25519), ..World::new() };
        Self { world, sealed: RefCell::default() }
    }

    fn start(&self) -> Pair {
        Pair { state: self.world.state(), model: Model::default() }
    }

    fn model_denial(&self) -> Denial {
        self.world.denial(Target::Model(id("m")), "m")
    }

    fn partner_denial(&self) -> Denial {
        self.world.denial(Target::Partner(id("p")), "p")
    }

    fn attribute_denial(&self) -> Denial {
        self.world.denial(Target::Attribute(attribute("sector=energy")), "sector")
    }

    fn next_root(&self) -> Root {
        let mut root = self.world.root();
        root.version = 2;
        root.roles.lease.keys = list(["b-online", "c-online"].map(id));
        root.roles.deny.keys = list(["a-offline", "c-offline"].map(id));
        root
    }

    fn release(&self, version: u64) -> Release {
        let spec = spec(version);
        let mut release = self.world.release(version);
        let mut models = release.models.to_vec();
        models[0].state = match (spec.start, spec.goes_on) {
            (true, _) => ModelState::Active,
            (false, true) => ModelState::Draining,
            (false, false) => ModelState::Revoked,
        };
        release.models = list(models);
        let mut partners = release.partners.to_vec();
        partners[0].attributes = spec.has_attribute.then(|| list([attribute("sector=energy")]));
        partners[1].attributes = Some(list([attribute("sector=water")]));
        release.partners = list(partners);
        release.lease.issuers = spec.issuers as u64;
        if spec.lifts_model_denial {
            release.supersedes_denials = list([World::digest_of(&self.model_denial())]);
        }
        release
    }

    fn seal(&self, step: Step, nonces: u8) -> Vec<u8> {
        match step {
            Step::Wait(_) | Step::Ask => Vec::new(),
            Step::Release(version) => self.world.seal_release(&self.release(version)),
            Step::Deny(Halt::Model) => self.world.seal_denial(&self.model_denial(), 0),
            Step::Deny(Halt::Partner) => self.world.seal_denial(&self.partner_denial(), 1),
            Step::Deny(Halt::Attribute) => self.world.seal_denial(&self.attribute_denial(), 0),
            Step::Rotate => self.world.seal_root(&self.next_root()),
            Step::Lease { issuer, nonce, version, seconds, root, lists_partner } => {
                let denial = World::digest_of(&self.partner_denial());
                let payload = if root == 1 { self.world.root() } else { self.next_root() }.to_payload();
                let lease = Lease {
                    nonce: super::nonce(match nonce {
                        Answers::LastNonce => nonces,
                        Answers::NonceBefore => nonces.saturating_sub(1),
                        Answers::AnotherEnclave => 255,
                    }),
                    root: DocumentName { version: root, sha256: Sha256Digest::of(&[&payload]) },
                    release: DocumentName {
                        version,
                        sha256: Sha256Digest::of(&[&self.release(version).to_payload()]),
                    },
                    seconds,
                    denials: list(lists_partner.then_some(denial)),
                };
                self.world.seal_lease(&lease, issuer)
            }
        }
    }

    /// One step on both sides, and every question afterwards.
    fn step(&self, pair: &mut Pair, step: Step) -> Result<(), TestCaseError> {
        let nonces = pair.model.nonces;
        let bytes =
            self.sealed.borrow_mut().entry((step, nonces)).or_insert_with(|| self.seal(step, nonces)).clone();
        let accepted = pair.model.step(step);
        let now = BootMillis(pair.model.now);
        let state = &mut pair.state;
        let result = match step {
            Step::Wait(_) => Ok(()),
            Step::Ask => state.begin_lease(nonce(pair.model.nonces), now),
            Step::Release(_) => state.accept_release(&bytes).map(drop),
            Step::Deny(_) => state.accept_denial(&bytes).map(drop),
            Step::Rotate => state.accept_root(&bytes).map(drop),
            Step::Lease { .. } => state.accept_lease(&bytes, now).map(drop),
        };
        prop_assert_eq!(result.is_ok(), accepted, "{:?} gave {:?}", step, result);
        for phase in [Phase::Start, Phase::Continue] {
            for (partner, model, p) in [("p", "m", true), ("q", "n", false)] {
                let until = match ask_at(state, partner, model, phase, now, TODAY) {
                    Decision::Serve { until, .. } => Some(until.0),
                    Decision::Refuse(_) => None,
                };
                prop_assert_eq!(until, pair.model.until(p, phase), "{} after {:?}", partner, step);
            }
            let strangers = [("q", "m"), ("stranger", "m"), ("p", "x")];
            for (partner, model) in strangers {
                prop_assert!(!serves(ask_at(state, partner, model, phase, now, TODAY)));
            }
        }
        Ok(())
    }
}

fn lease(issuer: usize, nonce: Answers, version: u64) -> Step {
    Step::Lease { issuer, nonce, version, seconds: 60, root: 1, lists_partner: false }
}

#[test]
fn every_short_history() {
    let bench = Bench::new();
    let alphabet = [
        Step::Wait(30),
        Step::Ask,
        lease(0, Answers::LastNonce, 1),
        lease(1, Answers::LastNonce, 3),
        lease(0, Answers::NonceBefore, 1),
        Step::Lease {
            issuer: 1,
            nonce: Answers::LastNonce,
            version: 1,
            seconds: 30,
            root: 1,
            lists_partner: true,
        },
        Step::Lease {
            issuer: 1,
            nonce: Answers::LastNonce,
            version: 1,
            seconds: 60,
            root: 2,
            lists_partner: false,
        },
        Step::Release(1),
        Step::Release(3),
        Step::Deny(Halt::Model),
        Step::Deny(Halt::Partner),
        Step::Deny(Halt::Attribute),
        Step::Rotate,
    ];
    // Once from nothing, and once from a running enclave, where the dangerous states are near.
    let mut running = bench.start();
    for step in [Step::Release(1), Step::Ask, lease(0, Answers::LastNonce, 1)] {
        bench.step(&mut running, step).unwrap();
    }
    let (begun, mut served, mut transitions) = (std::time::Instant::now(), 0_u32, 0_u32);
    // The model has nothing that is not told by its fields, so these are the states that there are.
    let mut states = HashSet::new();
    for (start, depth) in [(bench.start(), 3), (running, 4)] {
        let mut histories = vec![(start, Vec::new())];
        while let Some((pair, steps)) = histories.pop() {
            served += u32::from(pair.model.until(true, Phase::Start).is_some());
            states.insert(format!("{:?}", pair.model));
            if steps.len() == depth {
                continue;
            }
            for step in alphabet {
                let (mut next, mut steps) = (pair.clone(), steps.clone());
                steps.push(step);
                transitions += 1;
                bench.step(&mut next, step).unwrap_or_else(|error| panic!("{steps:?}: {error}"));
                histories.push((next, steps));
            }
        }
    }
    println!(
        "{} states, {transitions} transitions of {} kinds, depth 3 from nothing and 4 from a running enclave; {served} serve; {:.1?}",
        states.len(),
        alphabet.len(),
        begun.elapsed()
    );
    assert!(served > 1_000, "the histories reach states that serve: {served}");
}

fn any_step() -> impl Strategy<Value = Step> {
    let seconds = prop_oneof![Just(60_u64), Just(10), Just(61)];
    let nonce = prop_oneof![
        8 => Just(Answers::LastNonce),
        1 => Just(Answers::NonceBefore),
        1 => Just(Answers::AnotherEnclave)
    ];
    let denies = prop::bool::weighted(0.05);
    let lease = (0..3_usize, nonce, 1..=VERSIONS, seconds, 1..=2_u64, denies).prop_map(
        |(issuer, nonce, version, seconds, root, lists_partner)| Step::Lease {
            issuer,
            nonce,
            version,
            seconds,
            root,
            lists_partner,
        },
    );
    prop_oneof![
        4 => (0..40_u64).prop_map(Step::Wait),
        6 => Just(Step::Ask),
        24 => lease,
        5 => (1..=VERSIONS).prop_map(Step::Release),
        1 => prop_oneof![Just(Halt::Model), Just(Halt::Partner), Just(Halt::Attribute)].prop_map(Step::Deny),
        1 => Just(Step::Rotate),
    ]
}

#[test]
fn random_long_histories() {
    let bench = Bench::new();
    proptest!(ProptestConfig::with_cases(200), |(steps in proptest::collection::vec(any_step(), 1..60))| {
        let mut pair = bench.start();
        for step in steps {
            bench.step(&mut pair, step)?;
        }
    });
}
