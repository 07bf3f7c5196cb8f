//! Searches a process's memory for traces of a sequence that has ended while another runs.
//!
//! The test starts itself as a second process, whose memory it reads. That process runs an engine with two
//! jobs. One goes on for the whole time. The test searches for the other. It must be found while it runs, or
//! the search proves nothing. It must not be found once it has ended. Both times the engine's thread waits
//! inside a sink.
//!
//! Each number of a row depends on that row and its own sequence alone, so the searching process can compute
//! the same activations, down to the last bit. The searched process needs no extra copies for the search.
//!
//! Threads' stacks are not searched for activations. A kernel's last results stay there until the next kernel
//! overwrites them; `docs/threat-model.md` says the same of all copies that a compiler makes. The submitted
//! prompt is searched for everywhere.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    num::NonZeroUsize,
    ops::ControlFlow,
    os::unix::fs::FileExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use zeroize::Zeroizing;

use crate::{
    Clock, Engine, EngineConfig, Event, FinishReason, Hand, Job, JobHandle, Model, Owner, Sampling, Sink,
    cache::Cache,
    forward::{Forward, Row},
    pool::Pool,
};

const DEMO: &[u8] = include_bytes!("../../../../models/demo.gguf");
/// Says to the second process how its job ends.
const ROLE: &str = "CLEANROOM_ENGINE_SEARCHED";
const NAME: &str =
    "scheduling::memory_search::nothing_of_a_sequence_is_left_once_it_has_ended_whatever_runs_on";
/// More than a page, and less than one step reads beside an answer.
const TOKENS: usize = 44;
const ENDS: [&str; 9] = [
    "finished",
    "length",
    "stop string",
    "cut",
    "cancelled",
    "timed out",
    "late in the queue",
    "failed",
    "halted",
];

/// Numbers that are the same in both processes.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % below
    }
}

fn prompt() -> Zeroizing<Vec<u32>> {
    let mut numbers = Numbers(1);
    let mut tokens = Zeroizing::new(Vec::with_capacity(TOKENS));
    tokens.extend((0..TOKENS).map(|_| 3 + numbers.next(1400)));
    tokens
}

/// Biases that decide nothing: the sampler adds them to what is far from being likely.
fn bias() -> Zeroizing<Vec<(u32, f32)>> {
    let mut numbers = Numbers(2);
    let mut bias = Zeroizing::new(Vec::with_capacity(12));
    bias.extend((0..12).map(|_| (100 + numbers.next(1300), -90.0 - numbers.next(1000) as f32 / 100.0)));
    bias
}

/// A text that an answer never has.
fn stop() -> Zeroizing<String> {
    let mut numbers = Numbers(3);
    let mut text = Zeroizing::new(String::with_capacity(64));
    (0..64).for_each(|_| text.push(char::from(b'a' + numbers.next(26) as u8)));
    text
}

/// The token whose text every answer here repeats.
const REPEATED: u32 = 40;

#[test]
fn nothing_of_a_sequence_is_left_once_it_has_ended_whatever_runs_on() {
    if let Ok(end) = std::env::var(ROLE) {
        return be_searched(&end);
    }
    let model = Model::from_gguf(DEMO).unwrap();
    let needles = needles(&model);
    for end in ENDS {
        let mut searched = Searched::start(end);
        searched.hear("running");
        let found_now = found(&needles, &searched.memory());
        // Of a job that waits there are only its tokens, biases and stop strings.
        let expected = |needle: &Needle| end != "late in the queue" || needle.is_of_the_job;
        let missed = needles.iter().zip(found_now).filter(|(needle, found)| expected(needle) && !found);
        let missed: Vec<&str> = missed.map(|(needle, _)| needle.name.as_str()).collect();
        assert!(missed.is_empty(), "{end}: not found while it runs: {missed:?}");
        searched.go_on();
        searched.hear("ended");
        let found_now = found(&needles, &searched.memory());
        let left = needles.iter().zip(found_now).filter(|(_, found)| *found);
        let left: Vec<&str> = left.map(|(needle, _)| needle.name.as_str()).collect();
        assert!(left.is_empty(), "{end}: left after its end: {left:?}");
        searched.go_on();
        assert!(searched.process.wait().unwrap().success());
    }
}

