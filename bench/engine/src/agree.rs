//! Whether both engines say the same.

use std::num::NonZeroUsize;

use cleanroom_engine::{ChatMessage, Engine, EngineConfig, Model};

use crate::contestant::{Contestant, Llama, Ours, Outcome, Piece, best, prompt};

/// Tokens of each sequence, and how many sequences.
const LENGTH: usize = 128;
const PROMPTS: u32 = 4;

/// What is accepted of a file: the share of positions at which both choose the same token at least, and the mean
/// divergence in nats at most.
struct Limits {
    agreement: f64,
    divergence: f64,
}

/// For weights that are numbers. Keys and values are rounded to half precision by both; llama.cpp also rounds the activations
/// to the type of the weights, which for BF16 leaves eight bits.
const NUMBERS: Limits = Limits { agreement: 0.98, divergence: 1e-3 };

/// For quantised weights. Both round activations to eight bits in every product, and once a sum differs in its last digit, a
/// number near the middle of two steps rounds the other way: the engines then are two samples of the same noise. The models
/// here are of random weights, whose best tokens are nearly equal, so that one choice in twenty turns on it. A wrong scale,
/// rotation or bias shows as a divergence above 0.1 and an agreement near zero.
const QUANTISED: Limits = Limits { agreement: 0.92, divergence: 4e-3 };

pub fn run(files: &[String]) -> Outcome<bool> {
    let mut backend = Llama::backend()?;
    let mut all_agree = true;
    println!("{:34} {:>9} {:>10} {:>10}", "file", "top-1", "mean KL", "largest KL");
    for file in files {
        let llama = Llama::load(backend, file)?;
        let model = Model::from_gguf(&std::fs::read(file)?)?;
        let (agreement, mean, largest) = compare(&llama, &model)?;
        let facts = model.facts();
        let limits = if facts.weights.contains('Q') { QUANTISED } else { NUMBERS };
        let agree = agreement >= limits.agreement && mean <= limits.divergence;
        all_agree &= agree;
        let name = format!("{} {}", facts.architecture, facts.weights);
        let verdict = if agree { "" } else { "  DISAGREES" };
        println!("{name:34} {:8.2}% {mean:10.2e} {largest:10.2e}{verdict}", agreement * 100.0);
        backend = llama.into_backend();
    }
    for (what, Limits { agreement, divergence }) in [("numbers", NUMBERS), ("quantised", QUANTISED)] {
        println!(
            "accepted for {what}: top-1 at least {:.0}%, mean KL at most {divergence:.0e}",
            agreement * 100.0
        );
    }
    Ok(all_agree)
}

fn compare(llama: &Llama, model: &Model) -> Outcome<(f64, f64, f64)> {
    let (mut ours, mut theirs) = (Ours::new(model, 2)?, llama.start(2)?);
    let (mut same, mut sum, mut largest, mut count) = (0.0, 0.0, 0.0_f64, 0.0);
    for seed in 0..PROMPTS {
        let tokens = prompt(seed, LENGTH, model.facts().vocabulary);
        let piece = [Piece { sequence: 0, tokens: &tokens, all: true }];
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        ours.clear();
        theirs.clear();
        ours.append(&piece, &mut |scores| found.push(scores.to_vec()))?;
        theirs.append(&piece, &mut |scores| expected.push(scores.to_vec()))?;
        for (found, expected) in found.iter().zip(&expected) {
            let divergence = divergence(expected, found);
            same += f64::from(best(found) == best(expected));
            sum += divergence;
            largest = largest.max(divergence);
            count += 1.0;
        }
    }
    Ok((same / count, sum / count, largest))
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
        let prompt = model.prompt_from_chat(&[ChatMessage { role: "user", content: question }])?;
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
