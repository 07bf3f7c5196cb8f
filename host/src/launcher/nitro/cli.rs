//! AWS's `nitro-cli`: its arguments, its JSON, its errors.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command as BlockingCommand, Stdio};
use std::time::Duration;

use cleanroom_attestation::digest::Sha384Digest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;
use tokio::time::timeout;

/// How long nitro-cli may take to describe enclaves or to terminate one. Its start of an enclave is bounded
/// by the supervisor.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program, wherever it is.
#[derive(Debug, Clone)]
pub struct NitroCli {
    program: PathBuf,
}

/// What to start.
pub(super) struct RunRequest<'a> {
    pub(super) image: &'a Path,
    pub(super) name: &'a str,
    pub(super) cid: u32,
    pub(super) memory_mib: u32,
    pub(super) processors: u32,
}

/// An enclave that was started (the answer to `run-enclave`).
#[derive(Deserialize)]
struct Started {
    #[serde(rename = "EnclaveID")]
    id: String,
    #[serde(rename = "EnclaveCID")]
    cid: u64,
}

/// An enclave of this instance (an element of the answer to `describe-enclaves`).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Described {
    #[serde(rename = "EnclaveID")]
    pub(super) id: String,
    /// The name that it was started under; older versions of nitro-cli do not tell it.
    #[serde(rename = "EnclaveName", default)]
    pub(super) name: String,
    #[serde(rename = "EnclaveCID")]
    pub(super) cid: u64,
    #[serde(rename = "Flags")]
    pub(super) flags: String,
    #[serde(rename = "Measurements", default)]
    pub(super) measurements: DescribedMeasurements,
}

/// PCRs as nitro-cli computed them from the file; hexadecimal.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE", default)]
pub(super) struct DescribedMeasurements {
    pub(super) pcr0: String,
    pub(super) pcr1: String,
    pub(super) pcr2: String,
}

impl NitroCli {
    /// The program at `path`, or found in the search path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { program: path.to_owned() }
    }

    /// Starts an enclave, not in debug mode and with its console off, and gives its id. If this is dropped
    /// before its end, nitro-cli is ended, and an enclave of that name is terminated.
    pub(super) async fn run(&self, request: &RunRequest<'_>) -> Result<String, NitroError> {
        let mut command = self.command("run-enclave");
        command.arg("--eif-path").arg(request.image).arg("--enclave-name").arg(request.name);
        for (name, value) in [
            ("--enclave-cid", request.cid),
            ("--memory", request.memory_mib),
            ("--cpu-count", request.processors),
        ] {
            command.arg(name).arg(value.to_string());
        }
        let attempt = Attempt { cli: self, name: Some(request.name) };
        let started = self.ask::<Started>("run-enclave", command).await;
        attempt.came_to_its_end();
        let started = started?;
        if started.cid == u64::from(request.cid) {
            return Ok(started.id);
        }
        self.terminate_in_background(&started.id);
        Err(NitroError::ContextId { expected: request.cid, actual: started.cid })
    }

    /// The enclaves of this instance.
    pub(super) async fn describe(&self) -> Result<Vec<Described>, NitroError> {
        self.ask_soon("describe-enclaves", self.command("describe-enclaves")).await
    }

    /// Ends an enclave and waits for it.
    pub(super) async fn terminate(&self, id: &str) -> Result<(), NitroError> {
        let mut command = self.command("terminate-enclave");
        command.args(["--enclave-id", id]);
        self.ask_soon::<serde::de::IgnoredAny>("terminate-enclave", command).await.map(drop)
    }

    /// Begins to end an enclave and does not wait for it. Works at the end of the program, too.
    pub(super) fn terminate_in_background(&self, id: &str) {
        self.terminate_by("--enclave-id", id);
    }

    fn terminate_by(&self, option: &str, enclave: &str) {
        let ended = BlockingCommand::new(&self.program)
            .args(["terminate-enclave", option, enclave])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match ended {
            // Somebody has to wait for it. Otherwise it stays in the table of processes until this program ends.
            Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
            Err(error) => tracing::warn!(%error, enclave, "the enclave could not be terminated"),
        }
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(subcommand).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn ask_soon<Answer: DeserializeOwned>(
        &self,
        subcommand: &'static str,
        command: Command,
    ) -> Result<Answer, NitroError> {
        let silent = NitroError::Silent { subcommand, seconds: PATIENCE.as_secs() };
        timeout(PATIENCE, self.ask(subcommand, command)).await.unwrap_or(Err(silent))
    }

    async fn ask<Answer: DeserializeOwned>(
        &self,
        subcommand: &'static str,
        mut command: Command,
    ) -> Result<Answer, NitroError> {
        let start = |source| NitroError::Start { program: self.program.clone(), source };
        let output = command.output().await.map_err(start)?;
        if !output.status.success() {
            return Err(NitroError::refused(subcommand, &output.stderr));
        }
        serde_json::from_slice(&output.stdout).map_err(|_| NitroError::Answer { subcommand })
    }
}

