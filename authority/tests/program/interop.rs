//! The outside check: `securesystemslib` (`PyPI`), the reference implementation of DSSE behind `python-tuf`
//! and `in-toto`, verifies our envelopes, and we accept what it signs.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::folder::{Folder, Run, target_folder};

/// A Python that has the packages, in `target/interop-python`; or why there is none.
pub(crate) fn python() -> Result<PathBuf, String> {
    python_with("interop", &["securesystemslib==1.6.0", "cryptography>=50,<51", "jsonschema>=4,<5"])
}

/// A Python that has these packages of `PyPI`, in `target/NAME-python`; or why there is none.
pub(crate) fn python_with(name: &str, wanted: &[&str]) -> Result<PathBuf, String> {
    let packages = target_folder().join(format!("{name}-python"));
    let python = packages.join("bin/python");
    let ready = packages.join("ready");
    let list = wanted.join("\n");
    // Two tests want one, and one makes it.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if std::fs::read_to_string(&ready).is_ok_and(|made| made == list) {
        return Ok(python);
    }
    let run = |command: &mut Command| -> Result<(), String> {
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {error}")) }
    };
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&packages))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(wanted))?;
    std::fs::write(&ready, list).map_err(|error| error.to_string())?;
    Ok(python)
}

#[test]
fn securesystemslib_and_we_verify_each_other() {
    let python = match python() {
        Ok(python) => python,
        Err(problem) => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "securesystemslib is needed in CI: {problem}"
            );
            println!("NOT CHECKED: securesystemslib could not be installed: {problem}");
            return;
        }
    };
    let folder = Folder::new();
    folder.released();
    folder.ok("halt m --root root.json --release release.json --key c.pem --reason r --out denial.json");

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop.py");
    let run = Run::of(Command::new(python).arg(script).arg(folder.path("")).output().unwrap());
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
    for line in ["verified root: 2 keys", "verified release: 2 keys", "verified denial: 1 keys"] {
        assert!(run.stdout.contains(line), "{line}\n{}", run.stdout);
    }
    let verified = folder.json("release verify their.json --root root.json");
    assert_eq!(verified["progress"]["signed"], serde_json::json!(["a-offline", "c-offline"]));
}
