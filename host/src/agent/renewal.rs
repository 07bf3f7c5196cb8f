//! Leases: asked of every service before the last one ends, and handed in, the longest first.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Accepted, Envelope, Lease, LeaseRequest, Payload as _, PayloadType};
use cleanroom_link::control::{ControlAnswer, ControlKind, ControlState};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::complaint::Complaint;
use super::control::Control;
use super::service::Authority;
use super::{Observed, TICK};

/// How long leases are waited for before the first one is handed in. A service that misses this is not waited
/// for in the next rounds, so that it does not slow down the others.
const GATHERING: Duration = Duration::from_secs(1);
/// The shortest time between two looks at a lease.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);
/// The most rounds in which a service that failed is asked without being waited for.
const MOST_ROUNDS: u32 = 32;

/// Renews the lease of one enclave, from its boot to its end.
pub(super) struct Renewal<S> {
    control: Arc<Control<S>>,
    services: Vec<Service>,
    observed: watch::Sender<Observed>,
    /// The release that the enclave had last.
    release: Option<Sha256Digest>,
    /// The release for which it was given a lease last.
    leased: Option<Sha256Digest>,
    /// The most time that was ever left on a lease of this release, in milliseconds.
    longest_ms: u64,
}

/// A lease service, and what is known of it.
struct Service {
    authority: Authority,
    /// Rounds in a row in which it gave no usable lease in time.
    misses: u32,
    /// Rounds in which it is not waited for.
    rest: u32,
    complaint: Complaint,
}

impl Service {
    fn new(authority: Authority) -> Self {
        Self { authority, misses: 0, rest: 0, complaint: Complaint::default() }
    }

    fn missed(&mut self, reason: &str) {
        self.misses = self.misses.saturating_add(1);
        self.rest = 1_u32.checked_shl(self.misses).unwrap_or(MOST_ROUNDS).min(MOST_ROUNDS);
        if self.complaint.is_due(reason) {
            tracing::warn!(authority = %self.authority, reason, "no lease");
        }
    }

    fn gave(&mut self) {
        self.misses = 0;
        self.rest = 0;
        self.complaint.clear();
    }
}

