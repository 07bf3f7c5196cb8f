//! Hostile issuers and a hostile host against honest issuers: what can they lift, prevent or stop?
//!
//! Two of three issuers must give a lease. Issuer 0 is hostile and signs anything. Issuers 1 and 2 are honest: each runs the
//! issuer's own code on what it was told. The host asks, tells, delivers, withholds, delays, reorders and plays again. After every
//! step of every history this checks that
//!
//! * **known**: a denial that an honest issuer of the live lease knew when it signed is in force;
//! * **lifted by nobody**: a denial that was handed in stays in force until a release that lists it is leased;
//! * **halted by nobody**: what no deny key halted is not halted;
//! * **stopped by nobody**: from here, the two honest issuers alone bring the service back, for a whole lease. So whatever was
//!   done lasts no longer than one of the two is missing.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// What the host, the hostile issuer and the authorities can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// 31 seconds pass.
    Wait,
    /// The enclave draws a nonce.
    Ask,
    /// An honest issuer hears of the denial of the model `m`.
    Tell(usize),
    /// An honest issuer signs for the last nonce, and the host keeps the lease.
    Sign(usize),
    /// The host delivers what it kept of an honest issuer, again and again if it likes.
    Deliver(usize),
    /// An honest issuer signs, and the host delivers at once.
    SignAndDeliver(usize),
    /// The hostile issuer's lease, with these denials.
    Hostile(Lists),
    /// The hostile issuer's lease, for one second.
    HostileShort,
    /// The host hands in the denial of `m`.
    Deny,
    /// The host hands in something that the hostile issuer signed as a denial of `m`.
    ForgeDenial,
    /// The quorum publishes release 2, which lifts nothing, or release 3, which lifts the denial. The honest issuers get it.
    Publish(u64),
    /// The host hands the enclave the newest release.
    HandRelease,
}

/// What the hostile issuer lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    Nothing,
    TheDenial,
    Invented,
    Both,
}

const ALPHABET: [Step; 20] = [
    Step::Wait,
    Step::Ask,
    Step::Tell(1),
    Step::Tell(2),
    Step::Sign(1),
    Step::Deliver(1),
    Step::SignAndDeliver(1),
    Step::SignAndDeliver(2),
    Step::Hostile(Lists::Nothing),
    Step::Hostile(Lists::TheDenial),
    Step::Hostile(Lists::Invented),
    Step::Hostile(Lists::Both),
    Step::HostileShort,
    Step::Deny,
    Step::ForgeDenial,
    Step::Publish(2),
    Step::Publish(3),
    Step::HandRelease,
    Step::Sign(2),
    Step::Deliver(2),
];

/// Everybody's state after some steps.
#[derive(Clone)]
struct Scene {
    enclave: TrustedState,
    /// Of issuers 1 and 2.
    honest: [TrustedState; 2],
    now: u64,
    nonces: u8,
    published: u64,
    /// The last nonce, as issuers are asked with it.
    request: Option<LeaseRequest>,
    /// What the host kept of issuers 1 and 2.
    kept: [Option<Vec<u8>>; 2],
    /// Digests of honest statements whose issuer knew the denial when it signed, while its release did not lift it.
    informed: HashSet<Sha256Digest>,
    /// The denial was handed to the enclave, and no lease for a release that lifts it has come since.
    handed: bool,
}

/// Envelopes by issuer and payload.
type SignedLeases = HashMap<(usize, Vec<u8>), Vec<u8>>;

struct Adversary {
    world: World,
    denial: Denial,
    sealed_denial: Vec<u8>,
    releases: HashMap<u64, Vec<u8>>,
    /// What issuers signed, so that each lease is signed once.
    leases: RefCell<SignedLeases>,
    served: Cell<u64>,
    halted: Cell<u64>,
}

impl Scene {
    /// What tells this scene from others: what everybody knows, has, and was given.
    fn name(&self) -> String {
        let Self { enclave, honest, now, nonces, published, request, kept, informed, handed } = self;
        let knows = |state: &TrustedState| {
            let lease = state.lease().map(|lease| (lease.digest(), lease.begin(), lease.end()));
            (state.release().map(|release| release.version), state.denials_known(), lease)
        };
        let kept = kept.each_ref().map(|kept| kept.as_ref().map(|lease| Sha256Digest::of(&[lease])));
        let mut informed: Vec<_> = informed.iter().collect();
        informed.sort();
        let issuers = honest.each_ref().map(knows);
        format!("{:?}", (knows(enclave), issuers, now, nonces, published, request, kept, informed, handed))
    }
}

