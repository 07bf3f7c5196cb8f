//! Whether the engines say the same, and which of them is nearer to what is exact.

use std::num::NonZeroUsize;

use cleanroom_engine::{ChatMessage, Engine, EngineConfig, Model};

use crate::{
    contestant::{Contestant, Llama, Ours, Outcome, Piece, best, prompt},
    exact::Exact,
};

/// Tokens of each sequence, and how many sequences.
const LENGTH: usize = 128;
const PROMPTS: u32 = 4;

/// How much further than llama.cpp this engine may be from the exact scores, in mean divergence. Both round the same things to the
/// same widths: keys and values to half precision, and with quantised weights every activation to eight bits with a scale for as
/// many numbers. Once a sum differs in its last digit, a number near the middle of two steps rounds the other way, so they
/// are two samples of one noise, whose mean over a file's 512 positions differs by a tenth or two from sample to sample. A half more
/// is noise of another size: a rounding that the other does without.
const FURTHER: f64 = 1.5;

/// A divergence that counts as none, in nats: rounding keys and values to eleven bits moves a score by about a thousandth, which
/// makes half of its square.
const NOTHING: f64 = 1e-6;

/// How far from the exact scores eight bits may lead, in nats. A block's largest number is two to three times its
/// deviation, so a step is a fiftieth of that and the error of a number 0.6 %. Some thirty products in a row (four layers of seven) that each
/// add as much make 3 %; scores here deviate by 3, so by 0.1 in the end, and half of its square is 5e-3. Twice that is
/// accepted. A wrong scale, rotation or bias shows as a divergence above 0.1.
const EIGHT_BITS: f64 = 1e-2;

/// The same for weights that are not quantised. llama.cpp rounds activations to BF16 for weights of BF16, which is eight bits
/// without a common scale, and to eleven bits for F16.
const NUMBERS: f64 = 1e-3;

/// How one engine's scores compare with the exact ones.
#[derive(Default)]
struct Distance {
    positions: f64,
    /// Positions at which another token is the best.
    other_choices: f64,
    sum: f64,
    largest: f64,
}

impl Distance {
    fn push(&mut self, expected: &[f32], found: &[f32]) {
        let divergence = divergence(expected, found);
        self.positions += 1.0;
        self.other_choices += f64::from(u8::from(best(found) != best(expected)));
        self.sum += divergence;
        // NaN is the largest of all.
        self.largest =
            if divergence > self.largest || divergence.is_nan() { divergence } else { self.largest };
    }

    fn mean(&self) -> f64 {
        self.sum / self.positions
    }

    fn row(&self) -> String {
        let agreement = 100.0 * (1.0 - self.other_choices / self.positions);
        format!("{agreement:7.2}% {:9.2e} {:9.2e}", self.mean(), self.largest)
    }
}

/// The distances of one file.
#[derive(Default)]
struct Distances {
    ours: Distance,
    theirs: Distance,
    between: Distance,
}

impl Distances {
    /// Whether this engine is as near to the exact scores as llama.cpp, and both are near.
    fn accepted(&self, quantised: bool) -> bool {
        let Self { ours, theirs, between: _ } = self;
        let limit = if quantised { EIGHT_BITS } else { NUMBERS };
        // Three standard errors of the difference of two counts.
        let choices = theirs.other_choices + 3.0 * (theirs.other_choices + ours.other_choices).sqrt();
        ours.mean() <= (theirs.mean() * FURTHER).max(NOTHING)
            && ours.mean().max(theirs.mean()) <= limit
            && ours.other_choices <= choices
    }
}

/// Compares the files' scores; `python` is an interpreter that has what `requirements.txt` names.
pub fn run(python: &str, files: &[String]) -> Outcome<bool> {
    let mut exact = Exact::start(python)?;
    let mut backend = Llama::backend()?;
    let mut all_agree = true;
    println!(
        "{:18} {:^29} {:^29} {:^29}",
        "", "ours to transformers", "llama.cpp to transformers", "ours to llama.cpp"
    );
    let columns = format!("{:>8} {:>9} {:>9}", "top-1", "mean KL", "largest");
    println!("{:18} {columns}  {columns}  {columns}", "file");
    for file in files {
        let llama = Llama::load(backend, file)?;
        let model = Model::from_gguf(&std::fs::read(file)?)?;
        let distances = compare(file, &mut exact, &llama, &model)?;
        let facts = model.facts();
        // Types whose activations are rounded to eight bits.
        let quantised = facts.weights.split('+').any(|kind| !matches!(kind, "F32" | "F16" | "BF16"));
        let agree = distances.accepted(quantised);
        all_agree &= agree;
        let Distances { ours, theirs, between } = distances;
        println!(
            "{:18} {}  {}  {}{}",
            format!("{} {}", facts.architecture, facts.weights),
            ours.row(),
            theirs.row(),
            between.row(),
            if agree { "" } else { "  DISAGREES" }
        );
        backend = llama.into_backend();
    }
    println!(
        "accepted: ours at most {FURTHER} times as far from transformers as llama.cpp, or {NOTHING:.0e}; neither above {NUMBERS:.0e}, with \
         quantised weights {EIGHT_BITS:.0e};\nother first choices than transformers at most as many as llama.cpp's and three standard errors"
    );
    Ok(all_agree)
}

