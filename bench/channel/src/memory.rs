//! The memory that an idle session takes inside the enclave.
//!
//! The enclave is a process of its own. The partners' ends are in this one and do not count.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cleanroom_channel::identity::Identity;
use cleanroom_channel::tls;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::clock::now;
use cleanroom_partner::session::Session;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clean_room::model_id;
use crate::process::Server;
use crate::report::Report;

/// Sessions that are opened first and not counted: they pay for pages that a process pays for once.
const FIRST: usize = 16;

/// Measures with `count` sessions. The model does not matter.
pub(crate) fn measure(report: &mut Report, model: &Path, count: usize) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (opened, used) = runtime.block_on(attested(model, count))?;
    let plain = runtime.block_on(plain(count))?;
    let kib = |bytes: f64| bytes / 1024.0;
    report.line("");
    report.line(format!("Memory of an idle session inside the enclave, {count} sessions, KiB each"));
    report.line(format!("  attested, HTTP/2 begun                {:>7.1}", kib(opened)));
    report.line(format!("  attested, after one request           {:>7.1}", kib(used)));
    report.line(format!("  plain mutual TLS, after one byte      {:>7.1}", kib(plain)));
    report
        .line("  Private memory of the enclave's process; what the kernel keeps for a socket is not in it.");
    report.section(
        "idle_session_memory",
        json!({
            "sessions": count,
            "attested_bytes": opened, "attested_after_a_request_bytes": used, "plain_tls_bytes": plain,
        }),
    );
    Ok(())
}

/// Bytes for each attested session: when it was opened, and when it was used once.
async fn attested(model: &Path, count: usize) -> Result<(f64, f64), Box<dyn Error>> {
    let sessions = FIRST + count;
    let server = Server::enclave(model, &format!("sessions = {sessions}\nsequences = 1"))?;
    let party = RelyingParty::new(&Identity::generate()?, server.policy()?, model_id())?;
    let mut open = Vec::with_capacity(sessions);
    for _ in 0..FIRST {
        let session = session(&party, server.socket()).await?;
        request(&session).await?;
        open.push(session);
    }
    let before = server.private_bytes()?;
    for _ in 0..count {
        open.push(session(&party, server.socket()).await?);
    }
    let opened = server.private_bytes()?;
    for session in open.iter().skip(FIRST) {
        request(session).await?;
    }
    let used = server.private_bytes()?;
    let each = |after: u64| after.saturating_sub(before) as f64 / count as f64;
    Ok((each(opened), each(used)))
}

async fn session(party: &RelyingParty, socket: &Path) -> Result<Session, Box<dyn Error>> {
    let stream = UnixStream::connect(socket).await?;
    let attested = party.challenge(stream).await?.appraise(now())?.confirm().await?;
    Ok(Session::start(attested, Duration::from_secs(3600)).await?)
}

async fn request(session: &Session) -> Result<(), Box<dyn Error>> {
    let request = Request::builder().uri("https://cleanroom/v1/models").body(Full::<Bytes>::default())?;
    let response = session.send(request).await?;
    if !response.status().is_success() {
        return Err(format!("expected the list of models, got status {}", response.status()).into());
    }
    response.into_body().collect().await?;
    Ok(())
}

/// Bytes for each plain session.
async fn plain(count: usize) -> Result<f64, Box<dyn Error>> {
    let server = Server::plain()?;
    let connector = TlsConnector::from(Arc::new(tls::client_config(&Identity::generate()?)?));
    let mut open = Vec::with_capacity(FIRST + count);
    for _ in 0..FIRST {
        open.push(plain_session(&connector, server.socket()).await?);
    }
    let before = server.private_bytes()?;
    for _ in 0..count {
        open.push(plain_session(&connector, server.socket()).await?);
    }
    Ok(server.private_bytes()?.saturating_sub(before) as f64 / count as f64)
}

async fn plain_session(
    connector: &TlsConnector,
    socket: &Path,
) -> Result<TlsStream<UnixStream>, Box<dyn Error>> {
    let stream = UnixStream::connect(socket).await?;
    let mut stream = connector.connect(tls::server_name(), stream).await?;
    stream.write_u8(1).await?;
    stream.flush().await?;
    stream.read_u8().await?;
    Ok(stream)
}
