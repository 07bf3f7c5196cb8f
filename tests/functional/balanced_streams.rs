//! Streams of the official client through `cleanroom connect`, over three rooms and then two behind a real balancer, while
//! rooms restart and hosts, enclaves and the balancer are killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::HashSet;
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_partner::receipts::ReceiptFolder;
use cleanroom_tests::balancer::{Balancer, Program};
use cleanroom_tests::fleet::Fleet;
use cleanroom_tests::log::receipts_in;
use cleanroom_tests::streams::Streams;
use cleanroom_tests::wait;
use tokio::sync::Mutex;

/// A room has places for all streams: while the others restart, it may be the only one. One partner may have three quarters
/// of them. A stream takes some seconds, whatever the machine's speed.
const CONFIG: &str =
    "[limits]\nsequences = 64\nqueued = 22\nthreads = 1\n[traffic]\nstep = 512\ncadence = \"200ms\"\n";

/// Streams at once.
const STREAMS: usize = 64;

/// The longest time between two events of a stream, or without an event of any, and the longest time from a call to its first
/// event. A machine that has nothing else to do is an order of magnitude below.
const LONGEST_GAP: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(45);

/// How long the balancer is away after it was killed.
const AWAY: Duration = Duration::from_secs(1);

/// One fleet at a time: they would share two processors.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_streams_outlive_restarts_and_only_those_of_a_dead_room_are_lost() {
    streams_outlive_restarts_and_only_those_of_a_dead_room_are_lost(Program::HaProxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_envoy_streams_outlive_restarts_and_only_those_of_a_dead_room_are_lost() {
    streams_outlive_restarts_and_only_those_of_a_dead_room_are_lost(Program::Envoy).await;
}

/// Rooms behind a balancer, and streams through it.
struct Service {
    program: Program,
    fleet: Fleet,
    balancer: Balancer,
    streams: Streams,
    rooms: usize,
    /// Enclaves that have been started for partners, in all.
    boots: usize,
}

async fn streams_outlive_restarts_and_only_those_of_a_dead_room_are_lost(program: Program) {
    let _alone = ALONE.lock().await;
    let fleet =
        Fleet::start_restartable(3, 5, CONFIG, &["--drain-timeout", "60s", "--proxy-protocol", "unix"]);
    let Some(balancer) = program.start(fleet.path(), &fleet.addresses).await else { return };
    let arguments = ["--rooms", "3", "--outage", "60s", "--receipts", "receipts"];
    let (mut proxy, listen) = fleet.connect(&[&balancer.address.to_string()], &arguments);
    fleet.are_connected().await;
    let Some(streams) = Streams::start(listen, STREAMS) else { return };
    let mut service = Service { program, fleet, balancer, streams, rooms: 3, boots: 3 };

    service.restart_all().await;
    // The first three enclaves have ended, and their logs are complete: each request that they had is one of the partner's.
    let kept = service.kept_receipts();
    for room in 0..3 {
        let logged = receipts_in(&service.fleet.path().join(format!("log{room}")));
        assert!(!logged.is_empty() && logged.iter().all(|receipt| kept.contains(receipt)), "room {room}");
    }
    service.kill_the_enclave_of(0).await;
    service.kill_the_host_of(1).await;
    service.restart_all().await;
    service.kill_the_enclave_of(2).await;
    service.kill_the_balancer().await;
    service.kill_the_host_of(0).await;

    service.streams.finish().await;
    assert!(proxy.stop().success());
    assert!(service.fleet.hosts[2].take().unwrap().stop().success());
    service.nobody_got_a_request_twice();
}

impl Service {
    /// Waits until each room has its share of the streams, and forgets the times until then. Gives how many calls were made
    /// before; all of them have ended.
    async fn settle(&mut self) -> u64 {
        self.all_serve().await;
        let before = self.streams.asked();
        self.streams.are_new().await;
        self.streams.are_under_way().await;
        self.streams.figures().await;
        before
    }

    /// Waits until each enclave that was started has served a stream: the proxy keeps receipts in a folder for each.
    async fn all_serve(&self) {
        let receipts = self.fleet.path().join("receipts");
        let serving = || std::fs::read_dir(&receipts).map_or(0, Iterator::count);
        wait::until("each enclave has served", || serving() >= self.boots).await;
    }

    /// Prints the longest times of what was done, and holds them against their limits.
    async fn figures(&mut self, what: &str, lost: usize) {
        let figures = self.streams.figures().await;
        println!(
            "{:?}, {} rooms, {STREAMS} streams, {what}: {lost} lost; longest gap in a stream {:.2?}, longest wait for a \
             first event {:.2?}, longest time without an event of any stream {:.2?}",
            self.program, self.rooms, figures.gap, figures.wait, figures.silence
        );
        assert!(figures.gap < LONGEST_GAP && figures.silence < LONGEST_GAP + AWAY, "{figures:?}");
        assert!(figures.wait < LONGEST_WAIT, "{figures:?}");
    }

    async fn restart_all(&mut self) {
        let before = self.settle().await;
        let there = (0..3).filter(|room| self.fleet.hosts[*room].is_some());
        for room in there.collect::<Vec<_>>() {
            self.fleet.restart(room);
            self.boots += 1;
            self.all_serve().await;
        }
        self.streams.are_new().await;
        let lost = self.streams.lost(before);
        assert!(lost.is_empty(), "a restart cut streams or failed requests: {lost:?}");
        self.figures("each room restarted in turn", 0).await;
    }

    async fn kill_the_enclave_of(&mut self, room: usize) {
        let before = self.settle().await;
        self.fleet.kill_enclave(room);
        // The host starts another one.
        self.boots += 1;
        self.lost_no_more_than_a_room_had("kill -9 of an enclave", before).await;
    }

    async fn kill_the_host_of(&mut self, room: usize) {
        let before = self.settle().await;
        self.fleet.kill_host(room);
        self.lost_no_more_than_a_room_had("kill -9 of a host", before).await;
        self.rooms -= 1;
    }

    async fn lost_no_more_than_a_room_had(&mut self, what: &str, before: u64) {
        self.streams.are_new().await;
        let lost = self.lost_after_it_was_sent(before);
        // Streams end and begin while the room dies, so that its share is not exact.
        let most = STREAMS.div_ceil(self.rooms) + STREAMS / 8;
        assert!(lost <= most, "{what}: {lost} of {STREAMS} streams were lost");
        self.figures(what, lost).await;
    }

    async fn kill_the_balancer(&mut self) {
        let before = self.settle().await;
        self.balancer.kill();
        tokio::time::sleep(AWAY).await;
        self.balancer.start_again().await;
        self.streams.are_new().await;
        let lost = self.lost_after_it_was_sent(before);
        // Every connection went through it.
        assert!(lost <= STREAMS, "{lost}");
        self.figures("kill -9 of the balancer, which is back a second later", lost).await;
    }

    /// How many calls after number `after` were lost. None of them may be one that was never sent.
    fn lost_after_it_was_sent(&self, after: u64) -> usize {
        let lost = self.streams.lost(after);
        for error in &lost {
            assert!(!error.contains("was not sent"), "a request that was never sent failed: {error}");
        }
        lost.len()
    }

    /// The receipts that the partner's proxy has kept.
    fn kept_receipts(&self) -> HashSet<Sha256Digest> {
        let (kept, bad) = ReceiptFolder::at(self.fleet.path().join("receipts")).read().unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        kept.iter().map(|kept| kept.signed.digest()).collect()
    }

    /// A room makes one receipt for each request that it gets, also when the stream breaks off. So there are no more receipts
    /// than calls: in the partner's folder, in the rooms' logs, or in both. A dead room takes the last of its own with it.
    fn nobody_got_a_request_twice(&self) {
        let kept = self.kept_receipts();
        let logged: HashSet<_> = self.fleet.logged_receipts().into_iter().collect();
        let (whole, lost) = (self.streams.whole(), self.streams.lost(0).len());
        let requests = kept.union(&logged).count();
        println!(
            "{:?}: {whole} streams whole and {lost} lost; the rooms got {requests} requests",
            self.program
        );
        assert!((whole..=whole + lost).contains(&requests));
    }
}