impl Adversary {
    fn new() -> Self {
        let world = World { offline: [1, 2, 3].map(Signer::ed25519), ..World::new() };
        let denial = world.denial(Target::Model(id("m")), "m");
        let releases = (1..=3).map(|version| {
            let mut release = world.release(version);
            release.lease.issuers = 2;
            if version == 3 {
                release.supersedes_denials = list([World::digest_of(&denial)]);
            }
            (version, world.seal_release(&release))
        });
        let releases = releases.collect();
        let sealed_denial = world.seal_denial(&denial, 2);
        let (served, halted) = (Cell::new(0), Cell::new(0));
        Self { world, denial, sealed_denial, releases, leases: RefCell::default(), served, halted }
    }

    fn sealed(&self, lease: &Lease, issuer: usize) -> Vec<u8> {
        let mut leases = self.leases.borrow_mut();
        let sealed = leases.entry((issuer, lease.to_payload()));
        sealed.or_insert_with(|| self.world.seal_lease(lease, issuer)).clone()
    }

    /// Release 1 is leased for a minute by the two honest issuers.
    fn start(&self) -> Scene {
        let mut state = self.world.state();
        state.accept_release(&self.releases[&1]).unwrap();
        let mut scene = Scene {
            enclave: state.clone(),
            honest: [state.clone(), state],
            now: 0,
            nonces: 0,
            published: 1,
            request: None,
            kept: [None, None],
            informed: HashSet::new(),
            handed: false,
        };
        for step in [Step::Ask, Step::SignAndDeliver(1), Step::SignAndDeliver(2)] {
            self.step(&mut scene, step);
        }
        scene
    }

    fn step(&self, scene: &mut Scene, step: Step) {
        let now = BootMillis(scene.now);
        match step {
            Step::Wait => scene.now += 31_000,
            Step::Ask => {
                scene.nonces += 1;
                scene.enclave.begin_lease(nonce(scene.nonces), now).unwrap();
                scene.request = Some(request(&scene.enclave, nonce(scene.nonces)));
            }
            Step::Tell(issuer) => {
                let _ = scene.honest[issuer - 1].accept_denial(&self.sealed_denial).unwrap();
            }
            Step::Sign(issuer) => {
                if let Some(lease) = self.honest(scene, issuer) {
                    scene.kept[issuer - 1] = Some(lease);
                }
            }
            Step::Deliver(issuer) => {
                if let Some(lease) = scene.kept[issuer - 1].clone() {
                    self.deliver(scene, &lease);
                }
            }
            Step::SignAndDeliver(issuer) => {
                if let Some(lease) = self.honest(scene, issuer) {
                    self.deliver(scene, &lease);
                }
            }
            Step::Hostile(lists) => self.hostile(scene, lists, 60),
            Step::HostileShort => self.hostile(scene, Lists::Nothing, 1),
            Step::Deny => {
                scene.enclave.accept_denial(&self.sealed_denial).unwrap();
                scene.handed = !self.lifted(scene);
            }
            Step::ForgeDenial => {
                let payload = self.denial.to_payload();
                let forged = seal(PayloadType::Denial, &payload, &[&self.world.online[0]]);
                assert_eq!(code(scene.enclave.accept_denial(&forged)), "threshold");
            }
            Step::Publish(version) => {
                if version > scene.published {
                    scene.published = version;
                    for issuer in &mut scene.honest {
                        issuer.accept_release(&self.releases[&version]).unwrap();
                    }
                }
            }
            Step::HandRelease => {
                scene.enclave.accept_release(&self.releases[&scene.published]).unwrap();
            }
        }
    }

    /// What an honest issuer says to the last request.
    fn honest(&self, scene: &mut Scene, issuer: usize) -> Option<Vec<u8>> {
        let state = &scene.honest[issuer - 1];
        let lease = state.draft_lease(&scene.request?, TODAY).ok()?;
        let lifted = state.release().unwrap().version == 3;
        if state.knows_denial(&World::digest_of(&self.denial)) && !lifted {
            scene.informed.insert(Sha256Digest::of(&[&lease.to_payload()]));
        }
        Some(self.sealed(&lease, issuer))
    }

    fn hostile(&self, scene: &mut Scene, lists: Lists, seconds: u64) {
        let (Some(request), Some(release)) = (scene.request, scene.enclave.release()) else { return };
        let (denial, invented) = (World::digest_of(&self.denial), sha256("invented"));
        let denials = match lists {
            Lists::Nothing => vec![],
            Lists::TheDenial => vec![denial],
            Lists::Invented => vec![invented],
            Lists::Both => vec![invented, denial],
        };
        let root = scene.enclave.root();
        let lease = Lease {
            nonce: request.nonce,
            root: DocumentName { version: root.version, sha256: root.digest() },
            release: DocumentName { version: release.version, sha256: release.digest() },
            seconds,
            denials: list(denials),
        };
        let lease = self.sealed(&lease, 0);
        self.deliver(scene, &lease);
    }

