//! A session through the balancer, against one to the host itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::policy::Policy;
use cleanroom_channel::identity::Identity;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::clock::now;
use cleanroom_partner::session::Session;
use cleanroom_tests::fleet::Fleet;
use tokio::net::TcpStream;

use crate::report::{Limit, Report, at, median};
use crate::{BALANCERS, MANY_CONNECTIONS};

/// A session may take this many times as long through a balancer.
const MOST: f64 = 1.25;

pub(crate) async fn measure(report: &mut Report, count: usize) {
    let fleet = Fleet::start(1, "", &MANY_CONNECTIONS);
    let party = party(&fleet);
    let mut ways = vec![("direct", fleet.addresses[0].to_string().parse().unwrap(), Vec::new())];
    let mut balancers = Vec::new();
    for (name, program) in BALANCERS {
        if let Some(balancer) = program.start_without_header(fleet.path(), &fleet.addresses).await {
            ways.push((name, balancer.address, Vec::new()));
            balancers.push(balancer);
        }
    }
    for round in 0..count + 10 {
        // No way always comes after the same other one.
        let first = round % ways.len();
        let (before, from) = ways.split_at_mut(first);
        for (_, address, times) in from.iter_mut().chain(before) {
            let begun = Instant::now();
            let session = session(&party, *address).await;
            // The first ones warm up.
            if round >= 10 {
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            drop(session);
        }
    }
    println!("\nAn attested session from the first packet to HTTP/2, milliseconds, {count} of each in turn");
    println!("    {:<8} {:>7} {:>10} {:>7}", "", "median", "95 of 100", "ratio");
    let direct = ways.first().map_or(f64::NAN, |(_, _, times)| median(times.iter().copied()));
    for (name, _, times) in &ways {
        let own = median(times.iter().copied());
        println!("    {name:<8} {own:>7.2} {:>10.2} {:>7.3}", at(times.iter().copied(), 95), own / direct);
        if *name != "direct" {
            report.target(
                format!("session set-up through {name}, to direct"),
                own / direct,
                Limit::AtMost(MOST),
            );
        }
    }
}

/// A partner who trusts the fleet.
pub(crate) fn party(fleet: &Fleet) -> RelyingParty {
    let policy = std::fs::read_to_string(fleet.path().join("trust.toml")).unwrap();
    let policy = Policy::from_toml(&policy).unwrap();
    RelyingParty::new(&Identity::generate().unwrap(), policy, ModelId::new("demo").unwrap()).unwrap()
}

/// A session to what is behind `address`.
pub(crate) async fn session(party: &RelyingParty, address: SocketAddr) -> Session {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let attested = party.challenge(stream).await.unwrap().appraise(now()).unwrap().confirm().await.unwrap();
    Session::start(attested, Duration::from_secs(3600)).await.unwrap()
}