fn compare(file: &str, exact: &mut Exact, llama: &Llama, model: &Model) -> Outcome<Distances> {
    let vocabulary = model.facts().vocabulary;
    let prompts: Vec<Vec<u32>> = (0..PROMPTS).map(|seed| prompt(seed, LENGTH, vocabulary)).collect();
    let exact = exact.scores(file, &prompts, vocabulary as usize)?;
    let ours = scores(&mut Ours::new(model, 2)?, &prompts)?;
    let theirs = scores(&mut llama.start(2)?, &prompts)?;
    let mut distances = Distances::default();
    for ((exact, ours), theirs) in exact.iter().zip(&ours).zip(&theirs) {
        distances.ours.push(exact, ours);
        distances.theirs.push(exact, theirs);
        distances.between.push(theirs, ours);
    }
    Ok(distances)
}

/// The scores after each token of each prompt.
fn scores(contestant: &mut dyn Contestant, prompts: &[Vec<u32>]) -> Outcome<Vec<Vec<f32>>> {
    let mut all = Vec::new();
    for tokens in prompts {
        contestant.clear();
        contestant
            .append(&[Piece { sequence: 0, tokens, all: true }], &mut |scores| all.push(scores.to_vec()))?;
    }
    Ok(all)
}

/// Kullback–Leibler divergence of two distributions given by their scores, in nats.
fn divergence(expected: &[f32], found: &[f32]) -> f64 {
    let (expected, found) = (log_probabilities(expected), log_probabilities(found));
    expected.iter().zip(&found).map(|(expected, found)| expected.exp() * (expected - found)).sum()
}

fn log_probabilities(scores: &[f32]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|score| f64::from(score - largest).exp()).sum();
    scores.iter().map(|score| f64::from(score - largest) - sum.ln()).collect()
}

/// Greedy answers of a model that was trained: token by token the same.
pub fn answers(file: &str) -> Outcome<bool> {
    const TEMPLATE: (&str, &str) = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n");
    let llama = Llama::load(Llama::backend()?, file)?;
    let model = Model::from_gguf(&std::fs::read(file)?)?;
    let mut all_same = true;
    for question in [
        "What is attestation?",
        "Who are you?",
        "What is 7 plus 8?",
        "Tell me a story about a fox named Mia.",
    ] {
        let text = format!("{}{question}{}", TEMPLATE.0, TEMPLATE.1);
        let tokens = llama.model().vocab().tokenize(text.as_bytes(), false, true);
        let tokens: Vec<u32> =
            tokens.into_iter().map(|token| u32::try_from(token.0)).collect::<Result<_, _>>()?;
        let prompt = model.prompt_from_chat(&[ChatMessage::new("user", question)])?;
        let found = greedy(&mut Ours::new(&model, 2)?, &tokens)?;
        let expected = greedy(&mut llama.start(2)?, &tokens)?;
        let same = found == expected && prompt.len() == tokens.len();
        all_same &= same;
        println!("{question:42} {:3} tokens, {}", found.len(), if same { "identical" } else { "DIFFERENT" });
    }
    // The engine that serves requests starts with the same model.
    let one = NonZeroUsize::MIN;
    Engine::start(model.into(), EngineConfig::new(one, one))?;
    Ok(all_same)
}

fn greedy(contestant: &mut dyn Contestant, prompt: &[u32]) -> Outcome<Vec<u32>> {
    let mut answer = Vec::new();
    let mut next = prompt.to_vec();
    // The first three tokens of the demo model are its control tokens.
    while answer.len() < 200 && answer.last().is_none_or(|token| *token > 2) {
        contestant.append(&[Piece { sequence: 0, tokens: &next, all: false }], &mut |scores| {
            answer.push(best(scores));
        })?;
        next = answer.last().copied().into_iter().collect();
    }
    Ok(answer)
}
