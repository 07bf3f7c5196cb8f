//! Fetches the enclave's log and keeps it on the disk.

use cleanroom_link::control::{Batch, ControlAnswer, ControlKind};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::sleep;

use super::Observed;
use super::complaint::Complaint;
use super::control::Control;
use crate::log_store::{BootLog, LogStore, StoreError};

/// How often the enclave is asked for new entries. Whoever reads the store sees a receipt after this time.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a store that failed is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Fetches the log for as long as the control connection lasts, and gives its error. A disk that takes nothing does not end the
/// enclave's service: the enclave keeps some megabytes of entries until the disk is there again.
pub(super) async fn keep<S>(
    control: Arc<Control<S>>,
    store: LogStore,
    observed: watch::Sender<Observed>,
) -> io::Error
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut complaint = Complaint::default();
    loop {
        let log = match open(&control, &store).await {
            Ok(Ok(log)) => log,
            Ok(Err(error)) => {
                failed(&mut complaint, &error).await;
                continue;
            }
            Err(error) => return error,
        };
        tracing::info!(entries = log.size(), "the enclave's log is kept");
        match follow(&control, log, &observed).await {
            Ok(error) => failed(&mut complaint, &error).await,
            Err(error) => return error,
        }
    }
}

async fn failed(complaint: &mut Complaint, error: &StoreError) {
    let text = error.to_string();
    if complaint.is_due(&text) {
        tracing::error!(reason = text, "the enclave's log cannot be kept");
    }
    sleep(AFTER_FAILURE).await;
}

/// The log of the enclave at the other end.
async fn open<S>(control: &Control<S>, store: &LogStore) -> io::Result<Result<BootLog, StoreError>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let newest = ask(control, b"").await?;
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.boot(&newest.checkpoint)).await.map_err(io::Error::other)
}

/// Appends what comes, until the store fails.
async fn follow<S>(
    control: &Control<S>,
    mut log: BootLog,
    observed: &watch::Sender<Observed>,
) -> io::Result<StoreError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let batch = ask(control, &log.size().to_be_bytes()).await?;
        observed.send_if_modified(|observed| !std::mem::replace(&mut observed.follows_log, true));
        let is_all = batch.entries.is_empty() && batch.first == log.size();
        let appended = tokio::task::spawn_blocking(move || log.append(&batch).map(|()| log));
        log = match appended.await.map_err(io::Error::other)? {
            Ok(log) => log,
            Err(error) => return Ok(error),
        };
        if is_all {
            sleep(PAUSE).await;
        }
    }
}

async fn ask<S>(control: &Control<S>, size: &[u8]) -> io::Result<Batch>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match control.ask(ControlKind::Log, size).await? {
            ControlAnswer::Log(batch) => return Ok(batch),
            // An enclave that waits for the key of its weights has no log yet.
            ControlAnswer::Refused(_) => sleep(AFTER_FAILURE).await,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the enclave does not give its log")),
        }
    }
}