/// What is searched for.
struct Needle {
    name: String,
    bytes: Vec<u8>,
    /// For tokens: 16-bit numbers that stand at equal distances, whatever lies between them. Rows of tokens
    /// of any integer type are such, and so are tokens in structures.
    is_strided: bool,
    /// Part of what was submitted, and so there before anything is computed.
    is_of_the_job: bool,
}

/// A part of a process's memory.
struct Region {
    bytes: Vec<u8>,
    /// Whether it is a thread's stack, told by the page before it that nobody may touch.
    is_stack: bool,
}

/// Largest distance of two tokens in a list of structures.
const MAX_STRIDE: usize = 64;
/// So many tokens at equal distances are no accident.
const RUN: usize = 8;

/// Which of the needles are in memory. Everything that is searched for lies at addresses that are multiples
/// of two.
fn found(needles: &[Needle], memory: &[Region]) -> Vec<bool> {
    let mut by_beginning: Vec<Vec<usize>> = vec![Vec::new(); 1 << 16];
    for (index, needle) in needles.iter().enumerate() {
        by_beginning[usize::from(u16::from_le_bytes([needle.bytes[0], needle.bytes[1]]))].push(index);
    }
    let mut found = vec![false; needles.len()];
    for region in memory {
        let halves = region.bytes.as_chunks::<2>().0;
        for (at, half) in halves.iter().enumerate() {
            for index in &by_beginning[usize::from(u16::from_le_bytes(*half))] {
                let needle = &needles[*index];
                if !region.is_stack || needle.is_of_the_job {
                    found[*index] |= needle.is_at(halves, at);
                }
            }
        }
    }
    found
}

impl Needle {
    fn is_at(&self, halves: &[[u8; 2]], at: usize) -> bool {
        let needle = self.bytes.as_chunks::<2>().0;
        let mut strides = if self.is_strided { 1..=MAX_STRIDE / 2 } else { 1..=1 };
        strides.any(|stride| (1..needle.len()).all(|n| halves.get(at + n * stride) == Some(&needle[n])))
    }
}

/// What the engine makes of the prompt, computed here as there.
fn needles(model: &Model) -> Vec<Needle> {
    let mut needles = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>, is_strided: bool, is_of_the_job: bool| {
        assert!(bytes.iter().any(|byte| *byte != 0), "{name}");
        needles.push(Needle { name: name.to_owned(), bytes, is_strided, is_of_the_job });
    };
    let tokens = prompt();
    for first in [0, TOKENS / 2, TOKENS - RUN] {
        let halves = tokens[first..first + RUN].iter().flat_map(|token| (*token as u16).to_le_bytes());
        add(&format!("tokens from {first}"), halves.collect(), true, true);
    }
    let bias = bias();
    let pairs = bias[4..].iter().flat_map(|(token, bias)| [token.to_le_bytes(), bias.to_le_bytes()].concat());
    add("biases", pairs.collect(), false, true);
    add("stop string", stop().as_bytes().to_vec(), false, true);

    let shape = model.shape();
    let mut forward = Forward::new(model, Pool::new(NonZeroUsize::MIN).unwrap(), TOKENS, 1);
    let mut cache = Cache::new(shape, 1, 2);
    cache.extend(0, TOKENS).unwrap();
    let rows = tokens.iter().enumerate().map(|(position, token)| Row {
        sequence: 0,
        position,
        token: *token,
        scored: position + 1 == TOKENS,
    });
    assert!(forward.step(model, &mut cache, &rows.collect::<Vec<_>>(), || true).is_continue());
    for (name, numbers) in forward.last_row(shape, TOKENS - 1) {
        // The end of what a kernel writes lies in memory as it lies in a row.
        for at in [0, numbers.len() / 2 / 16 * 16, numbers.len() / 16 * 16 - 16] {
            let bytes = numbers[at..at + 16].iter().flat_map(|number| number.to_le_bytes()).collect();
            add(&format!("{name} from {at}"), bytes, false, false);
        }
    }
    for (layer, position) in [(0, 0), (0, TOKENS - 1), (shape.layers - 1, 40)] {
        let (key, value) = cache.place(0, layer, shape.kv_heads - 1, position);
        for (name, halves) in [("key", key), ("value", value)] {
            let bytes = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            add(&format!("{name} of layer {layer} at {position}"), bytes, false, false);
        }
    }
    needles
}

