//! The exact scores: transformers on PyTorch, with the file's weights as single-precision numbers and nothing rounded.

use std::{
    io::{BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::contestant::Outcome;

/// A Python process that computes them; see `exact.py`.
pub struct Exact {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Exact {
    /// Starts this interpreter.
    pub fn start(python: &str) -> Outcome<Self> {
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/exact.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, requests, answers })
    }

    /// The scores after each token of each prompt, by the model in this file.
    pub fn scores(&mut self, file: &str, prompts: &[Vec<u32>], vocabulary: usize) -> Outcome<Vec<Vec<f32>>> {
        let requests = self.requests.as_mut().ok_or("no standard input")?;
        // `Debug` of lists of numbers, and of a path without special characters, is JSON.
        writeln!(requests, "[{file:?}, {prompts:?}]")?;
        requests.flush()?;
        let count = prompts.iter().map(Vec::len).sum();
        let mut bytes = vec![0; vocabulary * size_of::<f32>()];
        (0..count)
            .map(|_| {
                self.answers.read_exact(&mut bytes).map_err(|_| "exact.py ended; see above")?;
                let (numbers, _) = bytes.as_chunks();
                Ok(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
            })
            .collect()
    }
}

impl Drop for Exact {
    fn drop(&mut self) {
        // It ends with its input.
        self.requests = None;
        let _ = self.child.wait();
    }
}
