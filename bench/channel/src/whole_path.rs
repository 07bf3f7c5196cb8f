//! Tokens through the whole path against the engine called directly.
//!
//! ```text
//! client ─TCP─► proxy ─TCP─► relay ─Unix socket─► enclave ─► engine ─┐
//!                                       direct call ─► engine ───────┴─► one copy of the weights
//! ```
//!
//! Both engines are of one configuration and in one process, and read the same weights: two copies of a model in
//! memory differ in speed by more than what is measured here.

pub(crate) mod receipts;

use std::error::Error;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model::model_digest;
use cleanroom_channel::identity::Identity;
use cleanroom_config::Config;
use cleanroom_engine::{Engine, EngineConfig, Event, Facts, Job, Model, Sink};
use cleanroom_guard::Clock;
use cleanroom_host::endpoint::{BoundListener, EnclaveAddress};
use cleanroom_host::relay::{self, Counters, Limits, Threads, Times};
use cleanroom_native::Native;
use cleanroom_partner::address::Address;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::proxy::Proxy;
use cleanroom_partner::session::Sessions;
use cleanroom_worker::Facts as EnclaveFacts;
use cleanroom_worker::api::Service;
use cleanroom_worker::serve::Server;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::{Builder, Runtime};

use crate::clean_room::{MODEL, World, model_id, read_policy};
use crate::clock::{self, Samples};
use crate::limits::memory_bandwidth;
use crate::report::{Limit, Report};

/// Tokens of the prompt and of the answer.
const PROMPT: usize = 32;
const ANSWER: u32 = 64;

/// The least part of the engine's own speed that must be left.
const TARGET: f64 = 0.97;

/// The enclave's socket in its folder.
const SOCKET: &str = "enclave.sock";

/// Measures `rounds` answers on each side, in turn.
pub(crate) fn measure(
    report: &mut Report,
    model: &Path,
    rounds: usize,
    threads: Option<NonZeroUsize>,
) -> Result<(), Box<dyn Error>> {
    let threads = threads.map_or_else(std::thread::available_parallelism, Ok)?;
    let bandwidth = memory_bandwidth(threads.get());
    let file_bytes = std::fs::metadata(model)?.len();
    let (model, digest) = read_model(model)?;
    let direct = Direct { engine: start_engine(&model, threads)? };
    let prompt = direct.find_prompt()?;
    let enclave = Enclave::start(digest, start_engine(&model, threads)?, Receipts::None)?;

    let runtime = client_runtime()?;
    let mut path = runtime.block_on(WholePath::start(&enclave))?;
    let (mut engine, mut whole, mut pairs) = (Speeds::default(), Speeds::default(), Pairs::default());
    let expected = direct.answer(&prompt)?;
    let first = runtime.block_on(path.answer(&prompt))?;
    if first.text != expected.text || first.prompt_tokens != expected.prompt_tokens {
        return Err("the whole path and the engine gave different answers to the same prompt".into());
    }
    for round in 0..rounds {
        // Neither side always comes first.
        let before = (round % 2 == 0).then(|| direct.answer(&prompt)).transpose()?;
        let cpu = clock::thread();
        let answer = runtime.block_on(path.answer(&prompt))?;
        whole.cpu.push((clock::thread() - cpu).as_secs_f64() * 1e6 / f64::from(answer.tokens));
        let by_engine = before.map_or_else(|| direct.answer(&prompt), Ok)?;
        whole.push(&answer);
        engine.push(&by_engine);
        pairs.push(&answer, &by_engine);
    }
    let result = Measured { rounds, threads, file_bytes, bandwidth, engine, whole, pairs };
    describe(report, direct.engine.model().facts(), &result);
    Ok(())
}

fn read_model(path: &Path) -> Result<(Arc<Model>, Sha256Digest), Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    Ok((Arc::new(Model::from_gguf(&bytes)?), model_digest(&bytes)))
}

/// One thread for client, proxy and relay: on machines of their own they would not take turns with the engine at all.
fn client_runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Whether an enclave gives a receipt for each request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receipts {
    None,
    Each,
}

/// One answer and when its parts came.
struct Answer {
    text: String,
    /// When a receipt had come behind it, counted from the last event.
    receipt: Option<Duration>,
    prompt_tokens: u32,
    tokens: u32,
    to_first: Duration,
    whole: Duration,
}

