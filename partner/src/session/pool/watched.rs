//! The watch over what runs on a session that has ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Session, Shared};
use crate::dial::Endpoint;
use crate::session::FAREWELL;
use crate::session::content::Validity;
use crate::session::error::Cut;

/// The longest time after the end of a session until what runs on it is cut, unless the same clean room is
/// proven again.
const CUT_WITHIN: Duration = Duration::from_secs(5);

/// How often an address is tried that fails, and how often one behind which other clean rooms answer: a
/// balancer has so many turns to come to the one that is looked for.
const ATTEMPTS_THAT_FAIL: u32 = 3;
const OTHER_ANSWERS: usize = 16;

/// The pause after an attempt that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What the watch knows of a session. It does not keep the session from its end.
pub(super) struct Watched {
    validity: Validity,
    receipt_key: Arc<[u8]>,
    way: Option<Endpoint>,
    /// Tells that another policy is in force.
    policies: watch::Receiver<()>,
}

impl Watched {
    pub(super) fn of(session: &Session, policies: watch::Receiver<()>) -> Self {
        let (validity, way) = (session.validity.clone(), session.way.clone());
        Self { validity, receipt_key: session.receipt_key().into(), way, policies }
    }
}

impl Shared {
    /// Ends a session when what it rests on ends, or another policy is in force.
    ///
    /// Requests that run on it go on only if the same clean room is proven again, with a lease that has not
    /// ended.
    pub(super) async fn watch(self: Arc<Self>, watched: Watched) {
        let Watched { validity, receipt_key, way, mut policies } = watched;
        let Validity { clock, mut until, connection } = validity;
        loop {
            tokio::select! {
                () = connection.ended() => return,
                () = clock.sleep_until(until) => {
                    self.retire(&receipt_key, until);
                    if timeout(FAREWELL, connection.ended()).await.is_ok() {
                        return;
                    }
                }
                Ok(()) = policies.changed() => {
                    // Also where the session had been taken out of use before.
                    connection.supersede();
                    until = clock.now();
                }
            }
            let again = self.prove_again(&receipt_key, way.as_ref());
            match clock.timeout_at(until + CUT_WITHIN, again).await {
                Ok(Ok(proven)) => until = proven.until(),
                Ok(Err(cut)) => return connection.cut(cut.code, &cut.reason),
                Err(_) => {
                    let reason = "the clean room was not proven again in time";
                    return connection.cut("not-proven-in-time", reason);
                }
            }
        }
    }

    /// A session to the clean room with this receipt key: the one in use, or one that is proven now.
    ///
    /// Behind a balancer, other clean rooms may answer first. Their connections are held meanwhile, so that a
    /// balancer that looks for the fewest connections comes to all of its clean rooms.
    ///
    /// # Errors
    /// Why the clean room could not be proven again.
    pub(super) async fn prove_again(
        self: &Arc<Self>,
        receipt_key: &[u8],
        way: Option<&Endpoint>,
    ) -> Result<Arc<Session>, Cut> {
        let mut others = Vec::new();
        let mut failures = 0;
        loop {
            let in_use = self.state().of_room(receipt_key);
            if let Some(session) = in_use {
                return Ok(session);
            }
            let Some(way) = way else {
                let reason = "nobody knows how to reach the clean room".to_owned();
                return Err(Cut { code: "unreachable", reason });
            };
            let party = self.party();
            match self.prove(&party, way).await {
                Ok(session) if session.receipt_key() == receipt_key => {
                    if let Some(session) = self.keep(session, &party) {
                        return Ok(session);
                    }
                }
                Ok(other) => others.push(other),
                // It was judged by a policy that is no longer in force.
                Err(_) if !self.is_in_force(&party) => {}
                Err(error) => {
                    failures += 1;
                    if error.is_refusal() || failures == ATTEMPTS_THAT_FAIL {
                        return Err(Cut { code: error.code(), reason: error.to_string() });
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
            if others.len() == OTHER_ANSWERS {
                let reason = "other enclaves answer at its address, and this one was not proven again";
                return Err(Cut { code: "other-enclaves", reason: reason.to_owned() });
            }
        }
    }
}
