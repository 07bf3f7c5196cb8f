//! The project's own programs as processes, as their users start them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use crate::clean_room::repository;

/// The folder of the programs, built if they are not there or out of date.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // A test runs from target/PROFILE/deps, an example from target/PROFILE/examples.
        let test = std::env::current_exe().expect("a test knows its own path");
        let folder = test.ancestors().nth(2).expect("a test lies in the target folder").to_owned();
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(repository());
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo can be started").success(), "the programs cannot be built");
        folder
    })
}

/// A command that runs one of the project's programs in `folder`.
#[must_use]
pub fn program(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(programs().join(name));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// The file of one of the project's programs.
#[must_use]
pub fn file(name: &str) -> PathBuf {
    programs().join(name)
}

/// Where a program of others is. Debian puts some where only root looks.
///
/// Gives nothing when it is not installed, and says so. In continuous integration that fails the test.
#[must_use]
pub fn installed(name: &str, advice: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()));
    if found.is_none() {
        left_out(&format!("{name} is missing; get it with: {advice}"));
    }
    found
}

/// Says that a test is left out, and why. In continuous integration that fails it.
pub fn left_out(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
}

/// Runs a program to its end.
#[must_use]
pub fn output(name: &str, folder: &Path, arguments: &[&str]) -> Output {
    program(name, folder).args(arguments).output().expect("the program can be started")
}

/// What a program printed, when it has to succeed.
#[must_use]
pub fn succeed(name: &str, folder: &Path, arguments: &[&str]) -> String {
    let output = output(name, folder, arguments);
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("programs print UTF-8")
}

/// The process that `process` started, if there is exactly one.
#[must_use]
pub fn only_child_of(process: u32) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let children = tasks.flat_map(|task| {
        let children = task.and_then(|task| std::fs::read_to_string(task.path().join("children")));
        children.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let children: Vec<String> = children.collect();
    match children.as_slice() {
        [child] => child.parse().ok(),
        _ => None,
    }
}

/// A program that runs until it is dropped, and its standard output line by line.
pub struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    /// Starts a program in `folder`; standard error goes to the test's.
    #[must_use]
    pub fn start(name: &str, folder: &Path, arguments: &[&str]) -> Self {
        let child = program(name, folder).args(arguments).stdout(Stdio::piped()).spawn();
        Self::of(child.expect("the program can be started"))
    }

    /// A program that was started with a pipe as its standard output.
    #[must_use]
    pub fn of(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        Self { child, lines }
    }

    /// Reads on until a line contains `marker`; gives what follows it on that line.
    pub fn wait_for(&mut self, marker: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.expect("programs print UTF-8");
            if let Some((_, rest)) = line.split_once(marker) {
                return rest.trim().to_owned();
            }
        }
        panic!("the program ended before it printed {marker:?}");
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process that this one started, and the only one.
    #[must_use]
    pub fn only_child(&self) -> u32 {
        only_child_of(self.id()).expect("one child")
    }

    /// Asks the program to stop in order, and waits until it has.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        let id = i32::try_from(self.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a process has an id");
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        self.child.wait().expect("a child can be waited for")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
