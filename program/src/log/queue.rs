//! The queue between what logs and the thread that writes.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::output::write_all;

/// The most lines that wait to be written.
const MAX_LINES: usize = 8192;
/// The most bytes that wait to be written.
const MAX_BYTES: usize = 4 << 20;
/// How long the first of some lines waits for others, so that lines that come together cost one write and one turn of the
/// thread.
const TOGETHER: Duration = Duration::from_millis(2);

/// Lines that wait to be written.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// The first line came.
    filled: Condvar,
    /// No line is to be waited for: many are there, or somebody waits until they are written.
    hurried: Condvar,
    /// Nothing waits, and nothing is being written.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How many lines the thread has taken that are not written yet, and their bytes.
    writing: (usize, usize),
    /// Somebody waits until all lines are written.
    is_flushed: bool,
    /// Lines that were lost, since the start.
    lost: u64,
    /// How many of them the log has told.
    told: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            hurried: Condvar::new(),
            idle: Condvar::new(),
        }
    }

    /// Held for moments only, never while a line is written.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line, or counts it as lost when there is no room.
    fn push(&self, line: Vec<u8>) {
        let mut waiting = self.lock();
        let (lines, bytes) = waiting.writing;
        if waiting.lines.len() + lines >= MAX_LINES
            || waiting.bytes.saturating_add(bytes).saturating_add(line.len()) > MAX_BYTES
        {
            waiting.lost += 1;
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        match waiting.lines.len() {
            1 => self.filled.notify_one(),
            many if many == MAX_LINES / 8 => self.hurried.notify_one(),
            _ => {}
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// Waits until nothing waits, for at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let busy = |waiting: &mut Waiting| waiting.writing.0 > 0 || !waiting.lines.is_empty();
        let mut waiting = self.lock();
        waiting.is_flushed = true;
        self.hurried.notify_one();
        let _ = self.idle.wait_timeout_while(waiting, patience, busy);
        self.lock().is_flushed = false;
    }

    /// The next lines; waits for one, and then a moment for others.
    fn take(&self) -> VecDeque<Vec<u8>> {
        let waiting = self.lock();
        let is_empty = |waiting: &mut Waiting| waiting.lines.is_empty();
        let waiting = self.filled.wait_while(waiting, is_empty).unwrap_or_else(PoisonError::into_inner);
        let may_wait = |waiting: &mut Waiting| !waiting.is_flushed && waiting.lines.len() < MAX_LINES / 8;
        let (mut waiting, _) = self
            .hurried
            .wait_timeout_while(waiting, TOGETHER, may_wait)
            .unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut waiting.lines);
        waiting.writing = (lines.len(), std::mem::take(&mut waiting.bytes));
        lines
    }

    /// What was taken was written, but for `unwritten` lines. Gives the number of lost lines that the log should tell now.
    fn done(&self, unwritten: u64) -> Option<u64> {
        let mut waiting = self.lock();
        waiting.writing = (0, 0);
        waiting.lost += unwritten;
        let untold = waiting.lost - waiting.told;
        if waiting.lines.is_empty() {
            self.idle.notify_all();
        }
        // While lines are lost, one more would be lost with them.
        if unwritten > 0 || untold == 0 || waiting.lines.len() >= MAX_LINES / 2 {
            return None;
        }
        waiting.told = waiting.lost;
        Some(untold)
    }
}

/// One line in the making: goes into the queue when it is dropped.
pub(super) struct Line {
    queue: Arc<Queue>,
    bytes: Vec<u8>,
}

impl Line {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self { queue, bytes: Vec::new() }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.queue.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Writes what comes into the queue, for as long as the process lives. `report` logs a number of lost lines.
pub(super) fn write_on_thread(
    queue: Arc<Queue>,
    mut writer: impl Write + Send + 'static,
    report: impl Fn(u64) + Send + 'static,
) -> io::Result<()> {
    let write = move || {
        let mut torn = false;
        loop {
            let lines = queue.take();
            let mut written = Counted { writer: &mut writer, bytes: 0 };
            // After a failure, half a line may stand there.
            let mut text = if torn { b"\n".to_vec() } else { Vec::new() };
            let mut ends = Vec::with_capacity(lines.len());
            for line in lines {
                text.extend(line);
                ends.push(text.len());
            }
            torn = write_all(&mut written, &text).is_err();
            let unwritten = ends.iter().filter(|end| **end > written.bytes).count();
            if let Some(lost) = queue.done(unwritten as u64) {
                report(lost);
            }
        }
    };
    std::thread::Builder::new().name("log".to_owned()).spawn(write).map(drop)
}

/// A writer, and how many bytes it has taken.
struct Counted<'a, W> {
    writer: &'a mut W,
    bytes: usize,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.bytes = self.bytes.saturating_add(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A reader that can be stopped (the writer blocks), or closed (the writer fails).
    #[derive(Clone, Default)]
    struct Reader {
        read: Arc<Mutex<Vec<u8>>>,
        closed: Arc<AtomicBool>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.closed.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.read.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(reader: &Reader) -> Arc<Queue> {
        let queue = Arc::new(Queue::new());
        let report = {
            let queue = Arc::clone(&queue);
            move |lost| queue.push(format!("lost {lost}\n").into_bytes())
        };
        write_on_thread(Arc::clone(&queue), reader.clone(), report).unwrap();
        queue
    }

    fn log(queue: &Arc<Queue>, text: &str) {
        writeln!(Line::new(Arc::clone(queue)), "{text}").unwrap();
    }

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let reader = Reader::default();
        let queue = start(&reader);
        (0..100).for_each(|number| log(&queue, &number.to_string()));
        queue.flush(PATIENCE);
        let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&reader.read.lock().unwrap()), expected);
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_never_blocks() {
        let reader = Reader::default();
        let queue = start(&reader);
        let stopped = reader.read.lock().unwrap();
        (0..MAX_LINES + 100).for_each(|_| log(&queue, "x"));
        // One line may be with the thread already.
        assert!((99..=100).contains(&queue.lost()), "{}", queue.lost());
        // A large line is lost before the memory is.
        log(&queue, &"x".repeat(MAX_BYTES));
        let lost = queue.lost();
        assert!((100..=101).contains(&lost));
        let start = Instant::now();
        queue.flush(Duration::from_millis(10));
        assert!(start.elapsed() < PATIENCE, "the wait at the end is bounded");
        drop(stopped);
        queue.flush(PATIENCE);
        // The report was pushed by the thread before it took the next line, or is the only line left.
        let text = String::from_utf8(reader.read.lock().unwrap().clone()).unwrap();
        assert!(text.contains(&format!("lost {lost}\n")), "{}", &text[text.len() - 30..]);
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_until_another_comes() {
        let reader = Reader::default();
        let queue = start(&reader);
        reader.closed.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            log(&queue, "lost");
        }
        queue.flush(PATIENCE);
        assert_eq!(queue.lost(), 3);
        reader.closed.store(false, Ordering::SeqCst);
        log(&queue, "again");
        let start = Instant::now();
        while !reader.read.lock().unwrap().ends_with(b"again\nlost 3\n") {
            assert!(start.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        // What a half-written line may have left is ended first.
        assert!(reader.read.lock().unwrap().starts_with(b"\nagain"));
    }
}
