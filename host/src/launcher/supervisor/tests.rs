//! Supervision of scripted enclaves, with a paused clock.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use super::*;

/// What a scripted enclave does.
#[derive(Clone, Copy)]
enum Script {
    /// Cannot be started now.
    NoLaunch,
    /// Can never be started.
    NeverLaunches,
    /// Does not come to the end of its start.
    HangingLaunch,
    /// Serves at once, and is not seen to end even when it is ended by force.
    Immortal,
    /// Serves after the first time, and ends in this way after the second.
    Serve(u64, u64, How),
    /// Ends before it serves.
    End(u64, How),
    /// Starts and never serves.
    Hang,
    /// Serves at once and ends so long after it was asked to.
    UntilAsked(u64),
}

#[derive(Default)]
struct Log {
    launches: Vec<u64>,
    drains: u32,
    kills: u32,
}

struct Scripted {
    scripts: VecDeque<Script>,
    begun: Instant,
    log: Arc<Mutex<Log>>,
}

struct ScriptedEnclave {
    script: Script,
    started: Instant,
    asked: Option<Instant>,
    killed: bool,
    log: Arc<Mutex<Log>>,
}

impl Launcher for Scripted {
    type Enclave = ScriptedEnclave;

    async fn launch(&mut self) -> Result<ScriptedEnclave, LaunchError> {
        self.log.lock().unwrap().launches.push(self.begun.elapsed().as_secs());
        match self.scripts.pop_front().expect("no further start is expected") {
            Script::NeverLaunches => Err(LaunchError::NotAProgram("/a/path".into())),
            Script::HangingLaunch => std::future::pending().await,
            Script::NoLaunch => {
                Err(LaunchError::System { what: "testing", source: io::ErrorKind::OutOfMemory.into() })
            }
            script => Ok(ScriptedEnclave {
                script,
                started: Instant::now(),
                asked: None,
                killed: false,
                log: Arc::clone(&self.log),
            }),
        }
    }
}

impl Enclave for ScriptedEnclave {
    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let after = match self.script {
            Script::Serve(after, ..) => Duration::from_secs(after),
            Script::UntilAsked(_) | Script::Immortal => Duration::ZERO,
            _ => return Box::pin(std::future::pending()),
        };
        Box::pin(sleep_until(self.started + after))
    }

    async fn ended(&mut self) -> Exit {
        let exit = |how| Exit { how, last_words: None };
        if self.killed && !matches!(self.script, Script::Immortal) {
            return exit(How::Signal(9));
        }
        match (self.script, self.asked) {
            (Script::Serve(_, after, how) | Script::End(after, how), _) => {
                sleep_until(self.started + Duration::from_secs(after)).await;
                exit(how)
            }
            (Script::UntilAsked(after), Some(asked)) => {
                sleep_until(asked + Duration::from_secs(after)).await;
                exit(How::Status(0))
            }
            _ => std::future::pending().await,
        }
    }

    fn drain(&mut self) {
        self.asked = Some(Instant::now());
        self.log.lock().unwrap().drains += 1;
    }

    fn kill(&mut self) {
        self.killed = true;
        self.log.lock().unwrap().kills += 1;
    }
}

const POLICY: RestartPolicy = RestartPolicy {
    first_pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(8),
    stable_after: Duration::from_secs(60),
    restarts: None,
};
const PATIENCE: Patience = Patience {
    start: Duration::from_secs(100),
    drain: Duration::from_secs(30),
    silence: Duration::from_secs(60),
};

struct Outcome {
    result: Result<(), SuperviseError>,
    log: Log,
    status: Status,
    took: u64,
}