fn start_engine(model: &Arc<Model>, threads: NonZeroUsize) -> Result<Engine, Box<dyn Error>> {
    let config = EngineConfig { max_queued: 1, ..EngineConfig::new(threads, NonZeroUsize::MIN) };
    Ok(Engine::start(Arc::clone(model), config)?)
}

/// The engine, called directly.
struct Direct {
    engine: Engine,
}

impl Direct {
    /// A prompt of the wanted length whose answer does not end early.
    fn find_prompt(&self) -> Result<String, Box<dyn Error>> {
        for start in 'a'..='z' {
            let mut prompt = String::from(start);
            while self.engine.model().prompt_from_text(&prompt)?.len() < PROMPT {
                prompt += " the room is clean";
            }
            while self.engine.model().prompt_from_text(&prompt)?.len() > PROMPT {
                prompt.pop();
            }
            let answer = self.answer(&prompt)?;
            if answer.tokens == ANSWER && !answer.text.is_empty() {
                return Ok(prompt);
            }
        }
        Err("the model ends its answer early to every prompt".into())
    }

    fn answer(&self, prompt: &str) -> Result<Answer, Box<dyn Error>> {
        let (events, received) = mpsc::channel();
        let begun = Instant::now();
        let prompt = self.engine.model().prompt_from_text(prompt)?;
        let job = Job { max_tokens: Some(ANSWER), ..Job::new(prompt, Box::new(Events(events))) };
        let _handle = self.engine.submit(job)?;
        let (mut text, mut to_first) = (String::new(), None);
        for event in received {
            match event {
                Event::Text(piece) => {
                    to_first.get_or_insert_with(|| begun.elapsed());
                    text += piece.as_str();
                }
                Event::Embedding(_) => return Err("expected an answer, got an embedding".into()),
                Event::Finished { usage, .. } => {
                    let whole = begun.elapsed();
                    return Ok(Answer {
                        text,
                        receipt: None,
                        prompt_tokens: usage.prompt_tokens,
                        tokens: usage.completion_tokens,
                        to_first: to_first.unwrap_or(whole),
                        whole,
                    });
                }
            }
        }
        Err("the engine stopped".into())
    }
}

struct Events(mpsc::Sender<Event>);

impl Sink for Events {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        match self.0.send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// An enclave, put together as its own `run` does it, but around an engine whose model somebody else has too.
struct Enclave {
    policy: String,
    folder: tempfile::TempDir,
    _runtime: Runtime,
}

impl Enclave {
    fn start(digest: Sha256Digest, engine: Engine, receipts: Receipts) -> Result<Self, Box<dyn Error>> {
        let world = World::new()?;
        let folder = tempfile::tempdir()?;
        let limits = "sequences = 1\nqueued = 1";
        let config = format!("version = 1\nmodel = \"{MODEL}\"\npartners = \"any\"\n[limits]\n{limits}\n");
        let config = Config::from_toml(&config)?;
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let (acceptor, _) = runtime.block_on(world.acceptor(digest))?;
        let mut service = Service::new(Native::shared(engine), model_id(), digest, &config.limits);
        if receipts == Receipts::Each {
            service = service.receipted(acceptor.keeper().clone(), Clock::boot());
        }
        // Nobody asks this server for a public attestation.
        let facts = EnclaveFacts { model_id: model_id(), model_digest: digest, receipt_key: Vec::new() };
        let server = Server::new(Arc::new(acceptor), facts, Arc::new(service), config);
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(folder.path().join(SOCKET))?
        };
        runtime.spawn(server.serve(listener, std::future::pending()));
        Ok(Self { policy: world.policy(digest), folder, _runtime: runtime })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }
}

/// A client whose requests go through proxy and relay to the enclave.
struct WholePath {
    client: SendRequest<Full<Bytes>>,
    proxy: SocketAddr,
}

impl WholePath {
    async fn start(enclave: &Enclave) -> Result<Self, Box<dyn Error>> {
        let host = relay(enclave.socket()).await?;
        let party = RelyingParty::new(&Identity::generate()?, read_policy(&enclave.policy)?, model_id())?;
        let sessions = Sessions::new(party, Address::Tcp(host.to_string()));
        sessions.get().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = listener.local_addr()?;
        tokio::spawn(Proxy::new(sessions).serve(listener, std::future::pending()));
        Ok(Self { client: connected(proxy).await?, proxy })
    }

