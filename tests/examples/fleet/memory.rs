//! Memory of idle sessions and of streams under way, in each of the processes that they pass.

use std::sync::Arc;

use cleanroom_tests::client::send;
use cleanroom_tests::fleet::Fleet;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::process::private_kib;
use crate::report::{Limit, Report};
use crate::{MANY_CONNECTIONS, load, paced, set_up};

/// Streams of each proxy: a session carries 64 at once.
const OF_A_PROXY: usize = 60;
/// Sessions that are opened first and not counted: they pay for pages that a process pays for once.
const FIRST: usize = 16;
/// The most KiB that an idle session may take in host and enclave together.
const MOST_IDLE: f64 = 128.0;
/// The most KiB that a stream may take in proxy, host and enclave together, keys and values of the demo model included.
const MOST_STREAM: f64 = 1024.0;

pub(crate) async fn measure(report: &mut Report, sessions: usize, streams: usize) {
    // An eighth of the sessions is for keys without rights. One partner may have three quarters of the rest, and of the
    // sequences.
    let limits = format!(
        "[limits]\nsessions = {}\nsequences = {}\nqueued = 0\nthreads = 1\n",
        2 * (sessions + FIRST),
        streams + streams.div_ceil(3) + 1
    );
    // A token a second: all streams are under way for as long as it takes to look.
    let fleet = Fleet::start(1, &format!("{limits}{}", paced("1s")), &MANY_CONNECTIONS);
    idle(report, &fleet, sessions).await;
    under_way(report, &fleet, streams).await;
}

async fn idle(report: &mut Report, fleet: &Fleet, count: usize) {
    let party = set_up::party(fleet);
    let address = fleet.addresses[0].to_string().parse().unwrap();
    let mut open = Vec::with_capacity(FIRST + count);
    for _ in 0..FIRST {
        open.push(set_up::session(&party, address).await);
    }
    let before = fleet.processes(0).map(private_kib);
    for _ in 0..count {
        open.push(set_up::session(&party, address).await);
    }
    let after = fleet.processes(0).map(private_kib);
    println!("\nPrivate memory of {count} idle sessions (the kernel's buffers are not in it)");
    let each = print(&["host", "keeper", "worker"], &before, &after, count);
    report.target("KiB of an idle session in host and enclave", each, Limit::AtMost(MOST_IDLE));
}

async fn under_way(report: &mut Report, fleet: &Fleet, count: usize) {
    let address = fleet.addresses[0].to_string();
    let proxies: Vec<_> = (0..count.div_ceil(OF_A_PROXY)).map(|_| fleet.connect(&[&address], &[])).collect();
    let kib = || {
        let [host, keeper, worker] = fleet.processes(0).map(private_kib);
        [proxies.iter().map(|(proxy, _)| private_kib(proxy.id())).sum::<f64>(), host, keeper, worker]
    };
    let begun = Arc::new(Semaphore::new(0));
    let mut streams = JoinSet::new();
    let before = kib();
    for number in 0..count {
        let (begun, listen) = (Arc::clone(&begun), proxies[number % proxies.len()].1);
        streams.spawn(async move {
            let response = send(listen, "POST", "/v1/chat/completions", &load::question(200)).await;
            assert!(response.status().is_success(), "stream {number}: {}", response.status());
            let mut body = response.into_body();
            body.frame().await.unwrap().unwrap();
            begun.add_permits(1);
            while let Some(frame) = body.frame().await {
                frame.unwrap();
            }
        });
    }
    let all = begun.acquire_many(u32::try_from(count).unwrap_or(u32::MAX)).await.unwrap();
    let after = kib();
    assert!(streams.try_join_next().is_none(), "a stream ended before all had begun");
    drop((all, streams));
    println!("\nPrivate memory of {count} streams under way, through {} proxies", proxies.len());
    let each = print(&["proxies", "host", "keeper", "worker"], &before, &after, count);
    report.target("KiB of a stream in proxy, host and enclave", each, Limit::AtMost(MOST_STREAM));
}

/// Prints what each process took, and gives the KiB of one session or stream in all of them.
fn print(names: &[&str], before: &[f64], after: &[f64], count: usize) -> f64 {
    println!("    {:<8} {:>11} {:>11} {:>10}", "", "before, MiB", "after, MiB", "KiB each");
    let mut sum = 0.0;
    for ((name, before), after) in names.iter().zip(before).zip(after) {
        let each = (after - before) / count as f64;
        println!("    {name:<8} {:>11.1} {:>11.1} {each:>10.1}", before / 1024.0, after / 1024.0);
        sum += each;
    }
    sum
}
