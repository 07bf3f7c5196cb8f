//! Shares of the key of sealed weights that AWS KMS holds: asked for with the enclave's document, and carried
//! to the enclave.
//!
//! The question goes through AWS's own program, `aws`. It has the credentials of this machine's role, signs
//! with them, and speaks TLS. The host could ask without a document just as well: what keeps the share from
//! it is the policy of the key, which demands one.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_kms::{ANSWER_LIMIT, SealedForKms, read_answer};
use cleanroom_link::control::{ControlAnswer, ControlKind, ShareMessage};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::process::Command;
use tokio::time::timeout;

use super::control::Control;
use super::shares::{Looked, carry, handed_in, not_waiting, refused};

/// How long the program may take for one answer. It looks for credentials first, and asks again by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read of the program's complaint, in bytes.
const COMPLAINT_LIMIT: u64 = 4 << 10;

/// A share that AWS KMS holds, and the program that asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsShare {
    /// The share.
    pub share: SealedForKms,
    /// AWS's program.
    pub program: PathBuf,
}

impl fmt::Display for KmsShare {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at {}", self.share.broker, self.share.key)
    }
}

/// Carries one share from KMS to the enclave.
pub(super) struct KmsShares<S> {
    control: Arc<Control<S>>,
    kms: KmsShare,
}

impl<S: AsyncRead + AsyncWrite + Unpin> KmsShares<S> {
    pub(super) const fn new(control: Arc<Control<S>>, kms: KmsShare) -> Self {
        Self { control, kms }
    }

    /// Carries the share whenever the enclave waits for it, until the control connection ends, and gives its
    /// error.
    pub(super) async fn run(self) -> io::Error {
        carry(&self.kms, || self.look()).await
    }

    /// Looks once. An error is one of the control connection.
    pub(super) async fn look(&self) -> io::Result<Looked> {
        let name = &self.kms.share.broker;
        if let Some(looked) = not_waiting(&self.control.ask(ControlKind::Shares, b"").await?, name) {
            return Ok(looked);
        }
        let document = match self.control.ask(ControlKind::KmsAsk, name.as_str().as_bytes()).await? {
            ControlAnswer::ShareRequest(document) => document,
            other => return Ok(Looked::Nothing(refused(&other))),
        };
        let fields = match self.kms.decrypt(&document).await {
            Ok(fields) => fields,
            Err(reason) => return Ok(Looked::Nothing(reason)),
        };
        let message = ShareMessage { broker: name.clone(), bytes: fields };
        Ok(handed_in(&self.control.ask(ControlKind::KmsShare, &message.encode()).await?))
    }
}

impl KmsShare {
    /// What KMS gives for `document`: the fields of its message, for the enclave. An error is for people.
    async fn decrypt(&self, document: &[u8]) -> Result<Vec<u8>, String> {
        let Self { share, program } = self;
        let mut command = Command::new(program);
        command
            .args(["kms", "decrypt", "--region", share.key.region()])
            // Version 1 of the program does not know this option. It would send the texts of the question
            // instead of their bytes.
            .args(["--cli-binary-format", "base64", "--output", "json", "--cli-input-json"])
            .arg(share.request(document));
        timeout(PATIENCE, run(command, program.display()))
            .await
            .unwrap_or_else(|_| Err(format!("aws did not answer within {} s", PATIENCE.as_secs())))
    }
}

/// Runs the program to its end and reads its answer.
async fn run(mut command: Command, program: impl fmt::Display) -> Result<Vec<u8>, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        format!("could not run `{program}`: {error}; install AWS's command line, version 2.13 or later")
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let limit = ANSWER_LIMIT as u64 + 1;
    let (answer, complaint) = tokio::join!(read(stdout, limit), read(stderr, COMPLAINT_LIMIT));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("aws ended with {status}{}", code(&complaint)));
    }
    Ok(read_answer(&answer).map_err(|error| error.to_string())?.fields())
}

/// What the program wrote, up to a limit. The rest is read, too, so that the program does not wait for ever.
async fn read(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // An error ends what there is to read, as the program's end does.
        let _ = (&mut pipe).take(limit).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    bytes
}

/// The code in a complaint like `An error occurred (AccessDeniedException) when calling …`; nothing else of
/// it reaches a log.
fn code(complaint: &[u8]) -> String {
    let complaint = String::from_utf8_lossy(complaint);
    let code = complaint.split_once("An error occurred (").and_then(|(_, rest)| rest.split_once(')'));
    match code {
        Some((code, _)) if code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            format!(": {code}")
        }
        _ => "; run `aws kms describe-key` as the same user to see why".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a program that does what `script` says.
    async fn outcome_of(script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, "aws").await.unwrap_err()
    }

    #[tokio::test]
    async fn a_refusal_is_told_by_its_code_and_nothing_else_of_it() {
        let denied = "echo 'An error occurred (AccessDeniedException) when calling: User x is not authorised' >&2; exit 254";
        let told = outcome_of(denied).await;
        assert!(told.ends_with(": AccessDeniedException"), "{told}");
        for other in ["echo 'An error occurred (a word) when' >&2; exit 1", "echo word >&2; exit 1", "exit 1"]
        {
            let told = outcome_of(other).await;
            assert!(told.contains("exit status: 1") && !told.contains("word"), "{told}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_tells_the_host_the_share_is_not_carried() {
        let told = outcome_of("echo '{\"Plaintext\": \"c2hhcmU=\"}'").await;
        assert!(told.contains("unencrypted") && !told.contains("c2hhcmU="), "{told}");
    }

    #[tokio::test]
    async fn a_program_that_talks_too_much_or_nonsense_is_heard_out_and_refused() {
        assert!(outcome_of("head -c 1000000 /dev/zero").await.contains("at most"));
        assert!(outcome_of("head -c 1000000 /dev/zero >&2; exit 3").await.contains("exit status: 3"));
        assert!(outcome_of("echo hello").await.contains("JSON"));
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named() {
        let told = run(Command::new("/nonexistent/aws"), "/nonexistent/aws").await.unwrap_err();
        assert!(told.contains("could not run `/nonexistent/aws`") && told.contains("2.13"), "{told}");
    }
}
