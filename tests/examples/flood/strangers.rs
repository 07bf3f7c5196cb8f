//! Keys without rights keep the enclave busy.
//!
//! They hold every session that they can get and ask for public attestations on all of them, they open sessions again and again,
//! and they fill all handshakes with connections that say nothing. The security module takes ten milliseconds for an answer.
//!
//! This measures what is divided inside the enclave. Strangers are a process of their own on a processor of their own ([`processors`]),
//! because they run on the machine that they attack. How much of it they used stands under the table. A second attack is a crowd that
//! does nothing but handshakes, as fast as that processor can.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cleanroom_attestation::channel::Nonce;
use cleanroom_channel::identity::Identity;
use cleanroom_guard::Clock;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::clock::now;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::platform::World;
use cleanroom_tests::stranger::{Stranger, ask_attestation};
use http::StatusCode;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::measure::{
    AGAIN, ONE_THREAD, QUESTIONS, THINKS, TURNS, compare, print_head, show, time_to_first_token,
};
use crate::{processors, runtime};

/// Tells a process of this program that it is the strangers, and whom they attack.
const ROLE: &str = "CLEANROOM_FLOOD_ATTACKED";
/// Tells it that they are the [`CROWD`].
const AS_CROWD: &str = "CLEANROOM_FLOOD_CROWD";

/// What the security module takes for an answer.
const ANSWER: Duration = Duration::from_millis(10);
/// As many sessions as keys without rights can have by default.
const HOLDERS: usize = 64;
/// Strangers who open a session, leave, and come again, each ten times a second at most.
const COMERS: usize = 4;
/// As many silent connections as there are handshakes by default, and more.
const SILENT: usize = 192;
/// How long strangers have until they count: their sessions get a tenth of the security module.
const SETTLE: Duration = Duration::from_secs(8);
/// How long a stranger waits who got no session to hold, or whose silent connection was cut.
const REFUSED: Duration = Duration::from_secs(1);
/// Connections of a crowd that does nothing but handshakes, without a pause: what costs most of the enclave's processor.
const CROWD: usize = 64;
/// Sessions that the partner sets up for each question.
const SESSIONS: usize = 4;

/// What became of what strangers tried: sessions, refusals and cuts, public attestations, those put off, connections shed.
#[derive(Default)]
struct Counts {
    sessions: AtomicU64,
    refused: AtomicU64,
    attested: AtomicU64,
    put_off: AtomicU64,
    shed: AtomicU64,
}

impl Counts {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> [u64; 5] {
        [&self.sessions, &self.refused, &self.attested, &self.put_off, &self.shed]
            .map(|count| count.load(Ordering::Relaxed))
    }
}

/// Measures. Whether both ratios are within their limit. `apart` says whether strangers have a processor of their own.
pub(crate) async fn run(model: Vec<u8>, questions: usize, apart: bool) -> bool {
    let identity = Identity::generate().expect("keys can be made");
    let configuration = format!("partners = [\"{}\"]\n{ONE_THREAD}", identity.key_digest());
    let world = World::new().slow(ANSWER);
    let clean_room = CleanRoom::start_with(world, &configuration, Clock::boot(), model).await;
    let (party, proxy) = (clean_room.party(&identity), clean_room.proxy(&identity).await);
    let [mut set_up, mut first_token] = [(); 2].map(|()| CASES.map(|_| Vec::new()));
    let mut total = CASES.map(|_| [0; 6]);
    let mut attacked = CASES.map(|_| Duration::ZERO);
    // The first sets the proxy's session up.
    time_to_first_token(proxy, QUESTIONS[0].1).await;
    for _ in 0..TURNS {
        for (case, attack) in CASES.iter().enumerate() {
            let begun = Instant::now();
            let strangers = attack.map(|attack| Strangers::start(&clean_room.path(), attack));
            tokio::time::sleep(SETTLE).await;
            for _ in 0..questions {
                tokio::time::sleep(THINKS).await;
                first_token[case].push(time_to_first_token(proxy, QUESTIONS[0].1).await);
                for _ in 0..SESSIONS {
                    set_up[case].push(time_to_session(&party, clean_room.path()).await);
                }
            }
            attacked[case] += begun.elapsed();
            if let Some(strangers) = strangers {
                total[case].iter_mut().zip(strangers.end()).for_each(|(total, count)| *total += count);
            }
        }
    }
    print_head();
    let [quiet, loud, crowd] = &mut first_token;
    let mut met = compare("first token", quiet, &mut [("beside strangers", loud), ("beside a crowd", crowd)]);
    let [quiet, loud, crowd] = &mut set_up;
    met &= compare("session set up", quiet, &mut [("beside strangers", loud)]);
    println!("without a target, see `Processor time for TLS` in docs/threat-model.md:");
    show("session set up", quiet, &mut [("beside a crowd", crowd)]);
    let place = if apart { "on a processor of their own" } else { "on the enclave's own processor" };
    for (case, name) in [(1, "strangers"), (2, "a crowd of handshakes")] {
        let [sessions, refused, attested, put_off, shed, used] = total[case];
        println!("{name}, {place}, of which they used {used} ms in {} s:", attacked[case].as_secs());
        println!(
            "  {sessions} sessions, {refused} refused or cut; {attested} public attestations, {put_off} put off;"
        );
        println!("  {shed} silent connections shed");
    }
    met
}

