//! Tokens of several rooms behind one name, against the sum of their shares.
//!
//! A room's *share* is what it gives when it is asked directly: by a proxy of its own, without a balancer, while the other
//! rooms are asked in the same way at the same time. All rooms run on this machine, so two cases are measured. In the first
//! the room limits: an answer has a fixed pace, and a room has exactly so many places. A name that gives one room too many
//! requests and another one too few then loses tokens that nobody gives back. In the second the machine limits: the
//! balancer and the rooms want the same processors, and the loss is what the balancer takes of them. Only the first has a
//! target, because rooms and balancers have machines of their own elsewhere.

use std::net::SocketAddr;

use cleanroom_tests::fleet::Fleet;
use tokio::task::JoinSet;

use crate::load::{self, Load, Served};
use crate::report::{Limit, Report, median};
use crate::{BALANCERS, MANY_CONNECTIONS, paced};

/// The most rooms.
const ROOMS: usize = 3;

struct Case {
    name: &'static str,
    config: String,
    /// For each room.
    load: Load,
    has_target: bool,
}

pub(crate) async fn measure(report: &mut Report, rounds: usize) {
    // One partner may have three quarters of the places: 16 of 21.
    let limits = "[limits]\nsequences = 16\nqueued = 5\nthreads = 1\n";
    let cases = [
        Case {
            name: "the room limits (16 places, paced)",
            config: format!("{limits}{}", paced("50ms")),
            load: Load { streams: 16, answers: 3, tokens: 24 },
            has_target: true,
        },
        Case {
            name: "the machine limits (8 streams a room, not paced)",
            config: limits.to_owned(),
            load: Load { streams: 8, answers: 6, tokens: 64 },
            has_target: false,
        },
    ];
    println!(
        "\nTokens per second behind one name and the sum of the rooms' shares, medians of {rounds} rounds in turn"
    );
    for case in &cases {
        println!("  {}", case.name);
        println!(
            "    {:<8} {:>5} {:>9} {:>9} {:>7} {:>8}",
            "", "rooms", "one name", "shares", "ratio", "refused"
        );
        measure_case(report, rounds, case).await;
    }
}

async fn measure_case(report: &mut Report, rounds: usize, case: &Case) {
    let fleet = Fleet::start(ROOMS, &case.config, &MANY_CONNECTIONS);
    let proxies: Vec<_> =
        fleet.addresses.iter().map(|address| fleet.connect(&[&address.to_string()], &[])).collect();
    let direct: Vec<SocketAddr> = proxies.iter().map(|(_, listen)| *listen).collect();
    for (balancer_name, program) in BALANCERS {
        for rooms in 1..=ROOMS {
            let (behind, asked) = (&fleet.addresses[..rooms], &direct[..rooms]);
            let Some(balancer) = program.start_without_header(fleet.path(), behind).await else { continue };
            let count = rooms.to_string();
            let (_proxy, name) = fleet.connect(&[&balancer.address.to_string()], &["--rooms", &count]);
            for room in 0..rooms {
                fleet.has_connections(room, 2).await;
            }
            let all = Load { streams: case.load.streams * rooms, ..case.load };
            let mut pairs = Vec::new();
            for round in 0..rounds {
                // Neither side always comes first.
                pairs.push(if round % 2 == 0 {
                    let shares = shares(asked, case.load).await;
                    (load::run(name, all).await, shares)
                } else {
                    (load::run(name, all).await, shares(asked, case.load).await)
                });
            }
            let ratio = median(pairs.iter().map(|(one, shares)| one.tokens_per_second() / shares));
            println!(
                "    {balancer_name:<8} {rooms:>5} {:>9.0} {:>9.0} {ratio:>7.3} {:>8}",
                median(pairs.iter().map(|(one, _)| one.tokens_per_second())),
                median(pairs.iter().map(|(_, shares)| *shares)),
                pairs.iter().map(|(one, _)| one.refused).sum::<u64>(),
            );
            if case.has_target {
                let what = format!("tokens/s of {rooms} behind {balancer_name}, to the sum of their shares");
                report.target(what, ratio, Limit::AtLeast(0.95));
            }
        }
    }
}

/// The sum of what each room gives when all are asked directly, at the same time.
async fn shares(rooms: &[SocketAddr], load: Load) -> f64 {
    let asked: JoinSet<Served> = rooms.iter().map(|room| load::run(*room, load)).collect();
    asked.join_all().await.iter().map(Served::tokens_per_second).sum()
}
