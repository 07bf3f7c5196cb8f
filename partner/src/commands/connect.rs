//! `cleanroom connect`: the local proxy.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use cleanroom_program::clock::Clock;
use cleanroom_program::limits::require_open_files;
use cleanroom_program::log::{self, Format};
use cleanroom_program::signals::{Hangups, Request, Signals};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::relying_party::{PartyArguments, no_session, runtime};
use crate::address::Address;
use crate::outcome::{Failure, Outcome, usage};
use crate::output::{Listing, Terminal};
use crate::proxy::{self, Listen, Listener, Origin, Proxy, Token};
use crate::receipts::ReceiptFolder;
use crate::session::{Session, Sessions, Spread};

const EXAMPLES: &str = "\
Examples:
  cleanroom connect cleanroom.example:8443 --listen 127.0.0.1:8080
  cleanroom connect a.example:8443 b.example:8443 --wait 5m
  cleanroom connect balancer.example:8443 --rooms 3
  cleanroom connect cleanroom.example:8443 --receipts receipts/
  cleanroom connect cleanroom.example:8443 --proxy http://proxy.corp.example:3128
  cleanroom connect cleanroom.example:8443 --listen unix:/run/cleanroom/proxy.sock
  cleanroom connect cleanroom.example:8443 --listen 0.0.0.0:8080 --token-file token
  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=unused python3 my_client.py
  curl http://127.0.0.1:8080/v1/models -H 'Authorization: Bearer unused'
  cleanroom connect cleanroom.example:8443 --metrics 127.0.0.1:9101
  curl http://127.0.0.1:9101/readyz

A clean room is proven before the proxy says that it is ready, and again before
the evidence is too old. A clean room that drains or is gone gets nothing new,
and what was never sent goes to another one by itself. When none can be proven,
clients get an error with the code of the reason, and their requests stay on
this machine. Codes that begin with `unproven/` are what a host says without
proof.

Each request needs a header that a web page cannot send: `Authorization: Bearer
KEY`, `X-Api-Key: KEY` or `Content-Type: application/json`. Any KEY will do; it
stays on this machine. The official clients always send one. A Unix socket
needs no header: its owner alone can connect.

The hop from a client to this proxy is not encrypted. It must stay inside one
machine, one pod, or a network that you trust with prompts and answers. An
address that others can reach needs --token-file: then each client must send
that token as its KEY, and gets 401 otherwise. `(umask 077; openssl rand -hex
32 > token)` makes one.

SIGTERM or SIGINT: takes nothing new. What runs goes on to its end, for as long
as the evidence permits: the clean room stays proven and its lease in force. A
second one ends at once.

SIGHUP: reads --policy and --token-file again, and says in a line of the log
what came of it. Under another policy nothing more is sent on a session that
was proven before; what runs goes on only if the same clean room is proven
under the new policy within five seconds. A file that cannot be used leaves
what was in force. Key, addresses and all other options stay until a new start.";

/// How long to wait before the first further attempt, and at most before any.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Let any OpenAI or Anthropic client on this machine use a proven clean room
#[derive(Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub struct Connect {
    /// The clean rooms' hosts: HOST:PORT or unix:PATH. Every address of a name counts. Each clean room is
    /// proven, and a request goes to the one with the fewest under way
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<Address>,

    /// Use so many clean rooms at the same time. By default one for each address, and at most 16. More than
    /// there are addresses: for a balancer with several clean rooms behind one address
    #[arg(long, value_name = "NUMBER")]
    rooms: Option<NonZeroUsize>,

    /// Where clients connect: IP:PORT, port 0 for any free one, or unix:PATH for a socket that you alone can
    /// connect to. An address that is not a loopback one needs --token-file
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: Listen,

    /// Serve only clients that send the token in this file as their API key. The file must be yours alone
    /// (permissions 600)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Also serve web pages of this origin, such as `http://localhost:3000`; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<Origin>,

    /// Keep trying for this long to reach a clean room, such as 5m. A clean room whose proof fails is refused
    /// at once
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,

    /// When no clean room can be reached, such as while a balancer starts again, requests that were not sent wait
    /// for this long
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    outage: Duration,

    /// Keep the receipt of each request in this folder. The end of an answer reaches the client only after
    /// the answer's own receipt is verified and on the disk. `cleanroom receipts` reads the folder
    #[arg(long, value_name = "FOLDER")]
    receipts: Option<PathBuf>,

    /// Serve `/metrics` (for Prometheus), `/healthz` and `/readyz` at this address: IP:PORT or unix:PATH. They say how
    /// much traffic there is, and nothing of what is in it
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<Listen>,

    #[command(flatten)]
    party: PartyArguments,
}