/// Supervises scripted enclaves and stops after `stop_after` seconds.
async fn run(scripts: &[Script], policy: RestartPolicy, stop_after: u64) -> Outcome {
    let log = Arc::new(Mutex::new(Log::default()));
    let begun = Instant::now();
    let launcher = Scripted { scripts: scripts.iter().copied().collect(), begun, log: Arc::clone(&log) };
    let (status, watched) = watch::channel(Status::new());
    let stop = CancellationToken::new();
    let stopper = async {
        sleep(Duration::from_secs(stop_after)).await;
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let result = tokio::select! {
        result = supervise(launcher, policy, PATIENCE, Pulse::default(), &status, stop.clone()) => result,
        () = stopper => unreachable!(),
    };
    let took = begun.elapsed().as_secs();
    let log = std::mem::take(&mut *log.lock().unwrap());
    Outcome { result, log, status: watched.borrow().clone(), took }
}

#[tokio::test(start_paused = true)]
async fn pauses_double_up_to_the_longest_and_begin_anew_after_a_stable_life() {
    let fail = Script::End(0, How::Status(1));
    let long_life = Script::Serve(0, 60, How::Signal(11));
    let scripts = [fail, fail, fail, fail, fail, fail, long_life, Script::UntilAsked(0)];
    let outcome = run(&scripts, POLICY, 1000).await;
    outcome.result.unwrap();
    // Pauses of 1, 2, 4, 8, 8 and 8 s, then 60 s of life and a pause of 1 s.
    assert_eq!(outcome.log.launches, [0, 1, 3, 7, 15, 23, 31, 92]);
    assert_eq!(outcome.status.restarts, 7);
    assert_eq!(outcome.status.last_exit.as_deref(), Some("it was ended by signal 11"));
    assert_eq!(outcome.status.state, State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_short_life_does_not_shorten_the_pause() {
    let short_life = Script::Serve(0, 59, How::Status(1));
    let outcome = run(&[short_life, short_life, Script::UntilAsked(0)], POLICY, 1000).await;
    assert_eq!(outcome.log.launches, [0, 60, 121]);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_tried_again() {
    let outcome = run(&[Script::End(5, How::Refused)], POLICY, 1000).await;
    assert!(matches!(outcome.result, Err(SuperviseError::Refused(_))), "{:?}", outcome.result);
    assert_eq!((outcome.log.launches.len(), outcome.took), (1, 5));
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_that_nobody_asked_for_is_a_failure() {
    let outcome = run(&[Script::Serve(0, 5, How::Status(0)), Script::UntilAsked(0)], POLICY, 1000).await;
    assert_eq!(outcome.log.launches, [0, 6]);
}

#[tokio::test(start_paused = true)]
async fn an_enclave_that_never_serves_is_ended_and_started_again() {
    let outcome = run(&[Script::Hang, Script::UntilAsked(0)], POLICY, 1000).await;
    assert_eq!(outcome.log.launches, [0, 101]);
    assert_eq!(outcome.log.kills, 1);
    assert_eq!(outcome.status.last_exit.as_deref(), Some("it did not accept connections within 100 s"));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_final_only_the_first_time_and_if_it_cannot_pass() {
    let outcome = run(&[Script::NeverLaunches], POLICY, 1000).await;
    assert!(matches!(outcome.result, Err(SuperviseError::Launch(_))), "{:?}", outcome.result);
    let fail = Script::End(0, How::Status(1));
    for first in [[fail, Script::NoLaunch], [Script::NoLaunch, fail], [fail, Script::NeverLaunches]] {
        let scripts = [first[0], first[1], Script::UntilAsked(0)];
        let outcome = run(&scripts, POLICY, 1000).await;
        outcome.result.unwrap();
        assert_eq!(outcome.log.launches, [0, 1, 3]);
        let last = outcome.status.last_exit.unwrap();
        assert!(!last.contains("/a/path"), "{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_is_bounded_and_stopping_does_not_wait_for_it() {
    let outcome = run(&[Script::HangingLaunch, Script::UntilAsked(0)], POLICY, 1000).await;
    outcome.result.unwrap();
    assert_eq!(outcome.log.launches, [0, 101]);
    assert_eq!(outcome.status.last_exit.as_deref(), Some("it did not start within 100 s"));
    let outcome = run(&[Script::HangingLaunch], POLICY, 10).await;
    outcome.result.unwrap();
    assert_eq!(outcome.took, 10);
}

#[tokio::test(start_paused = true)]
async fn an_enclave_that_is_never_seen_to_end_does_not_keep_the_host() {
    let outcome = run(&[Script::Immortal], POLICY, 10).await;
    outcome.result.unwrap();
    assert_eq!((outcome.log.kills, outcome.took), (1, 10 + 30 + AFTER_KILL.as_secs()));
}

#[tokio::test(start_paused = true)]
async fn restarts_can_be_limited() {
    let fail = Script::End(0, How::Status(7));
    let outcome = run(&[fail, fail, fail], RestartPolicy { restarts: Some(2), ..POLICY }, 1000).await;
    let error = outcome.result.unwrap_err();
    assert!(matches!(error, SuperviseError::Failed { restarts: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("status 7"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn stopping_drains_the_enclave() {
    let outcome = run(&[Script::UntilAsked(29)], POLICY, 10).await;
    outcome.result.unwrap();
    assert_eq!((outcome.log.drains, outcome.log.kills, outcome.took), (1, 0, 39));
}

#[tokio::test(start_paused = true)]
async fn an_enclave_that_does_not_drain_is_ended() {
    let outcome = run(&[Script::UntilAsked(31)], POLICY, 10).await;
    outcome.result.unwrap();
    assert_eq!((outcome.log.drains, outcome.log.kills, outcome.took), (1, 1, 40));
}

#[tokio::test(start_paused = true)]
async fn stopping_does_not_wait_for_a_start_or_a_pause() {
    let outcome = run(&[Script::Hang], POLICY, 10).await;
    assert_eq!((outcome.log.drains, outcome.log.kills, outcome.took), (0, 1, 10));
    let fail = Script::End(0, How::Status(1));
    // Between 7 and 15 s the supervisor waits.
    let outcome = run(&[fail; 4], POLICY, 10).await;
    outcome.result.unwrap();
    assert_eq!(outcome.took, 10);
}

#[tokio::test(start_paused = true)]
async fn an_enclave_that_answers_nothing_any_more_is_started_again() {
    let log = Arc::new(Mutex::new(Log::default()));
    let begun = Instant::now();
    let scripts = [Script::UntilAsked(0), Script::UntilAsked(0)].into();
    let launcher = Scripted { scripts, begun, log: Arc::clone(&log) };
    let (status, watched) = watch::channel(Status::new());
    let (observed, seen) = watch::channel(Vitals::default());
    let stop = CancellationToken::new();
    let story = async {
        // It answers for a while; after that the second one does.
        for second in 1..=200 {
            sleep(Duration::from_secs(1)).await;
            if second <= 30 || second > 91 {
                observed.send_replace(crate::probe::heard_now());
            }
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = supervise(launcher, POLICY, PATIENCE, Pulse::of(seen), &status, stop.clone()) => result.unwrap(),
        () = story => unreachable!(),
    }
    // 30 s, 60 s of silence, and a pause.
    assert_eq!(log.lock().unwrap().launches, [0, 91]);
    assert_eq!(watched.borrow().last_exit.as_deref(), Some("it answered no probe for 60 s"));
}