/// A start that is under way. nitro-cli starts an enclave in a process of its own, which outlives it.
struct Attempt<'a> {
    cli: &'a NitroCli,
    /// The enclave's name, until nitro-cli has answered.
    name: Option<&'a str>,
}

impl Attempt<'_> {
    fn came_to_its_end(mut self) {
        self.name = None;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name {
            self.cli.terminate_by("--enclave-name", name);
        }
    }
}

/// Why there is no enclave, or another one than was wanted.
#[derive(Debug, thiserror::Error)]
pub enum NitroError {
    /// The program could not be started.
    #[error("could not run `{}`: {source}; on Amazon Linux: dnf install aws-nitro-enclaves-cli", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program refused.
    #[error("nitro-cli {subcommand} failed: {said}{}", Advice::after(code.as_deref()))]
    Refused {
        /// What was asked.
        subcommand: &'static str,
        /// AWS's code, like `E27`.
        code: Option<String>,
        /// What it said, in a line.
        said: String,
    },
    /// The program did not answer in time.
    #[error(
        "nitro-cli {subcommand} did not answer within {seconds} s; see whether its service works: \
         systemctl status nitro-enclaves-allocator, and the files in /var/log/nitro_enclaves"
    )]
    Silent {
        /// What was asked.
        subcommand: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Another enclave has the context id.
    #[error(
        "the context id {cid} belongs to another enclave, `{name}` ({id}); choose another with --cid, or end it: nitro-cli \
         terminate-enclave --enclave-id {id}"
    )]
    ContextIdTaken {
        /// The context id.
        cid: u32,
        /// The other enclave's name.
        name: String,
        /// The other enclave's id.
        id: String,
    },
    /// The program's answer is not what AWS documents.
    #[error(
        "expected the documented JSON from nitro-cli {subcommand}, got something else; is it a current version?"
    )]
    Answer {
        /// What was asked.
        subcommand: &'static str,
    },
    /// The enclave has another context id.
    #[error("asked for an enclave with context id {expected}, got {actual}; the host terminated the enclave")]
    ContextId {
        /// As asked.
        expected: u32,
        /// As started.
        actual: u64,
    },
    /// The enclave ended at once.
    #[error(
        "the enclave ended right after its start; most often it was given too little memory (four times the image, and the model \
         twice), or its image is for another processor"
    )]
    Gone,
    /// The enclave has flags, `DEBUG_MODE` for instance, whose documents no partner accepts.
    #[error(
        "expected an enclave without flags, nitro-cli reports {actual:?}; the host terminated the enclave"
    )]
    Flags {
        /// Its flags.
        actual: String,
    },
    /// The enclave is another image's.
    #[error(
        "expected PCR {index} to be {expected}, nitro-cli says {actual:?}: the image file was replaced; the enclave was terminated"
    )]
    Register {
        /// Which register.
        index: u8,
        /// The image's.
        expected: Sha384Digest,
        /// The enclave's.
        actual: String,
    },
}

/// The most of what nitro-cli says that is repeated, characters.
const SAID_MAX: usize = 400;

impl NitroError {
    /// Whether trying again is of no use.
    pub(in crate::launcher) fn is_lasting(&self) -> bool {
        match self {
            Self::Silent { .. } | Self::Gone => false,
            // Sockets, the driver and nitro-cli's own processes, which may be in order a moment later.
            Self::Refused { code: Some(code), .. } => {
                let number = code.trim_start_matches('E').parse().unwrap_or(0);
                !matches!(number, 4..=6 | 8..=13 | 15 | 16 | 28..=30 | 33 | 36..=47 | 53 | 54 | 55_u8)
            }
            _ => true,
        }
    }

    /// The error without names of files.
    pub(in crate::launcher) fn summary(&self) -> String {
        match self {
            Self::Start { source, .. } => format!("could not run nitro-cli: {}", source.kind()),
            Self::Refused { subcommand, code, .. } => {
                let code = code.as_deref().unwrap_or("without a code");
                format!("nitro-cli {subcommand} failed ({code})")
            }
            other => other.to_string(),
        }
    }

