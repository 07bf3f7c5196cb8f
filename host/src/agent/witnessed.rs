//! Hands the enclave the checkpoints of its log that witnesses have cosigned.

use std::io;
use std::sync::Arc;

use cleanroom_link::control::{ControlAnswer, ControlKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::TICK;
use super::complaint::Complaint;
use super::control::Control;

/// Hands in each checkpoint that comes, and the last one again and again: a log that has not grown since is witnessed as it is. Gives
/// the error of the control connection.
pub(super) async fn hand_in<S>(
    control: Arc<Control<S>>,
    mut cosigned: watch::Receiver<Option<Vec<u8>>>,
) -> io::Error
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut complaint = Complaint::default();
    loop {
        let note = cosigned.borrow_and_update().clone();
        let refused = match &note {
            None => true,
            Some(note) => match control.ask(ControlKind::Witnessed, note).await {
                Ok(ControlAnswer::Refused(code)) => {
                    if complaint.is_due(&code) {
                        tracing::warn!(code, "the enclave does not take what the witnesses have cosigned");
                    }
                    true
                }
                Ok(_) => {
                    complaint.clear();
                    false
                }
                Err(error) => return error,
            },
        };
        let newer = cosigned.changed();
        // What was refused is not offered again.
        let newer = if refused { newer.await } else { timeout(TICK, newer).await.unwrap_or(Ok(())) };
        if newer.is_err() {
            return io::Error::other("nobody asks the witnesses any more");
        }
    }
}
