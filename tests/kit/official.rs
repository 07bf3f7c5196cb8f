//! Runs the client packages of `tests/clients`, unmodified, as their users would: in an environment of their own.

use std::fs::{self, File};
use std::io;
use std::path::Path;
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

/// A package, with the suite that uses it.
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
    /// Five frameworks over `openai`, against such a model
    Frameworks,
    /// The Vercel AI SDK on Node, against such a model
    Vercel,
}

/// Runs the suite of a package against the API at `base_url` (with `/v1`). Blocks for some seconds; the first
/// time also for as long as the package index takes.
///
/// # Errors
/// When files cannot be written or processes not started for other reasons than a missing Python or Node.
pub fn run(package: Package, base_url: &str) -> io::Result<Outcome> {
    let suite = match package {
        Package::OpenAi => python("requirements.txt", "openai_suite.py"),
        Package::OpenAiEmbeddings => python("requirements.txt", "embeddings_suite.py"),
        Package::Anthropic => python("requirements.txt", "anthropic_suite.py"),
        Package::Tools => python("requirements.txt", "tools_suite.py"),
        Package::Frameworks => python("frameworks.txt", "frameworks_suite.py"),
        Package::Vercel => node("vercel"),
    }?;
    let mut suite = match suite {
        Ok(suite) => suite,
        Err(reason) => return Ok(Outcome::Unavailable(reason)),
    };
    suite.env("CLEANROOM_BASE_URL", base_url);
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

/// The command that runs `suite` with what `requirements` lists, which is all that is needed.
fn python(requirements: &str, suite: &str) -> io::Result<Result<Command, String>> {
    let clients = repository().join("tests/clients");
    let requirements = clients.join(requirements);
    let name = requirements.file_stem().unwrap_or_default();
    let folder = repository().join("target/python").join(name);
    let python = folder.join("venv/bin/python");
    let made = environment(&folder, &python, &[&requirements], || {
        [
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")).output(),
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
                .args(["--only-binary", ":all:", "--no-deps", "--requirement"])
                .arg(&requirements)
                .output(),
        ]
    })?;
    Ok(made.map(|()| {
        let mut command = Command::new(python);
        command.arg("-B").arg(clients.join(suite));
        command
    }))
}

/// The command that runs `suite.mjs` of a folder in `tests/clients`, with what its `package-lock.json` pins.
fn node(name: &str) -> io::Result<Result<Command, String>> {
    let source = repository().join("tests/clients").join(name);
    let folder = repository().join("target/node").join(name);
    let manifest = [source.join("package.json"), source.join("package-lock.json")];
    let made = environment(&folder, &folder.join("node_modules"), &[&manifest[0], &manifest[1]], || {
        [
            Command::new("cp").args(&manifest).arg(&folder).output(),
            Command::new("npm")
                .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"])
                .current_dir(&folder)
                .output(),
        ]
    })?;
    // Node looks for packages beside the script.
    fs::copy(source.join("suite.mjs"), folder.join("suite.mjs"))?;
    Ok(made.map(|()| {
        let mut command = Command::new("node");
        command.arg(folder.join("suite.mjs"));
        command
    }))
}

/// Makes `folder`, which has `result` in the end, with `steps`, unless it was made of the same `inputs` before.
fn environment<const STEPS: usize>(
    folder: &Path,
    result: &Path,
    inputs: &[&Path],
    steps: impl FnOnce() -> [io::Result<Output>; STEPS],
) -> io::Result<Result<(), String>> {
    fs::create_dir_all(folder)?;
    // One at a time, among threads and processes alike.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    let stamp = folder.join("installed.txt");
    let wanted = inputs.iter().map(fs::read_to_string).collect::<io::Result<String>>()?;
    if result.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(Ok(()));
    }
    for step in steps() {
        match step {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Ok(Err(printed(&output))),
            Err(error) => return Ok(Err(format!("python3 or npm cannot be started: {error}"))),
        }
    }
    fs::write(stamp, wanted)?;
    Ok(Ok(()))
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
