//! Accepting connections, in bounded numbers and for bounded times.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use cleanroom_config::{Config, Limits, Partners};
use cleanroom_link::listener::Listener;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

use crate::api::{self, Service};
use crate::channel::{Acceptor, Session};
use crate::public_attestation::{self, Facts, PublicAttestations};

/// How long requests that run at the end of a session may go on.
const DRAIN: Duration = Duration::from_secs(10 * 60);

/// How long the head of an HTTP/1.1 request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Concurrent requests on one HTTP/2 connection, and the longest head of a request in bytes.
const MAX_STREAMS: u32 = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Serves attested sessions.
pub struct Server {
    shared: Arc<Shared>,
    handshakes: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    shed: AtomicU64,
}

struct Shared {
    acceptor: Arc<Acceptor>,
    router: Router,
    service: Arc<Service>,
    partners: Partners,
    limits: Limits,
}

impl Server {
    /// A server that has not accepted anything yet.
    #[must_use]
    pub fn new(acceptor: Arc<Acceptor>, facts: Facts, service: Arc<Service>, config: Config) -> Self {
        let Config { partners, limits, .. } = config;
        let attestations = PublicAttestations::new(acceptor.keeper().clone(), facts);
        let router = api::router(Arc::clone(&service)).merge(public_attestation::router(attestations));
        Self {
            handshakes: Arc::new(Semaphore::new(limits.handshakes.get())),
            sessions: Arc::new(Semaphore::new(limits.sessions.get())),
            shed: AtomicU64::new(0),
            shared: Arc::new(Shared { acceptor, router, service, partners, limits }),
        }
    }

    /// Accepts until `shutdown`, then lets running sessions end.
    pub async fn serve(self, mut listener: impl Listener, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = tokio::sync::watch::channel(());
        let mut sessions = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = sessions.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let Ok(stream) = accepted else {
                // Out of descriptors, or a peer that was gone before it was accepted: give the others a moment.
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Some(slots) = self.slots() else {
                self.shed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let shared = Arc::clone(&self.shared);
            let mut stopped = stopped.clone();
            sessions.spawn(async move {
                shared.connection(stream, slots, async move { _ = stopped.changed().await }).await;
            });
        }
        drop(listener);
        drop(stop);
        while sessions.join_next().await.is_some() {}
        tracing::info!(shed = self.shed.load(Ordering::Relaxed), "connections closed");
    }

    fn slots(&self) -> Option<Slots> {
        Some(Slots {
            session: Arc::clone(&self.sessions).try_acquire_owned().ok()?,
            handshake: Arc::clone(&self.handshakes).try_acquire_owned().ok()?,
        })
    }
}

/// What a connection takes: both while it is set up, the session for as long as it lives.
struct Slots {
    session: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
}

impl Shared {
    async fn connection<S>(&self, stream: S, slots: Slots, stop: impl Future<Output = ()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Slots { session: _session, handshake } = slots;
        let session = match timeout(self.limits.handshake_timeout, self.acceptor.accept(stream)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return tracing::info!(reason = error.code(), "connection refused"),
            Err(_) => return tracing::info!(reason = "timeout", "connection refused"),
        };
        drop(handshake);
        self.requests(session, stop).await;
    }

    async fn requests<S>(&self, session: Session<S>, stop: impl Future<Output = ()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let identity = session.identity;
        let partner = identity.partner;
        let listed = self.partners.admit(partner.digest());
        // What the engine keeps of this partner's prompts is wiped when its last session has ended.
        let _presence = self.service.presence(partner);
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(identity);
            let router = self.router.clone();
            let permitted = self.service.check(partner);
            async move {
                if request.uri().path() == public_attestation::PATH {
                    return router.oneshot(request).await;
                }
                if let Err(refused) = permitted {
                    return Ok(refused.into_response());
                }
                if listed {
                    router.oneshot(request).await
                } else {
                    Ok::<Response, Infallible>(api::error::partner_not_listed().into_response())
                }
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
        let ended = tokio::select! {
            result = &mut connection => Some(result),
            () = sleep(self.limits.session_lifetime) => None,
            () = stop => None,
        };
        if ended.is_none() {
            // No further requests; those that run may end.
            connection.as_mut().graceful_shutdown();
            let _ = timeout(DRAIN, connection).await;
        }
    }
}
