//! Tells an enclave that it is to end, so that its sessions hear of it: the host cannot speak in them.

use std::io;
use std::time::Duration;

use cleanroom_link::control::{ControlAnswer, ControlKind};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::agent::Control;
use crate::endpoint::EnclaveAddress;
use crate::relay::Dial as _;

/// The pause between two attempts to reach the enclave, and how long one may take.
const PAUSE: Duration = Duration::from_millis(500);
const DIAL_LIMIT: Duration = Duration::from_secs(3);

/// Asks the enclave behind the control address to take nothing new, to finish what runs and to end. Tries until it
/// has heard; once `over`, no further time.
pub async fn tell(control: &EnclaveAddress, over: &CancellationToken) {
    let mut is_first = true;
    loop {
        match ask(control).await {
            Ok(ControlAnswer::Accepted(_)) => return tracing::info!("the enclave drains"),
            Ok(ControlAnswer::Refused(code)) => return tracing::warn!(code, "the enclave does not drain"),
            Ok(_) => return tracing::warn!("the enclave does not understand that it is to drain"),
            Err(error) if is_first => {
                tracing::warn!(error = %error.kind(), "the enclave could not be told to drain yet");
            }
            Err(_) => {}
        }
        is_first = false;
        tokio::select! {
            biased;
            () = over.cancelled() => return,
            () = sleep(PAUSE) => {}
        }
    }
}

async fn ask(control: &EnclaveAddress) -> io::Result<ControlAnswer> {
    let stream = timeout(DIAL_LIMIT, control.dial()).await??;
    Control::new(stream).ask(ControlKind::Drain, b"").await
}