/// How strangers attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    /// As the head of this file says.
    Everything,
    /// A crowd of handshakes alone.
    Crowd,
}

/// What is measured, in turns. The first is the quiet.
const CASES: [Option<Attack>; 3] = [None, Some(Attack::Everything), Some(Attack::Crowd)];

/// The process of the strangers.
struct Strangers(Child);

impl Strangers {
    fn start(path: &Path, attack: Attack) -> Self {
        let program = std::env::current_exe().expect("a program knows its own path");
        let mut strangers = Command::new(program);
        if attack == Attack::Crowd {
            strangers.env(AS_CROWD, "yes");
        }
        let strangers = strangers.env(ROLE, path).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(strangers.spawn().expect("the strangers start"))
    }

    /// What they say at their end: [`Counts`], and the processor time that they had, in milliseconds.
    fn end(mut self) -> [u64; 6] {
        drop(self.0.stdin.take());
        let mut text = String::new();
        let said = self.0.stdout.take().map(|mut said| said.read_to_string(&mut text));
        assert!(said.is_some_and(|read| read.is_ok()), "the strangers say what they did");
        let _ = self.0.wait();
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        numbers.try_into().expect("the strangers say what they did")
    }
}

/// Whom this process attacks, if it is the strangers.
pub(crate) fn attacked() -> Option<PathBuf> {
    std::env::var_os(ROLE).map(PathBuf::from)
}

/// Attacks until standard input ends, and says what became of it.
pub(crate) fn attack(path: &Path) -> ExitCode {
    processors::take_the_last();
    let counts = Arc::new(Counts::default());
    let runtime = runtime();
    let attack = if std::env::var_os(AS_CROWD).is_some() { Attack::Crowd } else { Attack::Everything };
    let strangers = runtime.block_on(async { strangers(path, &counts, attack) });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(strangers);
    let numbers =
        counts.all().into_iter().chain([u64::try_from(processors::used().as_millis()).unwrap_or(0)]);
    let text: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let _ = std::io::stdout().write_all(text.join(" ").as_bytes());
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

/// A session from the connection to the partner's confirmation.
async fn time_to_session(party: &RelyingParty, path: PathBuf) -> Duration {
    let begun = Instant::now();
    let stream = UnixStream::connect(path).await.expect("the host listens");
    let challenged = party.challenge(stream).await.expect("a listed partner gets evidence");
    let appraised = challenged.appraise(now()).expect("the evidence can be appraised");
    let attested = appraised.confirm().await.expect("the evidence is good");
    let time = begun.elapsed();
    drop(attested);
    time
}

fn strangers(path: &Path, counts: &Arc<Counts>, attack: Attack) -> JoinSet<()> {
    let mut strangers = JoinSet::new();
    if attack == Attack::Crowd {
        for _ in 0..CROWD {
            strangers.spawn(come_and_go(path.to_path_buf(), Arc::clone(counts), Duration::ZERO));
        }
        return strangers;
    }
    for _ in 0..HOLDERS {
        strangers.spawn(hold(path.to_path_buf(), Arc::clone(counts)));
    }
    for _ in 0..COMERS {
        strangers.spawn(come_and_go(path.to_path_buf(), Arc::clone(counts), AGAIN));
    }
    for _ in 0..SILENT {
        strangers.spawn(say_nothing(path.to_path_buf(), Arc::clone(counts)));
    }
    strangers
}

/// Holds a session, and asks for public attestations for as long as it lasts.
async fn hold(path: PathBuf, counts: Arc<Counts>) {
    let (stranger, nonce) = (Stranger::new(), Nonce::from_bytes([7; Nonce::LENGTH]));
    loop {
        let stream = UnixStream::connect(&path).await.expect("the host listens");
        if let Ok(mut requests) = stranger.requests(stream).await {
            Counts::count(&counts.sessions);
            while let Ok(response) = ask_attestation(&mut requests, &nonce).await {
                if response.status() == StatusCode::OK {
                    Counts::count(&counts.attested);
                } else {
                    Counts::count(&counts.put_off);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        } else {
            Counts::count(&counts.refused);
        }
        tokio::time::sleep(REFUSED).await;
    }
}

/// Wants evidence for a session of its own, again and again.
async fn come_and_go(path: PathBuf, counts: Arc<Counts>, pause: Duration) {
    let stranger = Stranger::new();
    loop {
        let stream = UnixStream::connect(&path).await.expect("the host listens");
        let came = stranger.session(stream).await.is_ok();
        Counts::count(if came { &counts.sessions } else { &counts.refused });
        tokio::time::sleep(pause).await;
    }
}

/// Connects and says nothing, until the connection is shed.
async fn say_nothing(path: PathBuf, counts: Arc<Counts>) {
    loop {
        let mut stream = UnixStream::connect(&path).await.expect("the host listens");
        let _ = stream.read(&mut [0]).await;
        Counts::count(&counts.shed);
        tokio::time::sleep(REFUSED).await;
    }
}
