//! Runs a model on the command line and measures it: tokens stream to standard output, speeds to standard error.
//!
//! ```text
//! generate MODEL PROMPT [--threads N] [--sequences N] [--max-tokens N] [--text] [--temperature T] [--seed N]
//! ```

use std::{
    io::Write,
    num::NonZeroUsize,
    ops::ControlFlow,
    process::ExitCode,
    sync::{Arc, mpsc},
    time::Instant,
};

use cleanroom_engine::{ChatMessage, Engine, EngineConfig, Event, Job, Model, Sampling, Sink, Usage};

type Error = Box<dyn std::error::Error>;

struct Arguments {
    model: String,
    prompt: String,
    threads: NonZeroUsize,
    sequences: NonZeroUsize,
    max_tokens: Option<u32>,
    chat: bool,
    sampling: Sampling,
}

/// When the first text came, and what the answer cost.
struct Measured {
    first: Instant,
    last: Instant,
    usage: Usage,
}

struct Terminal {
    echo: bool,
    first: Option<Instant>,
    done: mpsc::Sender<Measured>,
}

impl Sink for Terminal {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        let first = *self.first.get_or_insert_with(Instant::now);
        match event {
            Event::Text(text) if self.echo => {
                print!("{}", text.as_str());
                // A closed terminal is no reason to stop measuring.
                let _ = std::io::stdout().flush();
            }
            Event::Text(_) | Event::Embedding(_) => {}
            Event::Finished { usage, .. } => {
                let _ = self.done.send(Measured { first, last: Instant::now(), usage });
            }
        }
        ControlFlow::Continue(())
    }
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("generate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let begun = Instant::now();
    let model = Model::from_gguf(&std::fs::read(&arguments.model)?)?;
    let facts = model.facts();
    eprintln!(
        "{}: {:.1} M parameters, {}, context {}; loaded in {:.2} s",
        facts.name,
        facts.parameters as f64 / 1e6,
        facts.weights,
        facts.context_length,
        begun.elapsed().as_secs_f64()
    );
    let config = EngineConfig::new(arguments.threads, arguments.sequences);
    let engine = Engine::start(Arc::new(model), config)?;
    let submitted = Instant::now();
    let (done, results) = mpsc::channel();
    let mut handles = Vec::new();
    for index in 0..arguments.sequences.get() {
        let prompt = if arguments.chat {
            engine.model().prompt_from_chat(&[ChatMessage::new("user", &arguments.prompt)])?
        } else {
            engine.model().prompt_from_text(&arguments.prompt)?
        };
        let sink = Box::new(Terminal { echo: index == 0, first: None, done: done.clone() });
        let (max_tokens, sampling) = (arguments.max_tokens, arguments.sampling);
        handles.push(engine.submit(Job { max_tokens, sampling, ..Job::new(prompt, sink) })?);
    }
    drop(done);
    let measured: Vec<Measured> = results.iter().collect();
    println!();
    report(submitted, &measured);
    Ok(())
}

fn report(submitted: Instant, measured: &[Measured]) {
    let (Some(first), Some(last)) =
        (measured.iter().map(|m| m.first).max(), measured.iter().map(|m| m.last).max())
    else {
        return;
    };
    let read: u32 = measured.iter().map(|m| m.usage.prompt_tokens).sum();
    let generated: u32 = measured.iter().map(|m| m.usage.completion_tokens.saturating_sub(1)).sum();
    let reading = (first - submitted).as_secs_f64();
    let generating = (last - first).as_secs_f64();
    eprintln!(
        "prompt: {read} tokens in {reading:.3} s, {:.1} tokens/s; answer: {generated} tokens in {generating:.3} s, {:.1} tokens/s",
        f64::from(read) / reading,
        f64::from(generated) / generating
    );
}

fn arguments() -> Result<Arguments, Error> {
    let mut positional = Vec::new();
    let one = NonZeroUsize::MIN;
    let (mut threads, mut sequences, mut max_tokens, mut chat) = (one, one, None, true);
    let (mut temperature, mut seed) = (0.0, 0);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--threads" => threads = value()?.parse()?,
            "--sequences" => sequences = value()?.parse()?,
            "--max-tokens" => max_tokens = Some(value()?.parse()?),
            "--temperature" => temperature = value()?.parse()?,
            "--seed" => seed = value()?.parse()?,
            "--text" => chat = false,
            _ => positional.push(argument),
        }
    }
    let [model, prompt] =
        <[String; 2]>::try_from(positional).map_err(|_| "expected a model file and a prompt")?;
    let sampling = Sampling::new(temperature, 1.0, seed)?;
    Ok(Arguments { model, prompt, threads, sequences, max_tokens, chat, sampling })
}
