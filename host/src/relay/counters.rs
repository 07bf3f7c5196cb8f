//! The counters of a relay: connections and bytes, never contents.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::connection::Ended;

/// Counters of a relay, from its start.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    shed: AtomicU64,
    shed_by_client: AtomicU64,
    shed_by_header: AtomicU64,
    accept_errors: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    silent: AtomicU64,
    idle: AtomicU64,
    expired: AtomicU64,
    displaced: AtomicU64,
    drained: AtomicU64,
    unreachable: AtomicU64,
    bytes_to_enclave: AtomicU64,
    bytes_to_partner: AtomicU64,
}

/// The counters' values at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Connections that were accepted and got a slot.
    pub accepted: u64,
    /// Connections that were closed at once because every slot was taken.
    pub shed: u64,
    /// Connections that were closed at once because their client had as many as one may.
    pub shed_by_client: u64,
    /// Connections that were closed because their balancer did not say in time, or not in a form that is known, whom
    /// they come from.
    pub shed_by_header: u64,
    /// Times that the system could not give a connection.
    pub accept_errors: u64,
    /// Connections that are open.
    pub active: u64,
    /// Connections that both sides closed.
    pub closed: u64,
    /// Connections that one side broke.
    pub failed: u64,
    /// Connections that were ended because they never got as far as a TLS session.
    pub silent: u64,
    /// Connections that were ended because nothing moved.
    pub idle: u64,
    /// Connections that were ended because they lived too long.
    pub expired: u64,
    /// Connections that were ended because another client needed a slot and theirs had most.
    pub displaced: u64,
    /// Connections that were ended because the host went down.
    pub drained: u64,
    /// Connections for which the enclave could not be reached.
    pub unreachable: u64,
    /// Bytes carried to the enclave by connections that have ended.
    pub bytes_to_enclave: u64,
    /// Bytes carried to partners by connections that have ended.
    pub bytes_to_partner: u64,
}

impl Counters {
    pub(super) fn accepted(&self) {
        add(&self.accepted, 1);
    }

    pub(super) fn shed(&self) {
        add(&self.shed, 1);
    }

    pub(super) fn shed_by_client(&self) {
        add(&self.shed_by_client, 1);
    }

    pub(super) fn shed_by_header(&self) {
        add(&self.shed_by_header, 1);
    }

    pub(super) fn accept_error(&self) {
        add(&self.accept_errors, 1);
    }

    pub(super) fn ended(&self, how: Ended, to_enclave: u64, to_partner: u64) {
        add(&self.bytes_to_enclave, to_enclave);
        add(&self.bytes_to_partner, to_partner);
        let counter = match how {
            Ended::Closed => &self.closed,
            Ended::Failed(_) => &self.failed,
            Ended::Silent => &self.silent,
            Ended::Idle => &self.idle,
            Ended::Expired => &self.expired,
            Ended::Displaced => &self.displaced,
            Ended::Drained => &self.drained,
            Ended::Unreachable => &self.unreachable,
        };
        add(counter, 1);
    }

    /// The values now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let ends = [
            &self.closed,
            &self.failed,
            &self.silent,
            &self.idle,
            &self.expired,
            &self.displaced,
            &self.drained,
            &self.unreachable,
        ];
        // Ends are read before beginnings, so that the difference is never negative.
        let ended: u64 = ends.into_iter().map(get).sum();
        let accepted = get(&self.accepted);
        Snapshot {
            accepted,
            shed: get(&self.shed),
            shed_by_client: get(&self.shed_by_client),
            shed_by_header: get(&self.shed_by_header),
            accept_errors: get(&self.accept_errors),
            active: accepted.saturating_sub(ended),
            closed: get(&self.closed),
            failed: get(&self.failed),
            silent: get(&self.silent),
            idle: get(&self.idle),
            expired: get(&self.expired),
            displaced: get(&self.displaced),
            drained: get(&self.drained),
            unreachable: get(&self.unreachable),
            bytes_to_enclave: get(&self.bytes_to_enclave),
            bytes_to_partner: get(&self.bytes_to_partner),
        }
    }
}

impl Snapshot {
    /// The values in Prometheus's text format, version 0.0.4.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        family(
            "cleanroom_relay_connections_accepted_total",
            "counter",
            "Connections that got a slot.",
            &[("", self.accepted)],
        );
        family(
            "cleanroom_relay_connections_shed_total",
            "counter",
            "Connections closed at once, by reason: every slot was taken, their client had its share, or their \
             balancer's header is missing.",
            &[
                ("{reason=\"full\"}", self.shed),
                ("{reason=\"client\"}", self.shed_by_client),
                ("{reason=\"header\"}", self.shed_by_header),
            ],
        );
        family(
            "cleanroom_relay_accept_errors_total",
            "counter",
            "Times that the system could not give a connection.",
            &[("", self.accept_errors)],
        );
        family("cleanroom_relay_connections_active", "gauge", "Open connections.", &[("", self.active)]);
        family(
            "cleanroom_relay_connections_ended_total",
            "counter",
            "Connections that ended, by reason.",
            &[
                ("{reason=\"closed\"}", self.closed),
                ("{reason=\"failed\"}", self.failed),
                ("{reason=\"silent\"}", self.silent),
                ("{reason=\"idle\"}", self.idle),
                ("{reason=\"expired\"}", self.expired),
                ("{reason=\"displaced\"}", self.displaced),
                ("{reason=\"drained\"}", self.drained),
                ("{reason=\"unreachable\"}", self.unreachable),
            ],
        );
        family(
            "cleanroom_relay_bytes_total",
            "counter",
            "Bytes carried by connections that have ended.",
            &[
                ("{direction=\"to_enclave\"}", self.bytes_to_enclave),
                ("{direction=\"to_partner\"}", self.bytes_to_partner),
            ],
        );
        text
    }
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_counted_under_its_reason() {
        let counters = Counters::default();
        let ends = [
            Ended::Closed,
            Ended::Failed(std::io::ErrorKind::ConnectionReset),
            Ended::Silent,
            Ended::Idle,
            Ended::Expired,
            Ended::Displaced,
            Ended::Drained,
            Ended::Unreachable,
        ];
        for (index, how) in ends.into_iter().enumerate() {
            for _ in 0..=index {
                counters.accepted();
                counters.ended(how, 10, 100);
            }
        }
        counters.accepted();
        counters.shed();
        counters.shed_by_client();
        counters.shed_by_header();
        let text = counters.snapshot().to_prometheus();
        for (index, how) in ends.into_iter().enumerate() {
            let line = format!(
                "cleanroom_relay_connections_ended_total{{reason=\"{}\"}} {}\n",
                how.as_str(),
                index + 1
            );
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        for line in [
            "cleanroom_relay_connections_accepted_total 37\n",
            "cleanroom_relay_connections_active 1\n",
            "cleanroom_relay_connections_shed_total{reason=\"full\"} 1\n",
            "cleanroom_relay_connections_shed_total{reason=\"client\"} 1\n",
            "cleanroom_relay_connections_shed_total{reason=\"header\"} 1\n",
            "cleanroom_relay_bytes_total{direction=\"to_enclave\"} 360\n",
            "cleanroom_relay_bytes_total{direction=\"to_partner\"} 3600\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