    async fn answer(&mut self, prompt: &str) -> Result<Answer, Box<dyn Error>> {
        let body = json!({
            "model": MODEL, "prompt": prompt, "max_tokens": ANSWER, "temperature": 0,
            "stream": true, "stream_options": { "include_usage": true },
        });
        let begun = Instant::now();
        let request = Request::post("/v1/completions")
            .header("host", self.proxy.to_string())
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))?;
        // The proxy closes a connection on which nothing was asked for a while.
        if self.client.ready().await.is_err() {
            self.client = connected(self.proxy).await?;
        }
        let response = self.client.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("expected an answer, got status {}", response.status()).into());
        }
        let (mut body, mut events) = (response.into_body(), Stream::default());
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                events.push(&data, begun)?;
            }
        }
        events.answer(begun.elapsed())
    }
}

async fn connected(proxy: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Box<dyn Error>> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The host's relay, with its own limits, on a port of its choice.
async fn relay(enclave: PathBuf) -> Result<SocketAddr, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let hour = Duration::from_secs(3600);
    let limits = Limits {
        connections: NonZeroUsize::new(16).ok_or("16 is not zero")?,
        per_client: NonZeroUsize::new(16).ok_or("16 is not zero")?,
        connect: Duration::from_secs(10),
        drain: Duration::ZERO,
        times: Times { opening: hour, idle: hour, lifetime: hour },
    };
    let enclave = Arc::new(EnclaveAddress::Unix(enclave));
    let counters = Arc::new(Counters::default());
    let (threads, listener) = (Threads::of_caller(), BoundListener::Tcp(listener));
    tokio::spawn(relay::begin(threads, listener, enclave, limits, counters)?.until(std::future::pending()));
    Ok(address)
}

/// Server-sent events, read as they come.
#[derive(Default)]
struct Stream {
    unread: Vec<u8>,
    text: String,
    to_first: Option<Duration>,
    usage: Option<(u32, u32)>,
    /// When the last event came.
    done: Option<Duration>,
    receipt: Option<Duration>,
}

impl Stream {
    fn push(&mut self, data: &[u8], begun: Instant) -> Result<(), Box<dyn Error>> {
        self.unread.extend_from_slice(data);
        while let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = self.unread.drain(..end + 2).collect();
            // A receipt is a comment.
            if event.starts_with(b":") {
                self.receipt = self.done.map(|done| begun.elapsed().saturating_sub(done));
                continue;
            }
            let event = event.strip_prefix(b"data: ").ok_or("expected an event with data")?;
            if event.starts_with(b"[DONE]") {
                self.done = Some(begun.elapsed());
                continue;
            }
            let event: Value = serde_json::from_slice(event)?;
            if let Some(piece) = event["choices"][0]["text"].as_str().filter(|piece| !piece.is_empty()) {
                self.to_first.get_or_insert_with(|| begun.elapsed());
                self.text += piece;
            }
            let count = |name| event["usage"][name].as_u64().and_then(|count| u32::try_from(count).ok());
            self.usage = count("prompt_tokens").zip(count("completion_tokens")).or(self.usage);
        }
        Ok(())
    }

    fn answer(self, whole: Duration) -> Result<Answer, Box<dyn Error>> {
        let (prompt_tokens, tokens) =
            self.usage.filter(|_| self.done.is_some()).ok_or("the answer was cut off")?;
        let to_first = self.to_first.ok_or("the answer has no text")?;
        Ok(Answer { text: self.text, receipt: self.receipt, prompt_tokens, tokens, to_first, whole })
    }
}

/// What is left of the engine's speed, in each round: two answers that follow each other meet the same machine.
#[derive(Default)]
struct Pairs {
    to_first: Samples,
    after_first: Samples,
    whole: Samples,
}

impl Pairs {
    fn push(&mut self, path: &Answer, engine: &Answer) {
        let ratio = |engine: Duration, path: Duration| engine.as_secs_f64() / path.as_secs_f64();
        self.to_first.push(ratio(engine.to_first, path.to_first));
        self.after_first.push(ratio(engine.whole - engine.to_first, path.whole - path.to_first));
        self.whole.push(ratio(engine.whole, path.whole));
    }
}

