//! The enclave's end of the control connection, on which the host hands in what the authorities sign.

use std::future::Future;
use std::io;
use std::sync::Arc;

use cleanroom_attestation::release::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::guard::Guard;
use crate::serve::Listener;

/// Serves one control connection after the other. `changed` is called after everything that was handed in.
pub(crate) async fn serve<F, R>(mut listener: impl Listener, guard: Arc<Guard>, changed: F)
where
    F: Fn() -> R,
    R: Future<Output = ()>,
{
    loop {
        match listener.accept().await {
            // A connection that breaks or talks nonsense is the host's matter; the next one begins anew.
            Ok(stream) => _ = connection(stream, &guard, &changed).await,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn connection<S, F, R>(mut stream: S, guard: &Guard, changed: &F) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn() -> R,
    R: Future<Output = ()>,
{
    loop {
        let mut header = [0; CONTROL_HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let (kind, length) = ControlKind::parse(header).map_err(invalid)?;
        // Grows with what really arrives.
        let mut body = Vec::new();
        let read = (&mut stream).take(length as u64).read_to_end(&mut body).await?;
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = answer(guard, kind, &body).await;
        if let ControlAnswer::Refused(code) = &answer {
            tracing::warn!(what = ?kind, code, "not accepted");
        }
        changed().await;
        stream.write_all(&answer.frame()).await?;
        stream.flush().await?;
    }
}

async fn answer(guard: &Guard, kind: ControlKind, body: &[u8]) -> ControlAnswer {
    let accepted = match kind {
        ControlKind::State => return ControlAnswer::State(guard.state()),
        ControlKind::Ask => {
            return match guard.ask().await {
                Ok(request) => ControlAnswer::Ask(request),
                Err(error) => ControlAnswer::Refused(error.code().to_owned()),
            };
        }
        ControlKind::Root => guard.accept_root(body),
        ControlKind::Release => guard.accept_release(body),
        ControlKind::Denial => guard.accept_denial(body),
        ControlKind::Lease => guard.accept_lease(body),
    };
    match accepted {
        Ok(accepted) => ControlAnswer::Accepted(accepted),
        Err(error) => ControlAnswer::Refused(error.code().to_owned()),
    }
}
