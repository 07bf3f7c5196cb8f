//! What judging costs those who wait for an answer: one engine, asked in turns without a policy and with several.
//!
//! As in the worker, rules judge a prompt before the engine gets it, and classifiers read it while the engine does. An answer
//! is judged where the engine hands its text out, and on a thread of its own where classifiers read it. Nothing is between
//! the two: no network, no TLS. What judging costs is therefore the greater part here.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use cleanroom_engine::{Classifier as Model, Engine, EngineConfig, Event, Job, Sink};
use cleanroom_safeguard::{Classifier, Exchange, Policy, PromptReading, pieces};

/// Words of each prompt, and tokens of each answer.
const PROMPT_WORDS: usize = 32;
const ANSWER_TOKENS: u32 = 64;
/// Rounds that count, after one that warms up.
const ROUNDS: usize = 7;
/// Requests at once.
const STREAMS: [usize; 2] = [1, 8];
/// What stage 1 may cost: of the tokens per second, and before the first token.
const LEAST_RATE: f64 = 0.97;
const MOST_LATER: Duration = Duration::from_millis(2);

/// Measures, and says whether the cost of rules with a classifier for prompts is within the target.
pub(crate) fn report(policy: &str, classifier: &str, model: &str) -> bool {
    let rules = std::fs::read_to_string(policy).expect("the policy is read");
    let file = std::fs::read(classifier).expect("the classifier is read");
    let model = std::fs::read(model).expect("the model is read");
    let model = cleanroom_engine::Model::from_gguf(&model).expect("the model is one");
    let most = STREAMS.into_iter().max().and_then(NonZeroUsize::new).expect("there are streams");
    let config = EngineConfig::new(cleanroom_engine::processors(), most);
    let engine = Engine::start(Arc::new(model), config).expect("the engine starts");

    let scorer = Arc::new(scorer(&file));
    // No score is greater than 1, so nothing is flagged, and everything is read to its end.
    let entry = |id: &str, on: &str| {
        let digest = hexadecimal(&scorer.digest());
        format!(
            "\n[[classifiers]]\nid = \"{id}\"\nsha256 = \"{digest}\"\nlabel = \"injection\"\nflag = 1\non = {on}\n"
        )
    };
    let prompts = entry("c.prompt", "\"prompt\"");
    let answers = entry("c.answer", "\"answer\"\nwindow = 512\nstep = 256");
    let policies = [
        ("no policy", None),
        ("rules", Some(rules.clone())),
        ("rules, classifier on prompts", Some(format!("{rules}{prompts}"))),
        ("rules, classifier on both", Some(format!("{rules}{prompts}{answers}"))),
    ]
    .map(|(name, text)| {
        let policy = text.map(|text| {
            let mut policy = Policy::read(text.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
            policy.attach(&scorer).expect("the classifier has the label");
            Arc::new(policy)
        });
        (name, policy)
    });
    println!(
        "prompts of {PROMPT_WORDS} words, answers of {ANSWER_TOKENS} tokens; medians of {ROUNDS} rounds, in turns"
    );
    println!(
        "{:>7}  {:<30} {:>9} {:>7} {:>16} {:>9}",
        "streams", "", "tokens/s", "ratio", "first token, ms", "later"
    );
    let mut is_met = true;
    for streams in STREAMS {
        let mut rounds: [Vec<Round>; 4] = std::array::from_fn(|_| Vec::new());
        for round in 0..=ROUNDS {
            for place in 0..policies.len() {
                // Nobody always comes first.
                let index = (place + round) % policies.len();
                let measured = measure(&engine, policies[index].1.as_ref(), streams, round);
                if round > 0 {
                    rounds[index].push(measured);
                }
            }
        }
        for (index, (name, _)) in policies.iter().enumerate() {
            let pairs = || rounds[index].iter().zip(&rounds[0]);
            let rate = median(rounds[index].iter().map(|round| round.rate));
            let ratio = median(pairs().map(|(own, without)| own.rate / without.rate));
            let first = median(rounds[index].iter().map(|round| round.first));
            let later = median(pairs().map(|(own, without)| own.first - without.first));
            println!(
                "{streams:>7}  {name:<30} {rate:>9.1} {ratio:>7.3} {:>16.1} {:>+9.1}",
                first * 1e3,
                later * 1e3
            );
            is_met &= index != 2 || (ratio >= LEAST_RATE && later <= MOST_LATER.as_secs_f64());
        }
    }
    println!(
        "target for rules with a classifier on prompts: a ratio of {LEAST_RATE}, and {} ms: {}",
        MOST_LATER.as_millis(),
        if is_met { "met" } else { "missed" }
    );
    is_met
}

fn scorer(file: &[u8]) -> Classifier {
    let model = Model::from_gguf(file).unwrap_or_else(|error| panic!("the classifier: {error}"));
    let labels = model.labels().to_vec();
    Classifier::new(file, labels.iter().map(String::as_str), move |text, label| {
        model.scores(text, NonZeroUsize::MIN).expect("no thread is started").as_slice()[label]
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tokens per second of all streams, and the median time to the first token in seconds.
struct Round {
    rate: f64,
    first: f64,
}

fn measure(engine: &Engine, policy: Option<&Arc<Policy>>, streams: usize, round: usize) -> Round {
    let (begun, turns) = (Instant::now(), &Turns::default());
    let mut answers: Vec<(Duration, u32)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..streams)
            .map(|stream| scope.spawn(move || ask(engine, policy, turns, &prompt(stream, round), begun)))
            .collect();
        running.into_iter().map(|one| one.join().expect("an answer comes")).collect()
    });
    let whole = begun.elapsed().as_secs_f64();
    answers.sort();
    let tokens: u32 = answers.iter().map(|(_, tokens)| tokens).sum();
    Round { rate: f64::from(tokens) / whole, first: answers[answers.len() / 2].0.as_secs_f64() }
}

/// Turns to read a piece of a prompt, as many as the worker has.
#[derive(Default)]
struct Turns(Mutex<usize>, Condvar);

impl Turns {
    fn take<T>(&self, read: impl FnOnce() -> T) -> T {
        let most = (cleanroom_engine::processors().get() / 4).max(1);
        let mut taken = self.0.lock().expect("nobody panics");
        taken = self.1.wait_while(taken, |taken| *taken >= most).expect("nobody panics");
        *taken += 1;
        drop(taken);
        let value = read();
        *self.0.lock().expect("nobody panics") -= 1;
        self.1.notify_one();
        value
    }
}

/// Asks for one answer: when its first text could leave, and how many tokens it has.
fn ask(
    engine: &Engine,
    policy: Option<&Arc<Policy>>,
    turns: &Turns,
    prompt: &str,
    begun: Instant,
) -> (Duration, u32) {
    let exchange = policy.map(|policy| {
        let mut exchange = Exchange::new(Arc::clone(policy));
        assert!(!exchange.prompt_by_rules(prompt).action.stops(), "a prompt of random words is refused");
        exchange
    });
    let reading = policy.and_then(|policy| PromptReading::new(Arc::clone(policy)));
    let (done, result) = mpsc::channel();
    let is_slow = exchange.as_ref().is_some_and(Exchange::classifies_answers);
    let judged = Judged { exchange, begun, first: None, done };
    let sink: Box<dyn Sink> = if is_slow { Box::new(Aside::new(judged)) } else { Box::new(judged) };
    let tokens = engine.model().prompt_from_text(prompt).expect("the prompt fits");
    let job = Job {
        max_tokens: Some(ANSWER_TOKENS),
        // The model's control tokens are the first three. Without them no answer ends early.
        bias: vec![(0, -100.0), (1, -100.0), (2, -100.0)].into(),
        ..Job::new(tokens, sink)
    };
    let _job = engine.submit(job).expect("there is room");
    let passed = reading.map(|mut reading| {
        for piece in pieces(prompt) {
            let verdict = turns.take(|| reading.read(piece));
            assert!(!verdict.action.stops(), "a prompt of random words is refused");
        }
        begun.elapsed()
    });
    let (first, tokens) = result.recv().expect("the answer ends");
    (first.max(passed.unwrap_or_default()), tokens)
}

/// Judges an answer.
struct Judged {
    exchange: Option<Exchange>,
    begun: Instant,
    first: Option<Duration>,
    done: mpsc::Sender<(Duration, u32)>,
}

impl Judged {
    fn text(&mut self, text: &str) {
        if let Some(exchange) = &mut self.exchange {
            exchange.answer(text);
        }
        self.first.get_or_insert_with(|| self.begun.elapsed());
    }

    fn finish(&mut self, tokens: u32) {
        if let Some(exchange) = &mut self.exchange {
            exchange.finish();
        }
        let first = self.first.unwrap_or_else(|| self.begun.elapsed());
        // Whoever asked waits for it.
        let _ = self.done.send((first, tokens));
    }
}

impl Sink for Judged {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Text(text) => self.text(text.as_str()),
            Event::Embedding(_) => {}
            Event::Finished { usage, .. } => self.finish(usage.completion_tokens),
        }
        ControlFlow::Continue(())
    }
}

/// Has an answer judged on a thread of its own.
struct Aside(mpsc::Sender<Event>);

impl Aside {
    fn new(mut judged: Judged) -> Self {
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || {
            for event in events {
                let _ = judged.event(event);
            }
        });
        Self(sender)
    }
}

impl Sink for Aside {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        self.0.send(event).map_or(ControlFlow::Break(()), ControlFlow::Continue)
    }
}

/// A prompt of its own for each stream of each round.
fn prompt(stream: usize, round: usize) -> String {
    const WORDS: [&str; 16] = [
        "room", "clean", "model", "river", "bank", "grid", "proof", "stone", "light", "meter", "paper",
        "green", "north", "seven", "glass", "story",
    ];
    let mut state = (stream * 1009 + round * 9176 + 17) as u32;
    let mut text = String::new();
    for _ in 0..PROMPT_WORDS {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text += WORDS[(state >> 16) as usize % WORDS.len()];
        text.push(' ');
    }
    text
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
