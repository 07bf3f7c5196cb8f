//! The baseline policy and a classifier on labelled prompts of others, and the cost of judging. `scripts/bench safeguard` runs
//! it.
//!
//! The prompts come as JSON Lines with `set`, `family`, `attack` and `text`.

mod classifier;
mod disguise;
mod path;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cleanroom_safeguard::{Action, Exchange, Policy, RuleId};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// How long one text of the cost table is judged, at least.
const LONG_ENOUGH: Duration = Duration::from_millis(500);

struct Prompt {
    set: String,
    family: String,
    attack: bool,
    text: String,
}

/// How a prompt was judged.
struct Verdict {
    action: Action,
    rules: Vec<RuleId>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if_eq("--path").is_some() {
        let given: Vec<String> = arguments.collect();
        let [policy, classifier, model] = given.as_slice() else {
            eprintln!("usage: bench-safeguard --path POLICY CLASSIFIER.gguf MODEL.gguf");
            return ExitCode::from(2);
        };
        return if path::report(policy, classifier, model) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (Some(policy), Some(prompts)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: bench-safeguard POLICY PROMPTS.jsonl [CLASSIFIER.gguf]");
        return ExitCode::from(2);
    };
    let bytes = std::fs::read(&policy).expect("the policy is read");
    let begun = Instant::now();
    let policy = Arc::new(Policy::read(&bytes).unwrap_or_else(|error| panic!("{policy}: {error}")));
    println!(
        "policy {}: {} rules, compiled in {:.0} ms into {} KiB; at most {} KiB for an exchange\n",
        policy.id(),
        policy.rules().len(),
        begun.elapsed().as_secs_f64() * 1e3,
        policy.memory_bytes() / 1024,
        Exchange::most_bytes(&policy) / 1024,
    );
    let prompts = read(&prompts);
    // Prompts that fix the thresholds of a classifier are not counted.
    let (calibration, counted): (Vec<_>, Vec<_>) =
        prompts.into_iter().partition(|prompt| prompt.set == "calibration");
    detection(&policy, &counted);
    disguises(&policy, &counted);
    cost(&policy, &counted);
    if let Some(file) = arguments.next() {
        let all: Vec<_> = calibration.into_iter().chain(counted).collect();
        classifier::report(&policy, &all, &file);
    }
    ExitCode::SUCCESS
}

fn read(path: &str) -> Vec<Prompt> {
    let text = std::fs::read_to_string(path).expect("the prompts are read");
    let member = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    text.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            Prompt {
                set: member(&line, "set"),
                family: member(&line, "family"),
                attack: line["attack"].as_bool().expect("a label"),
                text: member(&line, "text"),
            }
        })
        .collect()
}

fn judge(policy: &Arc<Policy>, text: &str) -> Verdict {
    let verdict = Exchange::new(Arc::clone(policy)).prompt(text);
    Verdict { action: verdict.action, rules: verdict.rules }
}

fn detection(policy: &Arc<Policy>, prompts: &[Prompt]) {
    let mut sets: BTreeMap<&str, Vec<(&Prompt, Verdict)>> = BTreeMap::new();
    for prompt in prompts {
        sets.entry(&prompt.set).or_default().push((prompt, judge(policy, &prompt.text)));
    }
    for (set, judged) in &sets {
        println!("{set}");
        println!("  {:<28} {:>7}  {:>9} {:>9}", "", "prompts", "flagged", "refused");
        let mut families: BTreeMap<(bool, &str), Vec<&Verdict>> = BTreeMap::new();
        for (prompt, verdict) in judged {
            families.entry((!prompt.attack, &prompt.family)).or_default().push(verdict);
        }
        for ((benign, family), verdicts) in &families {
            let name = format!("{}{family}", if *benign { "benign: " } else { "" });
            row(&name, verdicts);
        }
        for (name, attack) in [("all attacks", true), ("all benign: false alarms", false)] {
            let verdicts: Vec<_> = judged
                .iter()
                .filter(|(prompt, _)| prompt.attack == attack)
                .map(|(_, verdict)| verdict)
                .collect();
            if !verdicts.is_empty() {
                row(name, &verdicts);
            }
        }
        false_alarms(judged);
        println!();
    }
}

/// A row: how many are flagged or more, and how many refused or more.
fn row(name: &str, verdicts: &[&Verdict]) {
    let share = |least: Action| {
        let count = verdicts.iter().filter(|verdict| verdict.action >= least).count();
        100.0 * count as f64 / verdicts.len() as f64
    };
    println!(
        "  {name:<28} {:>7}  {:>7.1} % {:>7.1} %",
        verdicts.len(),
        share(Action::Flag),
        share(Action::Refuse)
    );
}

