//! A program whose standard error nobody reads goes on and ends well.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::io::{PipeReader, Read as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cleanroom_program::{log, output};

/// Tells the test program to be the one that is tested.
const VARIABLE: &str = "CLEANROOM_TEST_OF_THE_LOG";
/// More lines than a pipe and the queue hold.
const LINES: u64 = 30_000;

/// Runs this file's program once more, as one that logs much and prints how many lines it lost. Gives that
/// number.
fn run(format: &str, stderr: impl Into<Stdio>) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_program_that_logs", "--ignored", "--nocapture"]);
    command.env(VARIABLE, format).env_remove(log::LEVEL_VARIABLE);
    let output = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let lost = text.lines().find_map(|line| line.strip_prefix("lost "));
    lost.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[test]
#[ignore = "the program that the others run"]
fn a_program_that_logs() {
    let format = std::env::var(VARIABLE).unwrap();
    let log = log::start(log::Format::json_if(format == "json"), "info").unwrap();
    assert!(matches!(log::start(log::Format::Text, "info"), Err(log::StartError::Twice)));
    for number in 0..LINES {
        tracing::info!(number, "a line that is as long as most lines of a log are, more or less");
        tracing::debug!("not logged");
    }
    output::complain("this is not read either");
    drop(log);
    output::print(format!("\nlost {}", log::lost_lines())).unwrap();
}

fn pipe() -> (PipeReader, std::io::PipeWriter) {
    std::io::pipe().unwrap()
}

#[test]
fn a_reader_that_is_gone() {
    let (reader, writer) = pipe();
    drop(reader);
    assert_eq!(run("text", writer), LINES);
}

#[test]
fn a_full_disk() {
    assert_eq!(run("text", std::fs::File::options().write(true).open("/dev/full").unwrap()), LINES);
}

#[test]
fn a_reader_that_reads_everything() {
    for format in ["text", "json"] {
        let (mut reader, writer) = pipe();
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        let lost = run(format, writer);
        let text = reading.join().unwrap().unwrap();
        let told = text.lines().filter(|line| line.contains("log lines were lost")).count() as u64;
        let numbers = text.lines().filter(|line| line.contains("a line that is as long")).count() as u64;
        assert_eq!(numbers + lost, LINES, "{format}: every line is written or counted");
        assert!(lost == 0 || told > 0, "{format}");
        assert!(!text.contains("not logged"));
        if format == "json" {
            let lines = text.lines().filter(|line| *line != "this is not read either");
            assert!(lines.clone().all(|line| line.starts_with('{') && line.ends_with('}')));
        }
    }
}

#[test]
fn a_reader_that_sleeps() {
    // The pipe is full and stays so. The program's end waits for its log and its last word for a second each.
    let (reader, writer) = pipe();
    let begun = Instant::now();
    let lost = run("text", writer);
    assert!(lost > 0 && begun.elapsed() < Duration::from_secs(60), "{lost}");
    drop(reader);
}