/// The process that is searched.
struct Searched {
    process: Child,
    told: ChildStdin,
    heard: BufReader<ChildStdout>,
}

impl Searched {
    fn start(end: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(ROLE, end)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let told = process.stdin.take().unwrap();
        let heard = BufReader::new(process.stdout.take().unwrap());
        Self { process, told, heard }
    }

    fn hear(&mut self, word: &str) {
        let mut line = String::new();
        while line.trim_end() != format!("searched: {word}") {
            line.clear();
            assert_ne!(self.heard.read_line(&mut line).unwrap(), 0, "it ended before it was {word}");
        }
    }

    fn go_on(&mut self) {
        self.told.write_all(b"\n").unwrap();
    }

    /// All memory that it may write to.
    fn memory(&self) -> Vec<Region> {
        const LARGEST_GUARD: u64 = 64 << 10;
        let process = self.process.id();
        let memory = File::open(format!("/proc/{process}/mem")).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        let mut guard = 0;
        let mut regions = Vec::new();
        for line in maps.lines() {
            let (from, rest) = line.split_once('-').unwrap();
            let (to, rest) = rest.split_once(' ').unwrap();
            let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
            if rest.starts_with("---p") && to - from <= LARGEST_GUARD {
                guard = to;
            }
            let mut bytes =
                vec![0; if rest.starts_with("rw") { usize::try_from(to - from).unwrap() } else { 0 }];
            if !bytes.is_empty() && memory.read_exact_at(&mut bytes, from).is_ok() {
                regions.push(Region { bytes, is_stack: guard == from || rest.ends_with("[stack]") });
            }
        }
        let read: usize = regions.iter().map(|region| region.bytes.len()).sum();
        assert!(read > DEMO.len() / 2, "its memory can be read");
        assert!(regions.iter().filter(|region| region.is_stack).count() >= 3, "its threads have stacks");
        regions
    }
}

