//! Runs the official client packages (`tests/clients`), unmodified, as their users would: Python, in an environment of its own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::clean_room::repository;

/// How a suite went.
#[derive(Debug)]
pub enum Outcome {
    /// Every case passed; what the suite printed.
    Passed(String),
    /// A case failed; what the suite printed.
    Failed(String),
    /// There is no Python with which to run it.
    Unavailable(String),
}

/// An official package, with the suite that uses it.
#[derive(Debug, Clone, Copy)]
pub enum Package {
    /// `openai`
    OpenAi,
    /// `openai`, against a model that gives embeddings
    OpenAiEmbeddings,
    /// `anthropic`
    Anthropic,
    /// Both, against a model that calls tools and tells what it thinks
    Tools,
}

/// Runs the suite of a package against the API at `base_url` (with `/v1`). Blocks for some seconds; the first
/// time also for as long as the package index takes.
///
/// # Errors
/// When files cannot be written or processes not started for other reasons than a missing Python.
pub fn run(package: Package, base_url: &str) -> io::Result<Outcome> {
    let suite_file = match package {
        Package::OpenAi => "openai_suite.py",
        Package::OpenAiEmbeddings => "embeddings_suite.py",
        Package::Anthropic => "anthropic_suite.py",
        Package::Tools => "tools_suite.py",
    };
    let clients = repository().join("tests/clients");
    let python = match environment(&clients.join("requirements.txt"))? {
        Ok(python) => python,
        Err(reason) => return Ok(Outcome::Unavailable(reason)),
    };
    let mut suite = Command::new(python);
    suite.arg("-B").arg(clients.join(suite_file)).env("CLEANROOM_BASE_URL", base_url);
    // A proxy that the surroundings configure is none of this conversation's business.
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        suite.env_remove(variable);
    }
    let output = suite.stdin(Stdio::null()).output()?;
    let printed = printed(&output);
    Ok(if output.status.success() { Outcome::Passed(printed) } else { Outcome::Failed(printed) })
}

/// Fails the test if a case failed, or if there was no Python although this is continuous integration; says plainly that nothing
/// was tested if there was none elsewhere.
pub fn expect_passed(outcome: Outcome) {
    match outcome {
        Outcome::Passed(printed) => println!("{printed}"),
        Outcome::Failed(printed) => panic!("the official client fails:\n{printed}"),
        Outcome::Unavailable(reason) if std::env::var_os("CI").is_some_and(|ci| ci == "true") => {
            panic!("the official client could not be run: {reason}")
        }
        Outcome::Unavailable(reason) => eprintln!("SKIPPED: the official client was not run: {reason}"),
    }
}

/// The Python of an environment in `target/python` that holds `requirements`; made if it is not there or holds others.
fn environment(requirements: &Path) -> io::Result<Result<PathBuf, String>> {
    let folder = repository().join("target/python");
    fs::create_dir_all(&folder)?;
    // One at a time, among threads and processes alike.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;

    let (python, stamp) = (folder.join("venv/bin/python"), folder.join("installed.txt"));
    let wanted = fs::read_to_string(requirements)?;
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(Ok(python));
    }
    let steps = [
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")).output(),
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
            .args(["--only-binary", ":all:", "--requirement"])
            .arg(requirements)
            .output(),
    ];
    for step in steps {
        match step {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Ok(Err(printed(&output))),
            Err(error) => return Ok(Err(format!("python3 cannot be started: {error}"))),
        }
    }
    fs::write(stamp, wanted)?;
    Ok(Ok(python))
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
