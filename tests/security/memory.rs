//! What an enclave's memory holds of a session that has ended: nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::Sessions;
use cleanroom_tests::ceremony::{Ceremony, NAMES, Terms};
use cleanroom_tests::client::{json, question};
use cleanroom_tests::processes::only_child_of;
use cleanroom_tests::room::model_id;
use http::{Request, StatusCode};
use http_body_util::channel::Channel;

/// In the prompt, and nowhere else in the world.
const MARKER: &str = "Zaunkoenig-7183-Wiesenpieper";
/// Longer than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_session_is_left_in_the_enclaves_memory() {
    let mut ceremony = Ceremony::new(Terms::default());
    (0..NAMES.len()).for_each(|index| ceremony.serve(index));
    let (host, address) = ceremony.host(true);
    let keeper = host.only_child();
    let worker = only_child_of(keeper).expect("the keeper has one worker");
    let (memory, keeper) = match (Memory::of(worker), Memory::of(keeper)) {
        (Ok(memory), Ok(keeper)) => (memory, keeper),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("not tested: another process's memory cannot be read here ({error}); root can");
            return;
        }
    };

    let party =
        || RelyingParty::new(ceremony.identity(), ceremony.policy("roots/1.json"), model_id()).unwrap();
    let session = loop {
        // Until the enclave has its first lease.
        if let Ok(session) = Sessions::new(party(), address.parse().unwrap()).get().await {
            break session;
        }
    };
    // The first part of a request, up to the marker's end, and no more.
    let text = question(&format!("What is attestation? {MARKER}"), false);
    let (first, rest) = text.split_at(text.find(MARKER).unwrap() + MARKER.len());
    let (mut sender, body) = Channel::<Bytes>::new(2);
    let request = Request::post("https://cleanroom/v1/chat/completions")
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let response = tokio::spawn({
        let session = session.clone();
        async move { session.send(request).await }
    });
    sender.send_data(Bytes::copy_from_slice(first.as_bytes())).await.unwrap();
    // The worker holds what it got so far, and the search finds it. The keeper never does: it has the keys to all sessions' evidence,
    // and the search finds what the host told it at its start.
    until(|| memory.holds(MARKER), "the search finds what is there").await;
    assert!(keeper.holds("CLEANROOM_MODEL="), "the search finds what the keeper has");
    assert!(!keeper.holds(MARKER), "the keeper has seen the prompt");

    sender.send_data(Bytes::copy_from_slice(rest.as_bytes())).await.unwrap();
    drop(sender);
    let (status, answer) = json(response.await.unwrap().unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answer = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(answer.len() > 20, "an answer that can be searched for, got {answer:?}");
    assert!(!keeper.holds(MARKER) && !keeper.holds(answer), "the keeper has seen the session");
    drop(session);
    until(|| !memory.holds(MARKER), "the prompt is gone").await;
    until(|| !memory.holds(answer), "the answer is gone").await;
}

async fn until(condition: impl Fn() -> bool, what: &str) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "expected that {what}");
        tokio::task::yield_now().await;
    }
}

/// The memory of another process.
struct Memory {
    process: u32,
    memory: File,
}

impl Memory {
    fn of(process: u32) -> io::Result<Self> {
        let memory = File::open(format!("/proc/{process}/mem"))?;
        Ok(Self { process, memory })
    }

    /// Whether `needle` is in memory that the process may write to.
    fn holds(&self, needle: &str) -> bool {
        const PIECE: usize = 4 << 20;
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.process)).unwrap();
        let mut buffer = vec![0; PIECE + needle.len()];
        maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))).any(
            |line| {
                let (from, rest) = line.split_once('-').unwrap();
                let (to, _) = rest.split_once(' ').unwrap();
                let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
                // Pieces overlap by a needle, so that none is cut in two.
                (from..to).step_by(PIECE).any(|start| {
                    let length = usize::try_from(to - start).unwrap().min(buffer.len());
                    let piece = &mut buffer[..length];
                    // What goes away in the meantime is gone.
                    self.memory.read_exact_at(piece, start).is_ok()
                        && memchr::memmem::find(piece, needle.as_bytes()).is_some()
                })
            },
        )
    }
}