    /// Hands the enclave a lease. It may be refused.
    fn deliver(&self, scene: &mut Scene, lease: &[u8]) {
        let result = scene.enclave.accept_lease(lease, BootMillis(scene.now));
        if result == Ok(Accepted::New) && self.lifted(scene) {
            scene.handed = false;
        }
    }

    /// Whether the live lease names the release that lifts the denial.
    fn lifted(&self, scene: &Scene) -> bool {
        scene.enclave.leased_release().is_some_and(|release| release.version == 3)
    }

    /// The properties at the top of this file.
    fn check(&self, scene: &Scene) {
        let now = BootMillis(scene.now);
        let decision = ask(&scene.enclave, "p", "m", now);
        self.served.set(self.served.get() + u64::from(serves(decision)));
        self.halted.set(self.halted.get() + u64::from(decision == Decision::Refuse(Refusal::ModelDenied)));
        if serves(decision) {
            let lease = scene.enclave.lease_in_force(now).unwrap();
            for envelope in lease.envelopes() {
                let digest = Envelope::parse(envelope, PayloadType::Lease).unwrap().digest();
                assert!(!scene.informed.contains(&digest), "known");
            }
            assert!(!scene.handed, "lifted by nobody");
        }
        if !scene.enclave.knows_denial(&World::digest_of(&self.denial)) {
            assert_ne!(decision, Decision::Refuse(Refusal::ModelDenied), "halted by nobody");
        }
        let unconcerned = ask(&scene.enclave, "q", "n", now);
        assert!(
            serves(unconcerned) || scene.enclave.lease_in_force(now).is_err(),
            "halted by nobody: {unconcerned:?}"
        );
        // The honest two bring it back, for a whole lease, whatever happened before.
        let mut later = scene.clone();
        if scene.honest.iter().any(|issuer| issuer.knows_denial(&World::digest_of(&self.denial))) {
            self.step(&mut later, Step::Deny);
        }
        for step in [Step::HandRelease, Step::Ask, Step::SignAndDeliver(1), Step::SignAndDeliver(2)] {
            self.step(&mut later, step);
        }
        let Decision::Serve { until, .. } = ask(&later.enclave, "q", "n", now) else {
            panic!("stopped by nobody")
        };
        assert_eq!(until, now.plus(60_000), "stopped by nobody");
    }
}

#[test]
fn no_short_history_lifts_prevents_or_stops() {
    const DEPTH: usize = 3;
    let adversary = Adversary::new();
    let begun = Instant::now();
    // The attacks need a few steps each. So they begin at a running enclave, at one with the denial on its way, and at one where
    // a rogue lease waits for the second.
    let beginnings: [&[Step]; 3] = [
        &[],
        &[Step::Tell(1), Step::Tell(2), Step::Ask, Step::Hostile(Lists::TheDenial)],
        &[Step::Tell(1), Step::Deny, Step::Publish(2), Step::HandRelease, Step::Ask],
    ];
    let mut transitions = 0_u64;
    // Statements of a lease that is not complete are not told apart, so there are at least so many states.
    let mut states = HashSet::new();
    for beginning in beginnings {
        let mut scene = adversary.start();
        for step in beginning {
            adversary.step(&mut scene, *step);
        }
        let mut waiting = vec![(scene, Vec::new())];
        while let Some((scene, steps)) = waiting.pop() {
            states.insert(scene.name());
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| adversary.check(&scene)));
            assert!(checked.is_ok(), "after {beginning:?} {steps:?}");
            if steps.len() == DEPTH {
                continue;
            }
            for step in ALPHABET {
                let mut next = scene.clone();
                transitions += 1;
                adversary.step(&mut next, step);
                waiting.push((next, [&steps[..], &[step]].concat()));
            }
        }
    }
    println!(
        "{} states, {transitions} transitions of {} kinds, depth {DEPTH} from {} beginnings; {} serve, {} are halted; {:.1?}",
        states.len(),
        ALPHABET.len(),
        beginnings.len(),
        adversary.served.get(),
        adversary.halted.get(),
        begun.elapsed()
    );
    assert!(
        adversary.served.get() > 1_000 && adversary.halted.get() > 1_000,
        "both kinds of state are reached"
    );
}

#[test]
fn no_random_long_history_lifts_prevents_or_stops() {
    let adversary = Adversary::new();
    let step = prop_oneof![
        3 => prop::sample::select(ALPHABET.to_vec()),
        1 => Just(Step::Ask),
        2 => prop::sample::select(vec![Step::SignAndDeliver(1), Step::SignAndDeliver(2)]),
    ];
    let begun = Instant::now();
    proptest!(ProptestConfig::with_cases(60), |(steps in proptest::collection::vec(step, 1..50))| {
        let mut scene = adversary.start();
        for step in steps {
            adversary.step(&mut scene, step);
            adversary.check(&scene);
        }
    });
    println!("60 histories of up to 50 steps; {:.1?}", begun.elapsed());
}
