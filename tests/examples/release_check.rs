//! What release control costs inside the enclave: the check at every request and at every token, with the enclave's own guard on
//! the machine's own clock, under a release of 10,000 partners. Exit code 1 when one takes 2 µs or more.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be set up has failed")]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::{Limits, List, Nonce, Partner, UnixMillis};
use cleanroom_guard::{Clock, Guard, Sealing};
use cleanroom_tests::authorities::Authorities;
use cleanroom_tests::platform::{World, model_digest, model_id};
use cleanroom_worker::{Grants, PartnerId, SessionIdentity};

const PARTNERS: usize = 10_000;
const TOKENS: u32 = 2_000_000;
const ROUNDS: u32 = 9;
const LIMIT: Duration = Duration::from_micros(2);

fn main() -> ExitCode {
    let (world, authorities) = (World::new(), Authorities::new());
    let keys: Vec<Sha256Digest> =
        (0..PARTNERS).map(|number| Sha256Digest::of(&[b"partner", &number.to_be_bytes()])).collect();
    let guard =
        Guard::new(&authorities.root_text(), model_id(), model_digest(), Sealing::Plain, Clock::boot())
            .unwrap();
    let release = {
        let mut release = authorities.release(1, world.image(), model_digest(), keys[0]);
        let one = release.partners[0].clone();
        let limits =
            Limits { requests_per_minute: 1_000_000, tokens_per_day: 1 << 50, concurrency: 4, share: None };
        let partners = keys.iter().enumerate().map(|(number, key)| Partner {
            id: format!("partner-{number}").parse().unwrap(),
            keys: List::new(vec![*key]).unwrap(),
            limits,
            ..one.clone()
        });
        release.partners = List::new(partners.collect()).unwrap();
        authorities.sign(&release)
    };
    guard.accept_release(&release).unwrap();
    let sent = Clock::boot().now();
    let time = (sent, UnixMillis(world.now_ms()));
    let request = guard.begin_lease(Nonce::from_bytes([7; 32]), sent, time).unwrap();
    guard.accept_lease(&authorities.lease(&request, &release, &[]), Clock::boot().now()).unwrap();

    // The least of several rounds, because other programs share the machine.
    let transcript = Sha384Digest::of(&[b"a session"]);
    let grants = Grants::new(Arc::clone(&guard));
    let mut per_request = Duration::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for key in &keys {
            // What a request passes: the check of its session, and its own admission.
            guard.check(black_box(key)).unwrap();
            let session = SessionIdentity { partner: PartnerId::from(*key), transcript, ticket: [0; 32] };
            drop(black_box(grants.admit(&session).unwrap()));
        }
        per_request = per_request.min(begun.elapsed() / u32::try_from(PARTNERS).unwrap());
    }
    let session =
        SessionIdentity { partner: PartnerId::from(keys[PARTNERS / 2]), transcript, ticket: [0; 32] };
    let mut grant = grants.admit(&session).unwrap();
    let mut per_token = Duration::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..TOKENS / ROUNDS {
            black_box(&mut grant).next_token().unwrap();
        }
        per_token = per_token.min(begun.elapsed() / (TOKENS / ROUNDS));
    }
    println!("at every request     {per_request:.1?}");
    println!("at every token       {per_token:.1?}");
    if per_request < LIMIT && per_token < LIMIT { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
