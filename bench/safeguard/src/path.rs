//! What judging costs those who wait for an answer: one engine, asked in turns without a policy and with several.
//!
//! As in the worker, a prompt is judged before the engine gets it, and an answer where the engine hands its text out.
//! Nothing is between the two: no network, no TLS. What judging costs is therefore the greater part here.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use cleanroom_engine::{Classifier as Model, Engine, EngineConfig, Event, Job, Sink};
use cleanroom_safeguard::{Classifier, Exchange, Policy};

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
    let begun = Instant::now();
    let mut answers: Vec<(Duration, u32)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..streams)
            .map(|stream| scope.spawn(move || ask(engine, policy, &prompt(stream, round), begun)))
            .collect();
        running.into_iter().map(|one| one.join().expect("an answer comes")).collect()
    });
    let whole = begun.elapsed().as_secs_f64();
    answers.sort();
    let tokens: u32 = answers.iter().map(|(_, tokens)| tokens).sum();
    Round { rate: f64::from(tokens) / whole, first: answers[answers.len() / 2].0.as_secs_f64() }
}

/// Asks for one answer: when its first text was judged, and how many tokens it has.
fn ask(engine: &Engine, policy: Option<&Arc<Policy>>, prompt: &str, begun: Instant) -> (Duration, u32) {
    let exchange = policy.map(|policy| {
        let mut exchange = Exchange::new(Arc::clone(policy));
        assert!(!exchange.prompt(prompt).action.stops(), "a prompt of random words is refused");
        exchange
    });
    let (done, result) = mpsc::channel();
    let sink = Box::new(Judged { exchange, begun, first: None, done });
    let tokens = engine.model().prompt_from_text(prompt).expect("the prompt fits");
    let job = Job {
        max_tokens: Some(ANSWER_TOKENS),
        // The model's control tokens are the first three. Without them no answer ends early.
        bias: vec![(0, -100.0), (1, -100.0), (2, -100.0)].into(),
        ..Job::new(tokens, sink)
    };
    let _job = engine.submit(job).expect("there is room");
    result.recv().expect("the answer ends")
}

/// Judges an answer where the engine hands it out.
struct Judged {
    exchange: Option<Exchange>,
    begun: Instant,
    first: Option<Duration>,
    done: mpsc::Sender<(Duration, u32)>,
}

impl Sink for Judged {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Text(text) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.answer(text.as_str());
                }
                self.first.get_or_insert_with(|| self.begun.elapsed());
            }
            Event::Embedding(_) => {}
            Event::Finished { usage, .. } => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.finish();
                }
                let first = self.first.unwrap_or_else(|| self.begun.elapsed());
                // Whoever asked waits for it.
                let _ = self.done.send((first, usage.completion_tokens));
            }
        }
        ControlFlow::Continue(())
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
