//! Hands an enclave its model over vsock.

use std::io;
use std::path::Path;

use tokio::fs::File;

use crate::endpoint::EnclaveAddress;
use crate::relay::Dial as _;

/// Sends the file at `model` to the enclave's port `enclave`.
pub(super) async fn send_model(enclave: &EnclaveAddress, model: &Path) -> io::Result<()> {
    let file = File::open(model).await?;
    let length = file.metadata().await?.len();
    cleanroom_link::model::send(file, length, enclave.dial().await?).await
}