#[derive(Serialize)]
struct Ready {
    listen: String,
    base_url: String,
    /// Where the metrics are.
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<String>,
    #[serde(skip)]
    is_local: bool,
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
        if !self.listen.is_local() && self.token_file.is_none() {
            return Err(usage(
                "not-loopback",
                format!(
                    "expected a loopback address such as 127.0.0.1:8080 or unix:PATH, got {}; \
                     others can reach that address, so it needs `--token-file FILE`, \
                     and what clients send to it is not encrypted",
                    self.listen
                ),
            ));
        }
        let _log = log::start(Format::Text, "info").map_err(|error| usage("log", error.to_string()))?;
        require_open_files(proxy::OPEN_FILES).map_err(|error| usage("open-files", error.to_string()))?;
        let runtime = runtime()?;
        let ended = runtime.block_on(self.connect(terminal));
        // A name that is still being resolved does not keep the program from its end.
        runtime.shutdown_background();
        ended
    }

    async fn connect(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let (party, model) = self.party.load()?;
        let token = self.token_file.as_deref().map(Token::read).transpose()?;
        let dialer = self.party.dialer(self.addresses)?;
        let listening = Signals::listen().and_then(|signals| Ok((signals, Hangups::listen()?)));
        let (mut signals, hangups) = listening.map_err(|error| Failure {
            outcome: Outcome::Unreachable,
            code: "signals",
            message: format!("the system refused to pass signals on: {error}"),
        })?;
        // A port that is not free is told before anybody waits for a clean room.
        let (listener, listen) = bind(&self.listen).await?;
        let report = match &self.metrics {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        if let Some(folder) = &self.receipts {
            let made = cleanroom_program::file::create_folder(folder, 0o700);
            made.map_err(|error| usage("receipts", error.to_string()))?;
        }
        let spread = self.rooms.map_or(Spread::EachAddress, Spread::UpTo);
        let sessions = Sessions::spread(party, dialer, spread).waiting_out(self.outage);
        let mut proxy = Proxy::new(sessions.clone()).allow_origins(self.allow_origin);
        let metrics = report.as_ref().map(|(_, address)| address.to_string());
        // It says what is missing while a clean room is waited for, and while the last requests end. `JoinSet` ends it.
        let mut reporting = JoinSet::new();
        if let Some((listener, _)) = report {
            reporting.spawn(proxy.report().serve(listener));
        }
        let session = tokio::select! {
            session = prove(&sessions, self.wait) => session?,
            _ = signals.next() => return Ok(Outcome::Pass),
        };
        let evidence = session.evidence().evidence();
        let ready = Ready {
            listen: listen.to_string(),
            base_url: match &listen {
                Listen::Tcp(address) => format!("http://{address}/v1"),
                Listen::Unix(_) => "http://localhost/v1".to_owned(),
            },
            metrics,
            is_local: listen.is_local(),
            model: model.to_string(),
            model_sha256: session.model_digest().to_string(),
            image: evidence.image().to_owned(),
            tier: evidence.tier(),
        };
        // Clients can connect whether or not anybody reads this.
        if let Err(failure) = terminal.report(&ready, &listing(&ready)) {
            tracing::warn!(code = failure.code, "{failure}");
        }
        drop(session);
        let token = self.token_file.zip(token);
        let again = Again { party: Arc::new(self.party), sessions, token: token.clone() };
        let again = tokio::spawn(again.at_each(hangups));
        if let Some((_, token)) = token {
            proxy = proxy.require_token(token);
        }
        if let Some(folder) = self.receipts {
            proxy = proxy.keep_receipts(ReceiptFolder::at(folder));
        }
        serve(proxy, listener, &mut signals).await;
        again.abort();
        Ok(Outcome::Pass)
    }
}

