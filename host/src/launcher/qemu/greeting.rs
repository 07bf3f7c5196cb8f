//! The parent's side of an enclave's first moments: the heartbeat, and the model.

use std::io;
use std::path::Path;
use std::time::Duration;

use cleanroom_link::heartbeat;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::time::sleep;

use crate::endpoint::{EnclaveAddress, remove_stale_socket};
use crate::launcher::serve_model;
use crate::relay::Dial as _;

/// The pause between two attempts to reach a port that the enclave may not listen on yet.
const PAUSE: Duration = Duration::from_millis(20);

/// Where the heartbeat arrives. It must be there before the machine starts.
pub struct Heartbeat(UnixListener);

impl Heartbeat {
    /// Listens beside the machine's vsock socket.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen(vsock: &Path) -> io::Result<Self> {
        let mut path = vsock.as_os_str().to_owned();
        path.push(format!("_{}", heartbeat::PORT));
        remove_stale_socket(path.as_ref())?;
        UnixListener::bind(path).map(Self)
    }

    /// Waits for the heartbeat and answers it.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn answer(self) -> io::Result<()> {
        loop {
            let (mut stream, _) = self.0.accept().await?;
            let mut byte = [0];
            if stream.read_exact(&mut byte).await.is_ok() && byte == [heartbeat::BYTE] {
                return stream.write_all(&byte).await;
            }
        }
    }
}

/// Answers the enclave's questions for the model and waits until it takes partners' connections. An enclave that
/// halts instead ends the machine, which its supervisor sees; so this tries for ever.
pub async fn until_serving(model_port: &EnclaveAddress, partner_port: &EnclaveAddress, model: &Path) {
    serve_model(model_port, model).await;
    while partner_port.dial().await.is_err() {
        sleep(PAUSE).await;
    }
}