    fn refused(subcommand: &'static str, stderr: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stderr);
        let code = code(&text);
        let words = text.split(|character: char| character.is_control() || character.is_whitespace());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let said = words.join(" ").chars().take(SAID_MAX).collect();
        Self::Refused { subcommand, code, said }
    }
}

/// The code that nitro-cli puts before an error, as in `[ E27 ] Insufficient memory available.`
fn code(text: &str) -> Option<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    let mut codes = words.filter(|word| {
        word.len() == 3 && word.starts_with('E') && word.bytes().skip(1).all(|byte| byte.is_ascii_digit())
    });
    codes.next().map(str::to_owned)
}

/// What an operator can do about nitro-cli's errors.
pub struct Advice;

impl Advice {
    /// The advice for a code of AWS's list ("Nitro Enclaves CLI error codes"), if there is any.
    #[must_use]
    pub fn of(code: &str) -> Option<&'static str> {
        Some(match code {
            "E04" | "E05" | "E06" | "E12" | "E13" | "E15" | "E16" => {
                "the instance is short of memory, threads or descriptors for nitro-cli itself: look at free and ulimit -a; if that \
                 is not it, restart the instance"
            }
            "E07" | "E40" => {
                "the folder /run/nitro_enclaves has to be there and readable for the user of nitro-cli: systemctl status \
                 nitro-enclaves-allocator, and see that you are in the group `ne`"
            }
            "E08" | "E38" | "E41" => {
                "an enclave ended while nitro-cli asked for it: nitro-cli describe-enclaves shows what is left; the files in \
                 /var/log/nitro_enclaves say why"
            }
            "E11" => {
                "its context id may belong to another enclave (nitro-cli describe-enclaves; choose another with --cid), or its \
                 signing certificate may have ended"
            }
            "E18" | "E56" => {
                "the user of nitro-cli has to be able to write /var/log/nitro_enclaves: see that you are in the group `ne`"
            }
            "E19" => "the image is not there for the user of nitro-cli, or not readable by it",
            "E34" => {
                "ask for less with --memory, or for another instance: the image lies beyond what the platform can address"
            }
            "E58" => "nitro-cli could not give the enclave its name: is it a current version?",
            "E20" | "E21" | "E22" | "E24" | "E32" => {
                "set aside more processors: raise cpu_count in /etc/nitro_enclaves/allocator.yaml, then \
                 systemctl restart nitro-enclaves-allocator; or ask for fewer with --processors (an even number)"
            }
            "E26" => {
                "the image does not fit: ask for more with --memory (at least four times the image's size)"
            }
            "E25" | "E27" | "E31" | "E42" => {
                "set aside more memory: raise memory_mib in /etc/nitro_enclaves/allocator.yaml, then \
                 systemctl restart nitro-enclaves-allocator; if that fails, memory is in pieces: restart the instance"
            }
            "E28" | "E29" | "E30" | "E33" => {
                "the instance may not run enclaves: start it with --enclave-options Enabled=true, and see that \
                 /dev/nitro_enclaves is there and that you are in the group `ne`"
            }
            "E35" => {
                "the image file is damaged (compare it with its build summary, build it again), or the huge pages that were set aside \
                 are not free: cat /proc/meminfo"
            }
            "E36" | "E37" | "E39" => {
                "the enclave did not come up: its signing certificate may have ended, its memory may be too little, or its context id \
                 may be taken (nitro-cli describe-enclaves)"
            }
            _ => return None,
        })
    }

    fn after(code: Option<&str>) -> String {
        code.and_then(Self::of).map(|advice| format!("; what to do: {advice}")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_may_pass_are_tried_again_and_those_that_an_operator_can_mend_say_how() {
        let refused = |code: &str| NitroError::refused("run-enclave", format!("[ {code} ] words").as_bytes());
        for code in ["E04", "E05", "E06", "E12", "E15", "E29", "E36", "E39", "E41"] {
            assert!(!refused(code).is_lasting(), "{code}");
        }
        for code in ["E01", "E07", "E14", "E19", "E22", "E26", "E27", "E34", "E35", "E56", "E58"] {
            assert!(refused(code).is_lasting(), "{code}");
        }
        for code in
            ["E04", "E07", "E08", "E11", "E18", "E19", "E22", "E27", "E30", "E34", "E35", "E39", "E42", "E56"]
        {
            assert!(refused(code).to_string().contains("; what to do: "), "{code}");
        }
        // What this host never asks for, such as building an image, and what nobody can mend.
        for code in ["E01", "E16x", "E44", "E49", "E99"] {
            assert!(!refused(code).to_string().contains("; what to do: "), "{code}");
        }
    }
}