/// A bound address, and the port that the system chose.
async fn bind(listen: &Listen) -> Result<(Listener, Listen), Failure> {
    let bound = async {
        let listener = listen.bind().await?;
        let address = listener.address()?;
        std::io::Result::Ok((listener, address))
    };
    bound.await.map_err(|error| Failure {
        outcome: Outcome::Unreachable,
        code: "listen",
        message: format!("cannot listen on {listen}: {error}"),
    })
}

/// What is read again when somebody asks for it.
struct Again {
    party: Arc<PartyArguments>,
    sessions: Sessions,
    token: Option<(PathBuf, Token)>,
}

impl Again {
    /// Reads everything at each SIGHUP. Never completes.
    async fn at_each(self, mut hangups: Hangups) {
        loop {
            hangups.next().await;
            let (party, sessions, token) =
                (Arc::clone(&self.party), self.sessions.clone(), self.token.clone());
            // A file that is not read to its end, such as a pipe, keeps nobody else.
            let read = move || read_again(&party, &sessions, token.as_ref());
            let _ = tokio::task::spawn_blocking(read).await;
        }
    }
}

/// Reads policy and token again and puts them into force, and says so in one line. What cannot be used changes nothing.
fn read_again(party: &PartyArguments, sessions: &Sessions, token: Option<&(PathBuf, Token)>) {
    let mut failure = None;
    let policy = match party.load_again(&sessions.party()) {
        Ok(None) => "as before".to_owned(),
        Ok(Some(party)) => {
            let text = format!(
                "another one, for the model {}; clean rooms are proven again before anything more is sent",
                party.model()
            );
            sessions.adopt(party);
            text
        }
        Err(error) => {
            let text = format!("not taken, the one in force stays: {}", log::one_line(&error));
            failure = Some(error.code);
            text
        }
    };
    let token = match token.map(|(path, token)| Token::read(path).map(|read| token.replace(&read))) {
        None => "none is asked for".to_owned(),
        Some(Ok(false)) => "as before".to_owned(),
        Some(Ok(true)) => "another one".to_owned(),
        Some(Err(error)) => {
            let text = format!("not taken, the one in force stays: {}", log::one_line(&error));
            failure = failure.or(Some(error.code));
            text
        }
    };
    let rest = "key, addresses and other options stay until a new start";
    match failure {
        None => tracing::info!("read again after SIGHUP: policy: {policy}. Token: {token}. {rest}"),
        Some(code) => {
            tracing::error!(code, "read again after SIGHUP: policy: {policy}. Token: {token}. {rest}");
        }
    }
}

/// Proves the clean room. With `wait`, tries again until one is there.
async fn prove(sessions: &Sessions, wait: Option<Duration>) -> Result<Arc<Session>, Failure> {
    let clock = Clock::machine();
    let last = clock.now() + wait.unwrap_or_default();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match sessions.get().await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        if error.is_refusal() || clock.now() + pause > last {
            return Err(no_session(&error));
        }
        tracing::info!(code = error.code(), "waiting for a clean room: {error}");
        clock.sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Serves until the first signal drains the proxy, or the second one ends it.
async fn serve(proxy: Proxy, listener: Listener, signals: &mut Signals) {
    let (stop, stopped) = oneshot::channel::<()>();
    let mut stop = Some(stop);
    let mut serving = pin!(proxy.serve(listener, async { _ = stopped.await }));
    loop {
        tokio::select! {
            () = &mut serving => return tracing::info!("nothing runs any more"),
            request = signals.next() => match request {
                Request::Drain => {
                    drop(stop.take());
                    tracing::info!(
                        "asked to stop: nothing new is taken, and what runs may end for as long as the clean room \
                         is proven; a second signal ends it at once"
                    );
                }
                Request::EndNow => return tracing::info!("ended at once, as a second signal asked"),
            },
        }
    }
}

fn listing(ready: &Ready) -> Listing {
    let mut listing = Listing::new();
    listing.field("proven", format!("{} ({:?})", ready.image, ready.tier));
    listing.field("model", format!("{} {}", ready.model, ready.model_sha256));
    if ready.listen.starts_with("unix:") {
        listing.field("ready", format!("{} at {}", ready.base_url, ready.listen));
    } else {
        listing.field("ready", ready.base_url.as_str());
    }
    if let Some(metrics) = &ready.metrics {
        listing.field("metrics", metrics.as_str());
    }
    if !ready.is_local {
        listing.note("What clients on other machines send to this address is not encrypted.");
    }
    listing
}