/// A lease that is not handed in yet.
struct Offer {
    service: usize,
    /// How long it would run, by its own words. Nothing depends on it but the order.
    seconds: u64,
    lease: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Renewal<S> {
    pub(super) fn new(
        control: Arc<Control<S>>,
        authorities: Vec<Authority>,
        observed: watch::Sender<Observed>,
    ) -> Self {
        let services = authorities.into_iter().map(Service::new).collect();
        Self { control, services, observed, release: None, leased: None, longest_ms: 0 }
    }

    /// Renews until the control connection ends, and gives its error.
    pub(super) async fn run(mut self) -> io::Error {
        loop {
            match self.look().await {
                Ok(pause) => sleep(pause).await,
                Err(error) => return error,
            }
        }
    }

    /// Looks once, and says when to look again.
    pub(super) async fn look(&mut self) -> io::Result<Duration> {
        let state = self.state().await?;
        if self.release != state.release_sha256 {
            self.release = state.release_sha256;
            self.longest_ms = 0;
        }
        self.longest_ms = self.longest_ms.max(state.lease_left_ms);
        if state.lease_left_ms > self.longest_ms / 2 && self.leased == state.release_sha256 {
            return Ok(pause(state.lease_left_ms));
        }
        self.renew(state.lease_left_ms).await?;
        let state = self.state().await?;
        self.longest_ms = self.longest_ms.max(state.lease_left_ms);
        Ok(pause(state.lease_left_ms))
    }

    async fn state(&self) -> io::Result<ControlState> {
        let state = Control::<S>::state(&self.control.ask_first(ControlKind::State, b"").await?)?;
        self.observed.send_modify(|observed| observed.hear(state));
        Ok(state)
    }

    /// Has every authority sign a lease, and hands them in until they are enough.
    async fn renew(&mut self, left_ms: u64) -> io::Result<()> {
        let request = match self.control.ask_first(ControlKind::Ask, b"").await? {
            ControlAnswer::Ask(request) => request,
            ControlAnswer::Refused(code) => {
                tracing::debug!(code, "the enclave asks for no lease");
                return Ok(());
            }
            _ => return Ok(()),
        };
        let mut answers = self.ask_all(&request);
        for offer in self.gather(&mut answers, left_ms).await {
            if self.hand_in(offer, &request).await? {
                return Ok(());
            }
        }
        // Those that were not waited for, or came too late.
        while let Some(answer) = answers.join_next().await {
            let Some(offer) = answer.ok().and_then(|(service, answer)| self.offer(service, answer)) else {
                continue;
            };
            if self.hand_in(offer, &request).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn ask_all(&self, request: &LeaseRequest) -> JoinSet<(usize, Result<Vec<u8>, String>)> {
        let mut answers = JoinSet::new();
        for (number, service) in self.services.iter().enumerate() {
            let (authority, request) = (service.authority.clone(), request.to_json());
            answers.spawn(async move { (number, authority.lease(request).await) });
        }
        answers
    }

    /// What comes until everybody who is waited for has answered or the time is over, the longest first.
    async fn gather(
        &mut self,
        answers: &mut JoinSet<(usize, Result<Vec<u8>, String>)>,
        left_ms: u64,
    ) -> Vec<Offer> {
        let time = match left_ms {
            0 => GATHERING,
            left => GATHERING.min(Duration::from_millis(left / 4)),
        };
        let end = Instant::now() + time;
        let mut awaited = HashSet::new();
        for (number, service) in self.services.iter_mut().enumerate() {
            if service.rest == 0 {
                awaited.insert(number);
            }
            service.rest = service.rest.saturating_sub(1);
        }
        let mut offers = Vec::new();
        while !awaited.is_empty() || offers.is_empty() {
            let answer = tokio::select! {
                answer = answers.join_next() => answer,
                () = sleep_until(end) => break,
            };
            match answer {
                Some(Ok((service, answer))) => {
                    awaited.remove(&service);
                    offers.extend(self.offer(service, answer));
                }
                Some(Err(_)) => {}
                None => break,
            }
        }
        for number in awaited {
            if let Some(service) = self.services.get_mut(number) {
                service.missed("it did not answer in time");
            }
        }
        offers.sort_by_key(|offer| Reverse(offer.seconds));
        offers
    }

    /// A lease out of a service's answer.
    fn offer(&mut self, number: usize, answer: Result<Vec<u8>, String>) -> Option<Offer> {
        let service = self.services.get_mut(number)?;
        let lease = match answer {
            Ok(lease) => lease,
            Err(reason) => {
                service.missed(&reason);
                return None;
            }
        };
        let parsed = Envelope::parse(&lease, PayloadType::Lease)
            .and_then(|envelope| Lease::from_payload(envelope.payload()));
        match parsed {
            Ok(Lease { seconds, .. }) => Some(Offer { service: number, seconds, lease }),
            Err(_) => {
                service.missed("its answer is no lease");
                None
            }
        }
    }

    /// Hands a lease in. Says whether the enclave has enough.
    async fn hand_in(&mut self, offer: Offer, request: &LeaseRequest) -> io::Result<bool> {
        let answer = self.control.ask_first(ControlKind::LEASE, &offer.lease).await?;
        let Some(service) = self.services.get_mut(offer.service) else { return Ok(false) };
        match answer {
            ControlAnswer::Accepted(Accepted::MoreIssuersNeeded) => service.gave(),
            ControlAnswer::Accepted(_) => {
                service.gave();
                self.leased = Some(request.release_sha256);
                return Ok(true);
            }
            ControlAnswer::Refused(code) => service.missed(&format!("the enclave refused the lease: {code}")),
            _ => {}
        }
        Ok(false)
    }
}

/// When to look again at a lease that still runs for so long.
fn pause(left_ms: u64) -> Duration {
    match left_ms {
        0 => TICK,
        left => Duration::from_millis(left / 4).clamp(SHORTEST_LOOK, TICK),
    }
}
