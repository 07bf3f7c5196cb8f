//! Many streams at once with the official client (`tests/clients/streams_suite.py`), and what becomes of each.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::official::{Package, command};
use crate::processes::left_out;
use crate::wait;

/// Streams that go on until this is dropped. When one has ended, the client asks for the next.
pub struct Streams {
    child: Child,
    /// The client ends when this is closed.
    input: Option<ChildStdin>,
    count: usize,
    said: Arc<Mutex<Said>>,
}

/// What the client has said so far. Calls are numbered.
#[derive(Default)]
struct Said {
    asked: u64,
    /// Calls whose first event has come, and which have not ended.
    under_way: BTreeSet<u64>,
    /// For each call that has ended what the client raised, or nothing if its stream is whole.
    ends: BTreeMap<u64, Option<String>>,
    figures: Vec<Figures>,
    is_over: bool,
}

/// The longest times of a while.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Between two events of one stream.
    pub gap: Duration,
    /// From a call to its first event.
    pub wait: Duration,
    /// Without an event of any stream.
    pub silence: Duration,
}

impl Streams {
    /// Starts `count` streams through the partner's proxy.
    ///
    /// Gives nothing when there is no Python with the client, and says so. In continuous integration that fails the test.
    #[must_use]
    pub fn start(proxy: SocketAddr, count: usize) -> Option<Self> {
        let mut command = match command(Package::Streams, format!("http://{proxy}/v1")).unwrap() {
            Ok(command) => command,
            Err(reason) => {
                left_out(&reason);
                return None;
            }
        };
        command.env("STREAMS", count.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let said = Arc::new(Mutex::new(Said::default()));
        let hears = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                hears.lock().unwrap().hear(&serde_json::from_str(&line.unwrap()).unwrap());
            }
            hears.lock().unwrap().is_over = true;
        });
        Some(Self { child, input, count, said })
    }

    /// Waits until all streams are under way at the same time.
    pub async fn are_under_way(&self) {
        self.until("all streams are under way", |said| said.under_way.len() == self.count).await;
    }

    /// Waits until every call that was made before now has ended.
    pub async fn are_new(&self) {
        let asked = self.said.lock().unwrap().asked;
        let are_over = |said: &Said| (1..=asked).all(|call| said.ends.contains_key(&call));
        self.until("the streams have ended", are_over).await;
    }

    /// How many calls were made.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.said.lock().unwrap().asked
    }

    /// What the client raised for the calls after number `after` that have ended without a whole stream.
    #[must_use]
    pub fn lost(&self, after: u64) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said.ends.range(after + 1..).filter_map(|(_, error)| error.clone()).collect()
    }

    /// How many streams were whole.
    #[must_use]
    pub fn whole(&self) -> usize {
        self.said.lock().unwrap().ends.values().filter(|error| error.is_none()).count()
    }

    /// The longest times since this was last asked.
    pub async fn figures(&mut self) -> Figures {
        let known = self.said.lock().unwrap().figures.len();
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        self.until("the client gives its figures", |said| said.figures.len() > known).await;
        self.said.lock().unwrap().figures[known]
    }

    /// Lets the streams that are under way end, and asks for no more.
    pub async fn finish(&mut self) {
        self.input = None;
        self.until("the client ends", |said| said.is_over).await;
        assert!(self.child.wait().unwrap().success(), "the client failed");
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Said) -> bool) {
        wait::until(what, || self.is(&is_so)).await;
    }

    fn is(&self, so: impl Fn(&Said) -> bool) -> bool {
        let said = self.said.lock().unwrap();
        let is_so = so(&said);
        assert!(is_so || !said.is_over, "the client has ended");
        is_so
    }
}

impl Said {
    fn hear(&mut self, line: &Value) {
        let call = |name| line[name].as_u64();
        let seconds = |name| line[name].as_f64().map(Duration::from_secs_f64);
        if let Some(asked) = call("asked") {
            self.asked = asked;
        } else if let Some(begun) = call("begun") {
            self.under_way.insert(begun);
        } else if let Some(ended) = call("ended") {
            self.under_way.remove(&ended);
            self.ends.insert(ended, line["error"].as_str().map(str::to_owned));
        } else if let (Some(gap), Some(wait), Some(silence)) =
            (seconds("gap"), seconds("wait"), seconds("silence"))
        {
            self.figures.push(Figures { gap, wait, silence });
        } else {
            panic!("expected a line of streams_suite.py, got {line}");
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
