//! Processes that an earlier life of this host left behind.
//!
//! A host ends what it started. One that is killed cannot. So it writes down each process that it starts, in the
//! file `processes` of its state folder, and ends what is still there of them before it starts another enclave.
//!
//! A process id can belong to another process later. Only together with the boot of the machine and the time at
//! which the process started it is this process's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep};

use super::LaunchError;

const FILE: &str = "processes";
/// The most bytes of the file that are read. A line has less than 100, and a start of an enclave writes at most two.
const FILE_LIMIT: u64 = 64 * 1024;
/// How long a process may take to end once it was killed.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

/// A process that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    id: Pid,
    /// Clock ticks between the machine's boot and the start of the process (`proc_pid_stat(5)`, field 22).
    started: u64,
    /// The boot (`/proc/sys/kernel/random/boot_id`).
    boot: String,
    /// What it is.
    what: String,
}

/// Writes down that the process `id` runs, as `what`. A process that has ended needs no record.
///
/// Nothing fails when that cannot be written: a full disk does not keep an enclave from starting.
pub(super) fn remember(folder: &Path, what: &str, id: Option<u32>) {
    let Some(id) = id.and_then(|id| Pid::from_raw(id.cast_signed())) else { return };
    let Some(started) = start_of(id) else { return };
    let write = || {
        let boot = boot()?;
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(FILE))?;
        writeln!(file, "{} {started} {boot} {what}", id.as_raw_nonzero())
    };
    if let Err(error) = write() {
        tracing::warn!(error = %error.kind(), "the {what} could not be written down; were this host killed, it could stay");
    }
}

/// Ends every process that is written down and still there, and forgets them all.
pub(super) async fn end(folder: &Path) -> Result<(), LaunchError> {
    let path = folder.join(FILE);
    let failed = |source| LaunchError::State { path: path.clone(), source };
    let mut text = String::new();
    match File::open(&path) {
        Ok(file) => file.take(FILE_LIMIT).read_to_string(&mut text).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(source)),
    };
    let boot = boot().map_err(failed)?;
    for record in text.lines().filter_map(Record::parse).filter(|record| record.boot == boot) {
        record.end().await?;
    }
    fs::remove_file(&path).map_err(failed)
}

impl Record {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let id = Pid::from_raw(words.next()?.parse().ok().filter(|id| *id > 0)?)?;
        let started = words.next()?.parse().ok()?;
        Some(Self { id, started, boot: words.next()?.to_owned(), what: words.next()?.to_owned() })
    }

    fn is_there(&self) -> bool {
        start_of(self.id) == Some(self.started)
    }

    async fn end(&self) -> Result<(), LaunchError> {
        let Self { id, what, .. } = self;
        let id = id.as_raw_nonzero().get();
        // Whatever has the id now is held first and looked at then, so that no other process can be hit.
        let Ok(process) = pidfd_open(self.id, PidfdFlags::empty()) else { return Ok(()) };
        if !self.is_there() {
            return Ok(());
        }
        tracing::warn!(
            process = id,
            "the {what} of an earlier life of this host is still there and is ended"
        );
        // It leads a group of its own, in which the processes are that it started.
        let _ = kill_process_group(self.id, Signal::KILL);
        let _ = pidfd_send_signal(&process, Signal::KILL);
        let begun = Instant::now();
        while self.is_there() {
            if begun.elapsed() >= PATIENCE {
                return Err(LaunchError::Leftover { what: what.clone(), id });
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

/// When the process started; nothing if there is none, or if it has ended and nobody has asked how.
fn start_of(id: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).ok()?;
    // The second field is the program's name, in brackets, and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The boot of this machine.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that waits for a line, and its folder with no record yet.
    fn process() -> (Child, tempfile::TempDir) {
        let child =
            Command::new("sh").args(["-c", "read line"]).stdin(Stdio::piped()).process_group(0).spawn();
        (child.unwrap(), tempfile::tempdir().unwrap())
    }

    fn runs(child: &mut Child) -> bool {
        child.try_wait().unwrap().is_none()
    }

    #[tokio::test]
    async fn what_was_written_down_and_still_runs_is_ended_once() {
        let (mut child, folder) = process();
        remember(folder.path(), "enclave", Some(child.id()));
        end(folder.path()).await.unwrap();
        assert!(!runs(&mut child));
        assert!(!folder.path().join(FILE).exists());
        end(folder.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_only_has_the_same_id_is_left_alone() {
        let (mut child, folder) = process();
        let id = Pid::from_child(&child);
        let (started, boot) = (start_of(id).unwrap(), boot().unwrap());
        let id = child.id();
        for line in [
            format!("{id} {} {boot} enclave", started - 1),
            format!("{id} {started} another-boot enclave"),
            format!("-{id} {started} {boot} enclave"),
            format!("{id} {started} {boot}"),
            format!("{id} {started}"),
            String::new(),
        ] {
            fs::write(folder.path().join(FILE), line).unwrap();
            end(folder.path()).await.unwrap();
            assert!(runs(&mut child));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
