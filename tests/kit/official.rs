//! Runs the client packages of `tests/clients`, unmodified, as their users would: in an environment of their own.
//!
//! The official packages need a URL. The packages `cleanroom` for Python and Node need an address and the partner's
//! files. They are built and installed beside the official ones, into an environment that is made anew for each build.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use cleanroom_attestation::digest::Sha256Digest;

use crate::clean_room::repository;

/// How a suite went.
#[derive(Debug)]
pub enum Outcome {
    /// Every case passed; what the suite printed.
    Passed(String),
    /// A case failed; what the suite printed.
    Failed(String),
    /// There is no Python or Node with which to run it.
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
    /// What only the Python package `cleanroom` has: proofs, receipts, its own exceptions
    Cleanroom,
    /// The Python package `cleanroom` through a real HTTP proxy
    HttpProxy,
    /// Both, at a proxy that asks for its token, and at its Unix socket
    Listen,
    /// `openai`, with many streams at once for as long as standard input is open
    Streams,
    /// The Python package `cleanroom` against hosts that lie
    HostileHost,
    /// The Python examples of the pages
    Documentation,
    /// The official packages for Node, with the cases of this file
    Node(&'static str),
    /// What only the Node package `cleanroom` has: proofs, receipts, its own exceptions, ends of generations
    NodeCleanroom,
    /// The Node package `cleanroom` against hosts that lie
    NodeHostileHost,
    /// The JavaScript examples of the pages
    NodeDocumentation,
    /// The declarations of the Node package for TypeScript
    NodeTypes,
}

/// How a suite reaches the API.
#[derive(Debug, Clone)]
pub enum Way {
    /// At this base URL (with `/v1`).
    Url(String),
    /// In process, with the package `cleanroom`.
    InProcess(Partner),
}

/// What a partner's program needs: where the host is, and the partner's files.
#[derive(Debug, Clone)]
pub struct Partner {
    /// `HOST:PORT` or `unix:PATH`.
    pub address: String,
    /// The policy's file.
    pub policy: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl From<String> for Way {
    fn from(base_url: String) -> Self {
        Self::Url(base_url)
    }
}

impl From<&str> for Way {
    fn from(base_url: &str) -> Self {
        Self::Url(base_url.to_owned())
    }
}

impl From<Partner> for Way {
    fn from(partner: Partner) -> Self {
        Self::InProcess(partner)
    }
}

impl Way {
    /// Tells a suite of this way.
    fn tell(&self, suite: &mut Command) {
        match self {
            Self::Url(url) => suite.env("CLEANROOM_BASE_URL", url),
            Self::InProcess(Partner { address, policy, key }) => {
                let files = [("CLEANROOM_POLICY", policy), ("CLEANROOM_KEY", key)];
                suite.envs(files).env("CLEANROOM_ADDRESS", address)
            }
        };
    }
}

/// Runs the suite of a package against the API that `way` leads to. Blocks for some seconds; the first
/// time also for as long as the package index takes.
///
/// # Errors
/// When files cannot be written or processes not started for other reasons than a missing Python or Node.
pub fn run(package: Package, way: impl Into<Way>) -> io::Result<Outcome> {
    run_with(package, way, &[])
}

/// The same with further environment variables.
///
/// # Errors
/// As [`run`].
pub fn run_with(package: Package, way: impl Into<Way>, variables: &[(&str, &str)]) -> io::Result<Outcome> {
    let mut suite = match command(package, way)? {
        Ok(suite) => suite,
        Err(reason) => return Ok(Outcome::Unavailable(reason)),
    };
    let output = suite.envs(variables.iter().copied()).stdin(Stdio::null()).output()?;
    let printed = printed(&output);
    Ok(if output.status.success() { Outcome::Passed(printed) } else { Outcome::Failed(printed) })
}

/// The command that runs the suite of a package, or why there is none. Blocks as [`run`] does the first time.
///
/// # Errors
/// When files cannot be written or processes not started for other reasons than a missing Python or Node.
pub fn command(package: Package, way: impl Into<Way>) -> io::Result<Result<Command, String>> {
    let way = way.into();
    let suite = match package {
        Package::OpenAi => python("requirements.txt", "openai_suite.py", &way),
        Package::OpenAiEmbeddings => python("requirements.txt", "embeddings_suite.py", &way),
        Package::Anthropic => python("requirements.txt", "anthropic_suite.py", &way),
        Package::Tools => python("requirements.txt", "tools_suite.py", &way),
        Package::Frameworks => python("frameworks.txt", "frameworks_suite.py", &way),
        Package::Cleanroom => python("requirements.txt", "cleanroom_suite.py", &way),
        Package::HostileHost => python("requirements.txt", "hostile_host_suite.py", &way),
        Package::Documentation => python("requirements.txt", "documentation_suite.py", &way),
        Package::HttpProxy => python("requirements.txt", "http_proxy_suite.py", &way),
        Package::Listen => python("requirements.txt", "listen_suite.py", &way),
        Package::Streams => python("requirements.txt", "streams_suite.py", &way),
        Package::Vercel => node(&["vercel_suite.mjs"], &way),
        Package::Node(cases) => node(&["clients_suite.mjs", cases], &way),
        Package::NodeCleanroom => node(&["cleanroom_suite.mjs"], &way),
        Package::NodeHostileHost => node(&["hostile_host_suite.mjs"], &way),
        Package::NodeDocumentation => node(&["documentation_suite.mjs"], &way),
        Package::NodeTypes => node(&["types_suite.mjs"], &way),
    }?;
    Ok(suite.map(|mut suite| {
        way.tell(&mut suite);
        // A proxy that the surroundings configure is none of this conversation's business.
        for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            suite.env_remove(variable);
        }
        suite
    }))
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

/// The command that runs `suite` with what `requirements` lists, which is all that is needed, and the wheel if the way
/// needs it.
fn python(requirements: &str, suite: &str, way: &Way) -> io::Result<Result<Command, String>> {
    let clients = repository().join("tests/clients");
    let requirements = clients.join(requirements);
    let mut name = requirements.file_stem().unwrap_or_default().to_owned();
    let mut wheels = Vec::new();
    if matches!(way, Way::InProcess(_)) {
        name.push("-and-wheel");
        match wheel()? {
            Ok(wheel) => wheels.push(wheel),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    let folder = repository().join("target/python").join(name);
    let python = folder.join("venv/bin/python");
    let mut inputs = vec![requirements.as_path()];
    inputs.extend(wheels.iter().map(PathBuf::as_path));
    let made = environment(&folder, &python, &inputs, || {
        vec![
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")).output(),
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
                .args(["--only-binary", ":all:", "--no-deps", "--requirement"])
                .arg(&requirements)
                .args(&wheels)
                .output(),
        ]
    })?;
    Ok(made.map(|()| {
        let mut command = Command::new(python);
        command.arg("-B").arg(clients.join(suite));
        command
    }))
}

/// The wheel of this source, as `scripts/python` builds it.
fn wheel() -> io::Result<Result<PathBuf, String>> {
    built("python", "target/python/wheel")
}

/// The package for Node, as `scripts/node` builds it.
fn packed() -> io::Result<Result<PathBuf, String>> {
    built("node", "target/node/package")
}

/// What a script builds into a folder, and names in its last line. Each process builds it once: who installs it must not find
/// that it is being written again.
fn built(script: &'static str, folder: &str) -> io::Result<Result<PathBuf, String>> {
    static BUILT: Mutex<BTreeMap<&str, Result<PathBuf, String>>> = Mutex::new(BTreeMap::new());
    let mut known = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = known.get(script) {
        return Ok(known.clone());
    }
    let folder = repository().join(folder);
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    let built =
        Command::new(repository().join("scripts").join(script)).arg("--debug").arg(&folder).output()?;
    let found = if built.status.code() == Some(3) {
        Err(printed(&built))
    } else {
        // A package that does not build is no reason to leave its tests out.
        assert!(built.status.success(), "scripts/{script}: {}", printed(&built));
        Ok(PathBuf::from(String::from_utf8_lossy(&built.stdout).trim()))
    };
    known.insert(script, found.clone());
    Ok(found)
}

/// The command that runs a suite in `tests/clients/node`, with what `package-lock.json` pins there, and the package
/// `cleanroom` if the way needs it.
fn node(suite: &[&str], way: &Way) -> io::Result<Result<Command, String>> {
    let clients = repository().join("tests/clients").canonicalize()?;
    let source = clients.join("node");
    let mut name = String::from("official");
    let mut packages = Vec::new();
    if matches!(way, Way::InProcess(_)) {
        name.push_str("-and-package");
        match packed()? {
            Ok(package) => packages.push(package),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    let folder = repository().join("target/node").join(name);
    let manifest = [source.join("package.json"), source.join("package-lock.json")];
    let mut inputs = vec![manifest[0].as_path(), manifest[1].as_path()];
    inputs.extend(packages.iter().map(PathBuf::as_path));
    let npm = |arguments: &[&str]| {
        let mut npm = Command::new("npm");
        npm.args(arguments)
            .args(["--ignore-scripts", "--no-audit", "--no-fund", "--silent"])
            .current_dir(&folder);
        npm
    };
    let made = environment(&folder, &folder.join("node_modules"), &inputs, || {
        let mut steps = vec![Command::new("cp").args(&manifest).arg(&folder).output(), npm(&["ci"]).output()];
        if !packages.is_empty() {
            steps.push(npm(&["install", "--no-save", "--offline"]).args(&packages).output());
        }
        // Node looks for packages beside the script and above; the suites stay where they are.
        let suites = folder.join("suites");
        let _ = fs::remove_file(&suites);
        steps.push(Command::new("ln").arg("-s").arg(&clients).arg(&suites).output());
        steps
    })?;
    Ok(made.map(|()| {
        let mut command = Command::new("node");
        command.args(["--preserve-symlinks", "--preserve-symlinks-main"]);
        let (script, arguments) = suite.split_at(1);
        command.args(script.iter().map(|script| folder.join("suites/node").join(script))).args(arguments);
        command
    }))
}

/// Makes `folder`, which has `result` in the end, with `steps`, unless it was made of the same `inputs` before.
fn environment(
    folder: &Path,
    result: &Path,
    inputs: &[&Path],
    steps: impl FnOnce() -> Vec<io::Result<Output>>,
) -> io::Result<Result<(), String>> {
    fs::create_dir_all(folder)?;
    // One at a time, among threads and processes alike.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    let stamp = folder.join("installed.txt");
    let wanted = inputs.iter().map(fs::read).collect::<io::Result<Vec<Vec<u8>>>>()?;
    let wanted: Vec<&[u8]> = wanted.iter().map(Vec::as_slice).collect();
    let wanted = Sha256Digest::of(&wanted).to_string();
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
