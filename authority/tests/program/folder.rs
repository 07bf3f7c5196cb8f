//! A folder in which an authority works, and the program in it: arguments in, output and exit status out.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Far enough away for tests, near enough to be a date.
pub(crate) const EXPIRES: &str = "2090-01-01T00:00:00Z";
pub(crate) const ROOM: &str = "grid-forecast";

/// A folder in which an authority works.
pub(crate) struct Folder {
    temporary: TempDir,
}

/// What a run printed, and how it ended.
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { temporary: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// The program with the arguments of `line`, split at spaces, in this folder.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cleanroom-authority"));
        command.args(line.split_whitespace()).current_dir(self.temporary.path()).env_remove("CLEANROOM_ROOT");
        command
    }

    pub(crate) fn run(&self, line: &str) -> Run {
        Run::of(self.command(line).output().unwrap())
    }

    /// Runs and expects success.
    pub(crate) fn ok(&self, line: &str) -> String {
        let run = self.run(line);
        assert_eq!(run.status, 0, "{line}\n{}{}", run.stdout, run.stderr);
        run.stdout
    }

    /// Runs with `--json` and expects success.
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} --json"))).unwrap()
    }

    /// Runs with `--json` and expects exit status 1; the error's code.
    pub(crate) fn refused(&self, line: &str) -> String {
        let run = self.run(&format!("{line} --json"));
        assert_eq!(run.status, 1, "{line}\n{}{}", run.stdout, run.stderr);
        let json: Value = serde_json::from_str(&run.stdout).unwrap();
        assert!(!run.stderr.is_empty());
        json["error"]["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, contents: &[u8]) {
        std::fs::write(self.path(name), contents).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Two keys for each of three authorities; `c` uses P-384.
    pub(crate) fn keys(&self) {
        for name in ["a", "b", "c"] {
            let algorithm = if name == "c" { "p384" } else { "ed25519" };
            self.ok(&format!("key new {name}.pem --algorithm {algorithm}"));
            self.ok(&format!("key new {name}-online.pem"));
        }
    }

    /// A root that two of three signed, in `root.json`.
    pub(crate) fn root(&self) {
        self.keys();
        let parties =
            ["a", "b", "c"].map(|name| format!("--authority {name}={name}.pem.pub,{name}-online.pem.pub"));
        // One lease service is enough, so that a test can look at it alone.
        let line =
            format!("root new --room {ROOM} --expires {EXPIRES} --lease-threshold 1 {}", parties.join(" "));
        self.ok(&line);
        self.ok("root sign root.draft.json --key a.pem");
        self.ok("root sign root.json --key c.pem");
    }

    /// The arguments of a first release with a model and a partner.
    pub(crate) fn first_release() -> String {
        let (pcr, digest) = ("ab".repeat(48), "cd".repeat(32));
        format!(
            "release draft --root root.json --expires {EXPIRES} --image v1={pcr},{pcr},{pcr} --model m={digest} \
             --partner p={digest} --grant p=m --lease-seconds 60"
        )
    }

    /// Root and release 1, in `root.json` and `release.json`, and a folder for denials.
    pub(crate) fn released(&self) {
        self.root();
        self.ok(&Self::first_release());
        for (document, key) in [("release.draft.json", "b.pem"), ("release.json", "c.pem")] {
            self.ok(&format!("release sign {document} --root root.json --key {key}"));
        }
        std::fs::create_dir(self.path("denials")).unwrap();
    }
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The repository's `target` folder.
pub(crate) fn target_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}