#[derive(Default)]
struct Speeds {
    /// Milliseconds from the request to the first text.
    to_first: Samples,
    /// Tokens of the answer for each second from the request to its end.
    whole: Samples,
    /// Tokens after the first for each second after it.
    after_first: Samples,
    /// Microseconds of processor time that client, proxy and relay took for each token.
    cpu: Samples,
}

impl Speeds {
    fn push(&mut self, answer: &Answer) {
        self.to_first.push(answer.to_first.as_secs_f64() * 1e3);
        self.whole.push(f64::from(answer.tokens) / answer.whole.as_secs_f64());
        let rest = answer.whole.saturating_sub(answer.to_first).as_secs_f64();
        self.after_first.push(f64::from(answer.tokens.saturating_sub(1)) / rest);
    }

    fn json(&self) -> Value {
        json!({
            "time_to_first_token_ms": self.to_first.median(), "time_to_first_token_least_ms": self.to_first.least(),
            "tokens_per_second": self.whole.median(), "tokens_per_second_most": self.whole.most(),
            "tokens_per_second_after_first": self.after_first.median(),
            "tokens_per_second_after_first_most": self.after_first.most(),
        })
    }

    fn row(&self, name: &str) -> String {
        format!(
            "  {name:<22}{:>11.1}{:>9.1}{:>13.2}{:>9.2}{:>13.2}{:>9.2}",
            self.to_first.median(),
            self.to_first.least(),
            self.after_first.median(),
            self.after_first.most(),
            self.whole.median(),
            self.whole.most()
        )
    }
}

struct Measured {
    rounds: usize,
    threads: NonZeroUsize,
    /// Of the model.
    file_bytes: u64,
    /// Bytes per second.
    bandwidth: f64,
    engine: Speeds,
    whole: Speeds,
    pairs: Pairs,
}

fn describe(report: &mut Report, facts: &Facts, measured: &Measured) {
    let Measured { rounds, threads, file_bytes, bandwidth, engine, whole, pairs } = measured;
    let file_bytes = *file_bytes as f64;
    let (to_first, after_first, speed) =
        (pairs.to_first.median(), pairs.after_first.median(), pairs.whole.median());
    let best = whole.whole.most() / engine.whole.most();
    let to_first_best = engine.to_first.least() / whole.to_first.least();
    let read = file_bytes * engine.after_first.median();

    report.line("");
    report.line(format!(
        "Whole path against the engine: {:.2} B parameters, {}, {PROMPT} tokens in, {ANSWER} out, {threads} threads, {rounds} rounds in turn",
        facts.parameters as f64 / 1e9,
        facts.weights
    ));
    report.line("                          first token, ms    tokens/s after it      tokens/s in all");
    report.line("                           median    least       median     most       median     most");
    report.line(engine.row("engine called directly"));
    report.line(whole.row("whole path"));
    report.line(format!(
        "  ratio to the engine, median of rounds: first token {to_first:.3} (of the least {to_first_best:.3}), after it {after_first:.3}, in all {speed:.3} (of the best {best:.3})"
    ));
    report.line(format!(
        "  Client, proxy and relay take {:.0} us of the same processors for each token.",
        whole.cpu.median()
    ));
    report.line(format!(
        "  What cannot be exceeded: each token reads {:.2} GB of weights; memory gives {:.1} GB/s, the engine takes {:.1}.",
        file_bytes / 1e9,
        bandwidth / 1e9,
        read / 1e9
    ));
    report.section(
        "whole_path",
        json!({
            "model": { "parameters": facts.parameters, "weights": facts.weights },
            "prompt_tokens": PROMPT, "answer_tokens": ANSWER, "rounds": rounds, "threads": threads,
            "engine": engine.json(), "whole_path": whole.json(),
            "ratio": { "time_to_first_token": to_first, "time_to_first_token_of_the_least": to_first_best, "tokens_per_second": speed,
                "tokens_per_second_after_first": after_first, "tokens_per_second_of_the_best": best },
            "client_proxy_relay_cpu_us_per_token": whole.cpu.median(),
            "limit": { "memory_bytes_per_second": bandwidth, "bytes_per_token": file_bytes,
                "engine_bytes_per_second": read },
        }),
    );
    report.target("whole path / engine, tokens per second", speed, Limit::AtLeast(TARGET));
    report.target("engine / whole path, time to first token", to_first, Limit::AtLeast(TARGET));
}
