//! `cleanroom connect`: the local proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::party::{Party, no_session, runtime};
use super::policy_file::usage;
use crate::address::Address;
use crate::outcome::{Failure, Outcome};
use crate::output::{Page, Terminal};
use crate::proxy;
use crate::session::Sessions;

const EXAMPLES: &str = "\
Examples:
  cleanroom connect cleanroom.example:8443 --listen 127.0.0.1:8080
  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=unused python3 my_client.py

The clean room is proven before the proxy says that it is ready, and again before the evidence is too old. When it cannot
be proven, clients get an error with the code of the reason, and their requests stay on this machine.";

/// Let any OpenAI client on this machine use a proven clean room
#[derive(Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub struct Connect {
    /// The clean room's host: HOST:PORT or unix:PATH
    address: Address,

    /// Where clients connect; a loopback address, port 0 for any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    #[command(flatten)]
    party: Party,
}

#[derive(Serialize)]
struct Ready {
    listen: String,
    base_url: String,
    model: String,
    model_sha256: String,
    image: String,
    tier: cleanroom_attestation::chain::Tier,
}

impl Connect {
    /// Runs the command until SIGINT or SIGTERM.
    ///
    /// # Errors
    /// [`Failure`] when the clean room is not proven at the start, or the address is not free.
    pub fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        if !self.listen.ip().is_loopback() {
            return Err(usage(
                "not-loopback",
                format!(
                    "expected a loopback address such as 127.0.0.1:8080, got {}: what clients send to the proxy is not encrypted",
                    self.listen
                ),
            ));
        }
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
        let (party, model) = self.party.load()?;
        runtime()?.block_on(async {
            let sessions = Arc::new(Sessions::new(party, self.address));
            let session = sessions.get().await.map_err(|error| no_session(&error))?;
            let listener =
                TcpListener::bind(self.listen).await.map_err(|error| occupied(self.listen, &error))?;
            let listen = listener.local_addr().map_err(|error| occupied(self.listen, &error))?;
            let evidence = session.evidence().evidence();
            let ready = Ready {
                listen: listen.to_string(),
                base_url: format!("http://{listen}/v1"),
                model: model.to_string(),
                model_sha256: session.model_digest().to_string(),
                image: evidence.image().to_owned(),
                tier: evidence.tier(),
            };
            terminal.report(&ready, &page(&ready))?;
            drop(session);
            proxy::serve(listener, sessions, stop()).await;
            Ok(Outcome::Pass)
        })
    }
}

fn page(ready: &Ready) -> Page {
    let mut page = Page::new();
    page.field("proven", format!("{} ({:?})", ready.image, ready.tier));
    page.field("model", format!("{} {}", ready.model, ready.model_sha256));
    page.field("ready", ready.base_url.as_str());
    page
}

async fn stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn occupied(listen: SocketAddr, error: &std::io::Error) -> Failure {
    Failure {
        outcome: Outcome::Unreachable,
        code: "listen",
        message: format!("cannot listen on {listen}: {error}"),
    }
}
