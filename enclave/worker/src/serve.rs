//! Accepting connections, in bounded numbers and for bounded times. A stranger's connections never take a partner's place:
//! The module `connections` divides them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use cleanroom_attestation::channel::RefusalCode;
use cleanroom_config::{Config, Limits, Partners};
use cleanroom_console::{Code, Line};
use cleanroom_guard::Clock;
use cleanroom_link::listener::{AFTER_FAILURE, Listener};
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt as _;

use crate::api::{self, Service};
use crate::channel::{Acceptor, Session};
use crate::connections::{Class, Handshake, Handshakes, SessionPlace, Sessions};
use crate::pace::Pace;
use crate::public_attestation::{self, Facts, PublicAttestations};
use crate::session::PartnerId;

/// How long requests that run at the end of a session may go on.
const DRAIN: Duration = Duration::from_secs(10 * 60);

/// The longest life of a session whose key may not use the model: time for a public attestation and for reading a refusal.
const STRANGERS_LIFETIME: Duration = Duration::from_secs(60);

/// How long the head of an HTTP/1.1 request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Concurrent requests on one HTTP/2 connection, and the longest head of a request in bytes.
const MAX_STREAMS: u32 = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Serves attested sessions.
pub struct Server {
    shared: Shared,
    handshakes: Arc<Handshakes>,
    shed: AtomicU64,
}

struct Shared {
    acceptor: Arc<Acceptor>,
    router: Router,
    service: Arc<Service>,
    partners: Partners,
    limits: Limits,
    pace: Pace,
    sessions: Arc<Sessions>,
    clock: Clock,
    /// Set once nothing new is taken.
    draining: CancellationToken,
    /// Of each session that was proven or is about to be.
    running: TaskTracker,
}

impl Server {
    /// A server that has not accepted anything yet.
    #[must_use]
    pub fn new(acceptor: Arc<Acceptor>, facts: Facts, service: Arc<Service>, config: Config) -> Self {
        let Config { partners, limits, .. } = config;
        let attestations = PublicAttestations::new(acceptor.keeper().clone(), facts);
        let router = api::router(Arc::clone(&service)).merge(public_attestation::router(attestations));
        Self {
            handshakes: Handshakes::new(limits.handshakes),
            shed: AtomicU64::new(0),
            shared: Shared {
                acceptor,
                router,
                service,
                partners,
                pace: Pace::new(),
                sessions: Sessions::new(limits.sessions),
                limits,
                clock: Clock::boot(),
                draining: CancellationToken::new(),
                running: TaskTracker::new(),
            },
        }
    }

    /// The same server, whose sessions age by another clock than the machine's own.
    #[must_use]
    pub fn timed_by(mut self, clock: Clock) -> Self {
        self.shared.clock = clock;
        self
    }

    /// Serves until `shutdown`, and then until the last session has ended. Meanwhile new connections hear that the enclave
    /// is draining, and sessions take no further requests.
    pub async fn serve(self, mut listener: impl Listener, shutdown: impl Future<Output = ()>) {
        let (shared, handshakes, shed) = (Arc::new(self.shared), self.handshakes, self.shed);
        let (draining, running) = (shared.draining.clone(), shared.running.clone());
        let drained = async {
            shutdown.await;
            draining.cancel();
            running.close();
            running.wait().await;
        };
        let mut drained = pin!(drained);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut drained => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let Ok(stream) = accepted else {
                sleep(AFTER_FAILURE).await;
                continue;
            };
            let Some(handshake) = handshakes.begin() else {
                shed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let shared = Arc::clone(&shared);
            connections.spawn(async move { shared.connection(stream, handshake).await });
        }
        Line::ConnectionsClosed { shed: shed.load(Ordering::Relaxed) }.say();
    }
}

/// Says why a connection did not become a session.
fn refused(reason: &str) {
    Line::ConnectionRefused { reason: Code::of(reason) }.say();
}

impl Shared {
    async fn connection<S>(&self, stream: S, mut handshake: Handshake)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = handshake.heard(stream);
        let place = |partner| self.place(partner);
        let accepting = self.pace.run(self.acceptor.accept_if(stream, place));
        let accepted = tokio::select! {
            accepted = timeout(self.limits.handshake_timeout, accepting) => accepted,
            () = handshake.shed() => return refused("shed"),
        };
        let (session, (place, _running)) = match accepted {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => return refused(error.code()),
            Err(_) => return refused("timeout"),
        };
        drop(handshake);
        self.requests(session, place.class).await;
    }

    /// A place for a session of `partner`, and what holds up the end of a drain.
    fn place(&self, partner: PartnerId) -> Result<(SessionPlace, TaskTrackerToken), RefusalCode> {
        // Before the question, so that a drain which begins after the answer waits for this session.
        let running = self.running.token();
        if self.draining.is_cancelled() {
            return Err(RefusalCode::Draining);
        }
        let place = self.sessions.begin(partner, self.class(partner)).ok_or(RefusalCode::Busy)?;
        Ok((place, running))
    }

    /// Whether this key may use the model now.
    fn class(&self, partner: PartnerId) -> Class {
        if self.partners.admit(partner.digest()) && self.service.check(partner).is_ok() {
            Class::Partner
        } else {
            Class::Stranger
        }
    }

    async fn requests<S>(&self, session: Session<S>, class: Class)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut lifetime = pin!(self.lifetime(class));
        let identity = session.identity;
        let partner = identity.partner;
        let listed = self.partners.admit(partner.digest());
        // What the engine keeps of this partner's prompts is wiped when its last session has ended.
        let _presence = self.service.presence(partner);
        let turn = public_attestation::Turn::new();
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(identity);
            request.extensions_mut().insert(turn.clone());
            let router = self.router.clone();
            let (permitted, service) = (self.service.check(partner), Arc::clone(&self.service));
            async move {
                let dialect = api::dialect(request.headers());
                let answer = match permitted {
                    _ if request.uri().path() == public_attestation::PATH => router.oneshot(request).await?,
                    Err(refused) => {
                        api::refuse(&service, &identity, request.method(), &refused, dialect).await
                    }
                    Ok(()) if listed => router.oneshot(request).await?,
                    Ok(()) => api::error::partner_not_listed().respond(dialect),
                };
                Ok::<Response, Infallible>(service.uniform(answer).await)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(session.stream), service));
        tokio::select! {
            _ = &mut connection => return,
            () = &mut lifetime => {}
            () = self.draining.cancelled() => {
                // No further requests. Those that run have the time that they would have had.
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    _ = &mut connection => return,
                    () = &mut lifetime => {}
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        let _ = self.clock.within(DRAIN, connection).await;
    }

    /// Returns when a session that begins now is too old. The time in which the machine sleeps counts.
    fn lifetime(&self, class: Class) -> impl Future<Output = ()> {
        self.clock.sleep(match class {
            Class::Partner => self.limits.session_lifetime,
            Class::Stranger => self.limits.session_lifetime.min(STRANGERS_LIFETIME),
        })
    }
}
