//! What the proxy counts: connections, answers and proofs by their codes. Nothing is about what a request says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cleanroom_program::log;
use http::StatusCode;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::slots::Slots;
use crate::session::ProofResult;

type Number = Gauge<u64, AtomicU64>;

/// The code of an answer that the proxy passed on: its own problems have other ones.
pub(super) const PASSED_ON: &str = "none";

/// The counters of one proxy.
pub(super) struct Metrics {
    registry: Registry,
    slots: Arc<Slots>,
    is_draining: AtomicBool,
    /// By the class of the status, and the code of the proxy's problem.
    answers: Family<[(&'static str, &'static str); 2], Counter>,
    cut: Family<[(&'static str, &'static str); 1], Counter>,
    proofs: Family<[(&'static str, &'static str); 2], Counter>,
    ready: Number,
    sessions: Number,
    requests: Number,
    connections: Number,
    shed: Counter,
    lost_lines: Counter,
    /// One page at a time, so that its numbers belong together.
    page: Mutex<()>,
}

impl Metrics {
    /// Counters of a proxy whose connections are in `slots`.
    pub(super) fn of(slots: &Arc<Slots>) -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("cleanroom_connect"),
            slots: Arc::clone(slots),
            is_draining: AtomicBool::new(false),
            answers: Family::default(),
            cut: Family::default(),
            proofs: Family::default(),
            ready: Number::default(),
            sessions: Number::default(),
            requests: Number::default(),
            connections: Number::default(),
            shed: Counter::default(),
            lost_lines: Counter::default(),
            page: Mutex::default(),
        };
        let registry = &mut metrics.registry;
        for (name, help, gauge) in [
            ("ready", "1 while a request would be sent at once", &metrics.ready),
            ("sessions", "Sessions to proven clean rooms that take requests", &metrics.sessions),
            ("requests_under_way", "Requests whose answers have not ended", &metrics.requests),
            ("connections", "Connections of clients that are open", &metrics.connections),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "answers",
            "Answers by class of status and code of the proxy's own problem",
            metrics.answers.clone(),
        );
        registry.register("answers_cut", "Answers that broke off, by code", metrics.cut.clone());
        registry.register(
            "proofs",
            "Attempts to prove a clean room, by result and code",
            metrics.proofs.clone(),
        );
        registry.register(
            "connections_shed",
            "Connections that had no place, or gave theirs to another client",
            metrics.shed.clone(),
        );
        registry.register(
            "log_lines_lost",
            "Log lines that standard error did not take",
            metrics.lost_lines.clone(),
        );
        metrics
    }

    /// An answer begins. `code` says which problem of the proxy's it tells, or [`PASSED_ON`].
    pub(super) fn answer(&self, status: StatusCode, code: &'static str) {
        let class = match status.as_u16() {
            ..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.answers.get_or_create(&[("status", class), ("code", code)]).inc();
    }

    /// An answer broke off.
    pub(super) fn cut(&self, code: &'static str) {
        self.cut.get_or_create(&[("code", code)]).inc();
    }

    /// The proxy takes nothing new.
    pub(super) fn drains(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// The page that monitoring reads: `usable` sessions take requests, and so many proofs had each result.
    pub(super) fn page(&self, usable: usize, proofs: BTreeMap<ProofResult, u64>) -> String {
        let _page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        self.ready.set(u64::from(usable > 0 && !self.is_draining()));
        self.sessions.set(usable as u64);
        let counts = self.slots.counts();
        self.connections.set(counts.open as u64);
        self.requests.set(counts.under_way as u64);
        self.shed.inner().store(counts.shed, Ordering::Relaxed);
        for (ProofResult { result, code }, count) in proofs {
            let proofs = self.proofs.get_or_create(&[("result", result), ("code", code)]);
            proofs.inner().store(count, Ordering::Relaxed);
        }
        self.lost_lines.inner().store(log::lost_lines(), Ordering::Relaxed);
        let mut page = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut page, &self.registry);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_metric_and_no_other() {
        let metrics = Metrics::of(&Slots::new(1));
        // Those with labels are shown after the first of their events.
        metrics.answer(StatusCode::OK, PASSED_ON);
        metrics.cut("connection-lost");
        let proofs = BTreeMap::from([(ProofResult { result: "proven", code: "none" }, 1)]);
        let page = metrics.page(0, proofs);
        let types =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE cleanroom_connect_")?.split(' ').next());
        let mut shown: Vec<_> = types.collect();
        let text = include_str!("../../../docs/observability.md");
        let (_, section) = text.split_once("## Metrics of a partner's proxy").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut listed: Vec<_> = rows.collect();
        shown.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, shown);
    }
}