/// The rules that match what is benign.
fn false_alarms(judged: &[(&Prompt, Verdict)]) {
    let mut rules: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (prompt, verdict) in judged {
        for rule in &verdict.rules {
            let (attacks, benign) = rules.entry(rule.as_str()).or_default();
            *(if prompt.attack { attacks } else { benign }) += 1;
        }
    }
    for (rule, (attacks, benign)) in rules {
        println!("    {rule:<26} {attacks:>6} attacks {benign:>6} benign");
    }
}

/// The attacks that are found when they are written plainly, in disguise.
fn disguises(policy: &Arc<Policy>, prompts: &[Prompt]) {
    let found: Vec<&str> = prompts
        .iter()
        .filter(|prompt| prompt.attack && judge(policy, &prompt.text).action >= Action::Flag)
        .map(|prompt| prompt.text.as_str())
        .collect();
    println!("{} attacks that are found when they are written plainly, in disguise", found.len());
    for (name, disguise) in disguise::ALL {
        let still = found.iter().filter(|text| judge(policy, &disguise(text)).action >= Action::Flag).count();
        println!("  {name:<44} {:>6.1} %", 100.0 * still as f64 / found.len().max(1) as f64);
    }
    println!();
}

/// The time that this thread has had a processor, so that other programs do not count.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn cost(policy: &Arc<Policy>, prompts: &[Prompt]) {
    let all: String = prompts.iter().map(|prompt| prompt.text.as_str()).collect::<Vec<_>>().join("\n");
    let base64 = "QWxsIHRoYXQgZ2xpdHRlcnMgaXMgbm90IGdvbGQu".repeat(1000);
    println!("cost{:>42} {:>12}", "us per kB", "MB/s");
    for (name, text, piece) in [
        ("these prompts", all.as_str(), usize::MAX),
        (
            "German",
            &"Die Lastprognose für morgen früh liegt über dem Mittel; größere Abweichungen prüfen wir. "
                .repeat(500),
            usize::MAX,
        ),
        (
            "German, as an answer in pieces of 4 letters",
            &"Die Lastprognose für morgen früh liegt über dem Mittel; größere Abweichungen prüfen wir. "
                .repeat(500),
            4,
        ),
        ("Russian", &"Прогноз нагрузки на завтрашнее утро выше среднего. ".repeat(500), usize::MAX),
        ("Chinese", &"明天早上的负荷预测高于平均水平，我们会检查偏差。".repeat(500), usize::MAX),
        ("Korean", &"내일 아침 부하 예측은 평균보다 높습니다. ".repeat(500), usize::MAX),
        ("base64", &base64, usize::MAX),
        ("hexadecimal", &"416c6c2074686174".repeat(2500), usize::MAX),
        ("escapes", &"%41%6c%6c".repeat(4000), usize::MAX),
        ("marks", &"a\u{301}\u{302}\u{303}".repeat(5000), usize::MAX),
        (
            "the terms of the policy",
            &"ignore disregard your previous the instructions without rules bomb make ".repeat(500),
            usize::MAX,
        ),
    ] {
        let (begun, busy) = (Instant::now(), processor_seconds());
        let mut rounds = 0_u32;
        while begun.elapsed() < LONG_ENOUGH || rounds < 3 {
            let mut exchange = Exchange::new(Arc::clone(policy));
            if piece == usize::MAX {
                exchange.prompt(text);
            } else {
                let mut rest = text;
                while !rest.is_empty() {
                    let place = rest.char_indices().nth(piece).map_or(rest.len(), |(place, _)| place);
                    let (now, later) = rest.split_at(place);
                    exchange.answer(now);
                    rest = later;
                }
                exchange.finish();
            }
            rounds += 1;
        }
        let seconds = (processor_seconds() - busy) / f64::from(rounds);
        let bytes = text.len() as f64;
        println!("  {name:<40} {:>6.0} {:>12.1}", seconds * 1e6 / (bytes / 1e3), bytes / seconds / 1e6);
    }
    let begun = Instant::now();
    for _ in 0..1000 {
        drop(Exchange::new(Arc::clone(policy)));
    }
    println!("  a new exchange: {:.1} us", begun.elapsed().as_secs_f64() * 1e3);
}
