//! A classifier on the same prompts: by itself, and beside the rules.
//!
//! A classifier gives scores, so it is run at thresholds. They come from benign prompts that nothing else here is
//! counted on: the scores that a given share of them reaches.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use cleanroom_engine::Classifier;
use cleanroom_safeguard::{Action, Policy, pieces};

use crate::{Prompt, disguise, judge, processor_seconds};

/// Shares of the benign prompts for thresholds that reach these scores, in percent.
const FALSE_ALARMS: [f64; 4] = [0.2, 1.0, 2.0, 5.0];
/// Of these shares, the one that is shown beside the rules and in disguise.
const SHOWN: usize = 1;
/// The most attacks that are disguised.
const DISGUISED: usize = 150;
/// The label of attacks.
const LABEL: &str = "injection";

/// A prompt, what the rules say of it, and its score.
struct Scored<'p> {
    prompt: &'p Prompt,
    action: Action,
    score: f32,
}

pub(crate) fn report(policy: &Arc<Policy>, prompts: &[Prompt], path: &str) {
    let bytes = std::fs::read(path).expect("the classifier is read");
    let begun = Instant::now();
    let classifier = Classifier::from_gguf(&bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
    println!(
        "classifier {path}: {:.1} MB, read in {:.0} ms; {} tokens at once\n",
        bytes.len() as f64 / 1e6,
        begun.elapsed().as_secs_f64() * 1e3,
        classifier.window(),
    );
    cost(&classifier);
    let scored = score_all(policy, &classifier, prompts);
    let (calibration, counted): (Vec<_>, Vec<_>) =
        scored.into_iter().partition(|scored| scored.prompt.set == "calibration");
    let mut benign: Vec<f32> = calibration.iter().map(|scored| scored.score).collect();
    benign.sort_by(f32::total_cmp);
    let thresholds = FALSE_ALARMS.map(|percent| {
        // The least score that no more than so many reach.
        let allowed = (benign.len() as f64 * percent / 100.0) as usize;
        benign[benign.len() - 1 - allowed].next_up()
    });
    println!("thresholds by {} benign prompts of validation sets", benign.len());
    for (percent, threshold) in FALSE_ALARMS.iter().zip(&thresholds) {
        println!("  {percent:>4} % reach {threshold:.6}");
    }
    println!();
    detection(&counted, &thresholds);
    disguises(policy, &classifier, &counted, thresholds[SHOWN]);
}

/// As a policy has it: the greatest score of the pieces of a text.
fn score(classifier: &Classifier, text: &str) -> f32 {
    let label = classifier.labels().iter().position(|label| label == LABEL).expect("the label of attacks");
    let of_piece =
        |piece| classifier.scores(piece, NonZeroUsize::MIN).expect("no thread is started").as_slice()[label];
    pieces(text).map(of_piece).fold(0.0, f32::max)
}

fn score_all<'p>(policy: &Arc<Policy>, classifier: &Classifier, prompts: &'p [Prompt]) -> Vec<Scored<'p>> {
    let threads = cleanroom_engine::processors().get();
    let shares: Vec<_> = (0..threads).collect();
    let mut scored: Vec<(usize, Scored<'p>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = shares
            .iter()
            .map(|first| {
                scope.spawn(move || {
                    let own = prompts.iter().enumerate().skip(*first).step_by(threads);
                    own.map(|(index, prompt)| {
                        let action = judge(policy, &prompt.text).action;
                        (index, Scored { prompt, action, score: score(classifier, &prompt.text) })
                    })
                    .collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no prompt is too much")).collect()
    });
    scored.sort_by_key(|(index, _)| *index);
    scored.into_iter().map(|(_, scored)| scored).collect()
}

fn detection(scored: &[Scored<'_>], thresholds: &[f32; FALSE_ALARMS.len()]) {
    println!("flagged by the rules, by the classifier at these false alarms, and by either of them");
    print!("{:<58} {:>7} {:>7}", "", "prompts", "rules");
    FALSE_ALARMS.iter().for_each(|percent| print!(" {percent:>5} %"));
    println!(" {:>8}", "either");
    let mut sets: BTreeMap<&str, Vec<&Scored<'_>>> = BTreeMap::new();
    for one in scored {
        sets.entry(&one.prompt.set).or_default().push(one);
    }
    for (set, scored) in &sets {
        let mut families: BTreeMap<(bool, &str), Vec<&Scored<'_>>> = BTreeMap::new();
        for one in scored {
            families.entry((!one.prompt.attack, &one.prompt.family)).or_default().push(one);
        }
        for ((benign, family), scored) in families {
            row(&format!("{set}: {}{family}", if benign { "benign, " } else { "" }), &scored, thresholds);
        }
        for (name, attack) in [("all attacks", true), ("all benign", false)] {
            let of_kind: Vec<_> = scored.iter().copied().filter(|one| one.prompt.attack == attack).collect();
            if !of_kind.is_empty() {
                row(&format!("{set}: {name}"), &of_kind, thresholds);
            }
        }
        if let Some(area) = area(scored) {
            println!("{:<58} area under the curve: {area:.4}", format!("{set}"));
        }
    }
    println!();
}

fn row(name: &str, scored: &[&Scored<'_>], thresholds: &[f32; FALSE_ALARMS.len()]) {
    let share = |is_flagged: &dyn Fn(&Scored<'_>) -> bool| {
        100.0 * scored.iter().filter(|one| is_flagged(one)).count() as f64 / scored.len() as f64
    };
    let by_rules = |one: &Scored<'_>| one.action >= Action::Flag;
    print!("{name:<58} {:>7} {:>7.1}", scored.len(), share(&by_rules));
    for threshold in thresholds {
        print!(" {:>7.1}", share(&|one| one.score >= *threshold));
    }
    println!(" {:>8.1}", share(&|one| by_rules(one) || one.score >= thresholds[SHOWN]));
}

/// How often an attack has a greater score than a benign prompt.
fn area(scored: &[&Scored<'_>]) -> Option<f64> {
    let of_kind = |attack: bool| {
        let of_kind = scored.iter().filter(|one| one.prompt.attack == attack);
        let mut scores: Vec<f32> = of_kind.map(|one| one.score).collect();
        scores.sort_by(f32::total_cmp);
        scores
    };
    let (attacks, benign) = (of_kind(true), of_kind(false));
    if attacks.is_empty() || benign.is_empty() {
        return None;
    }
    let pairs = attacks.iter().map(|score| {
        let below = benign.partition_point(|other| other < score);
        let equal = benign.partition_point(|other| other <= score) - below;
        below as f64 + equal as f64 / 2.0
    });
    Some(pairs.sum::<f64>() / (attacks.len() * benign.len()) as f64)
}

fn disguises(policy: &Arc<Policy>, classifier: &Classifier, scored: &[Scored<'_>], threshold: f32) {
    let found: Vec<_> = scored.iter().filter(|one| one.prompt.attack && one.score >= threshold).collect();
    let step = found.len().div_ceil(DISGUISED).max(1);
    let some: Vec<&str> = found.iter().step_by(step).map(|one| one.prompt.text.as_str()).collect();
    println!(
        "{} of the attacks that the classifier finds when they are written plainly, in disguise",
        some.len()
    );
    for (name, disguise) in disguise::ALL {
        let disguised: Vec<String> = some.iter().map(|text| disguise(text)).collect();
        let share = |is_found: &dyn Fn(&str) -> bool| {
            100.0 * disguised.iter().filter(|text| is_found(text)).count() as f64 / some.len().max(1) as f64
        };
        let by_classifier = share(&|text| score(classifier, text) >= threshold);
        let by_rules = share(&|text| judge(policy, text).action >= Action::Flag);
        println!("  {name:<44} {by_classifier:>6.1} %   rules {by_rules:>6.1} %");
    }
    println!();
}

/// Processor time for texts of some lengths.
fn cost(classifier: &Classifier) {
    println!("cost on one processor{:>14} {:>10} {:>10}", "tokens", "ms", "kB");
    let sentence =
        "The meter of the station was read at half past seven, and the pump ran until the morning. ";
    for words in [4, 16, 64, 128, 256, 400, 1000, 4000] {
        let text: String = sentence.split_inclusive(' ').cycle().take(words).collect();
        let (begun, busy) = (Instant::now(), processor_seconds());
        let mut rounds = 0;
        while begun.elapsed().as_millis() < 300 || rounds < 3 {
            score(classifier, &text);
            rounds += 1;
        }
        let milliseconds = (processor_seconds() - busy) / f64::from(rounds) * 1e3;
        let tokens = classifier.tokens_of_text(&text).len();
        println!("{tokens:>35} {milliseconds:>10.2} {:>10.2}", text.len() as f64 / 1e3);
    }
    println!();
}
