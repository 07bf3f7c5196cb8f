//! Sealing with `cleanroom-authority seal`, and encrypting with `age`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

use crate::Outcome;

/// The key of the run.
pub(crate) const KEY: [u8; 32] = [0x5a; 32];

/// Writes a file of random bytes. Each mebibyte is drawn anew.
pub(crate) fn random_file(path: &Path, bytes: u64) -> Outcome<()> {
    let random = SystemRandom::new();
    let mut file = File::create(path)?;
    let mut piece = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        random.fill(&mut piece)?;
        let count = left.min(1 << 20);
        file.write_all(&piece[..usize::try_from(count)?])?;
        left -= count;
    }
    Ok(())
}

/// Seals the file, and gives the sealed one.
pub(crate) fn once(authority: &Path, plain: &Path, folder: &Path) -> Outcome<PathBuf> {
    let key = folder.join("key");
    if !key.exists() {
        let digits: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut options = File::options();
        writeln!(options.write(true).create_new(true).mode(0o600).open(&key)?, "{digits}")?;
    }
    let sealed = folder.join("weights.sealed");
    let _ = fs::remove_file(&sealed);
    let done = Command::new(authority)
        .arg("seal")
        .arg(plain)
        .arg("--key")
        .arg(&key)
        .arg("--out")
        .arg(&sealed)
        .stdout(Stdio::null())
        .status()?;
    if done.success() { Ok(sealed) } else { Err("cleanroom-authority seal failed".into()) }
}

/// Seconds that sealing takes.
pub(crate) fn timed_seal(authority: &Path, plain: &Path, folder: &Path) -> Outcome<f64> {
    let begun = Instant::now();
    let sealed = once(authority, plain, folder)?;
    let took = begun.elapsed().as_secs_f64();
    fs::remove_file(sealed)?;
    Ok(took)
}

/// Seconds that `age` takes, to one recipient.
pub(crate) fn timed_age(plain: &Path, folder: &Path) -> Outcome<f64> {
    let identity = folder.join("age-identity");
    if !identity.exists() {
        let made = Command::new("age-keygen").arg("-o").arg(&identity).stderr(Stdio::null()).status();
        let made = made.map_err(|_| "age is not installed: apt-get install age")?;
        if !made.success() {
            return Err("age-keygen failed".into());
        }
    }
    let recipient = Command::new("age-keygen").arg("-y").arg(&identity).output()?;
    let out = folder.join("weights.age");
    let begun = Instant::now();
    let done = Command::new("age")
        .arg("-r")
        .arg(String::from_utf8(recipient.stdout)?.trim())
        .arg("-o")
        .arg(&out)
        .arg(plain)
        .status()?;
    let took = begun.elapsed().as_secs_f64();
    fs::remove_file(out)?;
    if done.success() { Ok(took) } else { Err("age failed".into()) }
}