/// Says a word to the searching process, and waits until it has searched.
fn say_and_wait(word: &str) {
    println!("\nsearched: {word}");
    std::io::stdout().flush().unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

/// The job that is searched for: how it ends, and whether it has.
struct Probe {
    end: String,
    tokens: usize,
    hand: Arc<Hand>,
    handle: Arc<Mutex<Option<JobHandle>>>,
    is_over: Arc<AtomicBool>,
    halt: mpsc::Sender<()>,
}

impl Sink for Probe {
    fn token(&mut self) -> ControlFlow<()> {
        self.tokens += 1;
        if self.tokens > 1 {
            assert_eq!(self.end, "cut");
            return ControlFlow::Break(());
        }
        say_and_wait("running");
        match self.end.as_str() {
            // It is there a moment after the job has been submitted.
            "cancelled" => while self.handle.lock().unwrap().take().is_none() {},
            "timed out" => self.hand.advance(Duration::from_secs(2)),
            "failed" => panic!("as the test wants"),
            "halted" => self.halt.send(()).unwrap(),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn event(&mut self, event: Event) -> ControlFlow<()> {
        if let Event::Finished { reason, .. } = event {
            let expected = match self.end.as_str() {
                "finished" => FinishReason::Stop,
                "stop string" => FinishReason::StopString(1),
                "timed out" | "late in the queue" => FinishReason::Deadline,
                _ => FinishReason::Length,
            };
            assert_eq!(reason, expected);
        }
        ControlFlow::Continue(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// The job that goes on: it stands still once the other is over.
struct Background {
    end: String,
    hand: Arc<Hand>,
    begun: mpsc::Sender<()>,
    /// Set once the job that is searched for is submitted.
    is_submitted: Arc<AtomicBool>,
    tokens: usize,
    is_over: Arc<AtomicBool>,
}

impl Sink for Background {
    fn token(&mut self) -> ControlFlow<()> {
        self.tokens += 1;
        if self.tokens == 1 {
            let _ = self.begun.send(());
        }
        while self.tokens == 2 && !self.is_submitted.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        if self.end == "late in the queue" && self.tokens == 3 {
            say_and_wait("running");
            self.hand.advance(Duration::from_secs(2));
        }
        if self.is_over.swap(false, Ordering::SeqCst) {
            say_and_wait("ended");
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn event(&mut self, _: Event) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// What the second process does.
fn be_searched(end: &str) {
    let model = Arc::new(Model::from_gguf(DEMO).unwrap());
    let [one, two] = [1, 2].map(|number| NonZeroUsize::new(number).unwrap());
    let sequences = if end == "late in the queue" { one } else { two };
    let (clock, hand) = Clock::scripted();
    let hand = Arc::new(hand);
    let config = EngineConfig { max_queued: 1, ..EngineConfig::new(two, sequences) };
    let engine = Engine::start_with_clock(Arc::clone(&model), config, clock).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let (begun, begins) = mpsc::channel();
    let (halt, halted) = mpsc::channel();

    let handle = Arc::new(Mutex::new(None));
    let is_submitted = Arc::new(AtomicBool::new(false));
    let background = Background {
        end: end.to_owned(),
        hand: Arc::clone(&hand),
        begun,
        is_submitted: Arc::clone(&is_submitted),
        tokens: 0,
        is_over: Arc::clone(&is_over),
    };
    let first = model.prompt_from_tokens(Zeroizing::new(vec![7])).unwrap();
    let background =
        Job { bias: Zeroizing::new(vec![(REPEATED, 100.0)]), ..Job::new(first, Box::new(background)) };
    let _background = engine.submit(background).unwrap();
    begins.recv().unwrap();

    let probe = Probe {
        end: end.to_owned(),
        tokens: 0,
        hand,
        handle: Arc::clone(&handle),
        is_over: Arc::clone(&is_over),
        halt,
    };
    let mut job = Job::new(model.prompt_from_tokens(prompt()).unwrap(), Box::new(probe));
    job.owner = Owner([1; 32]);
    job.deadline = Some(engine.clock().now().after(Duration::from_secs(1)));
    job.sampling = Sampling::new(1.0, 0.9, 1).unwrap();
    job.bias = bias();
    job.stop = vec![stop()];
    job.logprobs = Some(3);
    match end {
        "finished" => job.constraint = Some(model.constrained_to(r#"{"const":7}"#).unwrap()),
        "length" => job.max_tokens = Some(1),
        "stop string" => {
            job.constraint = Some(model.constrained_to(r#"{"const":7}"#).unwrap());
            job.stop.push(Zeroizing::new("7".to_owned()));
        }
        _ => {}
    }
    *handle.lock().unwrap() = Some(engine.submit(job).unwrap());
    is_submitted.store(true, Ordering::SeqCst);
    match end {
        "failed" | "halted" => {
            // The first comes once the engine's thread is in the probe's sink, or gone.
            let _ = halted.recv();
            drop(engine);
            say_and_wait("ended");
        }
        _ => {
            // Until the job that goes on has been told to end.
            while begins.recv().is_ok() {}
        }
    }
}
