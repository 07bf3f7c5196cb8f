//! Hands an enclave its model over vsock.

use std::io;
use std::path::Path;

use cleanroom_vsock::WRITE_CAP;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::endpoint::EnclaveAddress;
use crate::relay::Dial as _;

/// The enclave's port for its model.
pub(super) const MODEL_PORT: u32 = 5002;

/// Sends the file at `model`: a `u64` big-endian length, then that many bytes. The enclave answers with one
/// byte when it has all of them; what it thinks of them it says on its console.
pub(super) async fn send_model(enclave: &EnclaveAddress, model: &Path) -> io::Result<()> {
    let mut file = File::open(model).await?;
    let length = file.metadata().await?.len();
    let mut stream = enclave.dial().await?;
    stream.write_all(&length.to_be_bytes()).await?;
    let mut buffer = vec![0; WRITE_CAP];
    let mut left = length;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(WRITE_CAP).min(WRITE_CAP);
        let Some(room) = buffer.get_mut(..wanted) else { break };
        let count = file.read(room).await?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the model file became shorter"));
        }
        stream.write_all(room.get(..count).unwrap_or_default()).await?;
        left -= count as u64;
    }
    stream.flush().await?;
    stream.read_u8().await.map(drop)
}
