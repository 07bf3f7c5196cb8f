//! The counters of the services. No counter is about a partner or about the contents of a request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cleanroom_attestation::release::UnixMillis;
use cleanroom_program::log;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::Value;

/// The type of a page of metrics.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Number = Gauge<u64, AtomicU64>;

/// Who hears how many connections there are.
pub(crate) trait Watcher: Send + Sync {
    /// So many are open now.
    fn connections(&self, open: usize);
    /// One ended so that another client could be served.
    fn shed(&self);
}

/// What every service of this program counts.
#[derive(Default)]
pub(crate) struct Counts {
    /// By endpoint and result. Results are codes of this program.
    answers: Family<[(&'static str, &'static str); 2], Counter>,
    connections: Number,
    shed: Counter,
    lost_lines: Counter,
}

impl Counts {
    /// Counts that are part of `registry`'s page.
    pub(crate) fn on(registry: &mut Registry) -> Arc<Self> {
        let counts = Self::default();
        registry.register("connections", "Connections that are open", counts.connections.clone());
        registry.register("answers", "Answers by endpoint and result", counts.answers.clone());
        registry.register(
            "connections_shed",
            "Connections that ended so that another client could be served",
            counts.shed.clone(),
        );
        registry.register(
            "log_lines_lost",
            "Log lines that standard error did not take",
            counts.lost_lines.clone(),
        );
        Arc::new(counts)
    }

    pub(crate) fn count(&self, endpoint: &'static str, result: &'static str) {
        self.answers.get_or_create(&[("endpoint", endpoint), ("result", result)]).inc();
    }

    /// The page of the registry that these counts are part of.
    pub(crate) fn page(&self, registry: &Registry) -> String {
        self.lost_lines.inner().store(log::lost_lines(), Ordering::Relaxed);
        let mut page = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut page, registry);
        page
    }
}

impl Watcher for Counts {
    fn connections(&self, open: usize) {
        self.connections.set(open as u64);
    }

    fn shed(&self) {
        self.shed.inc();
    }
}

/// What a lease service counts.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) counts: Arc<Counts>,
    granted: Number,
    root_version: Number,
    release_version: Number,
    denials: Number,
    denials_not_kept: Number,
    root_expiry: Number,
    release_expiry: Number,
    /// One page at a time, so that its numbers belong together.
    page: Mutex<()>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("cleanroom_authority");
        let counts = Counts::on(&mut registry);
        let mut metrics = Self {
            registry,
            counts,
            granted: Number::default(),
            root_version: Number::default(),
            release_version: Number::default(),
            denials: Number::default(),
            denials_not_kept: Number::default(),
            root_expiry: Number::default(),
            release_expiry: Number::default(),
            page: Mutex::default(),
        };
        let registry = &mut metrics.registry;
        for (name, help, gauge) in [
            ("leases_granted", "1 while an up-to-date enclave would get a lease", &metrics.granted),
            ("root_version", "Version of the root", &metrics.root_version),
            ("release_version", "Version of the release", &metrics.release_version),
            ("denials_in_force", "Denials that the release does not lift", &metrics.denials),
            (
                "denials_not_kept",
                "Denials in force that the disk did not take yet",
                &metrics.denials_not_kept,
            ),
            ("root_expiry_seconds", "Unix time at which the root expires", &metrics.root_expiry),
            ("release_expiry_seconds", "Unix time at which the release expires", &metrics.release_expiry),
        ] {
            registry.register(name, help, gauge.clone());
        }
        metrics
    }

    /// The page that monitoring reads. `status` is what `Issuer::status` says.
    pub(crate) fn page(&self, status: &Value) -> String {
        let _page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        self.granted.set(u64::from(status.get("leases").is_some_and(|leases| leases == "granted")));
        self.root_version.set(number(status, "/root/version"));
        self.release_version.set(number(status, "/release/version"));
        let in_force = status.get("denials_in_force").and_then(Value::as_array);
        self.denials.set(in_force.map_or(0, |denials| denials.len() as u64));
        self.denials_not_kept.set(number(status, "/denials_not_kept"));
        for (path, gauge) in
            [("/root/expires", &self.root_expiry), ("/release/expires", &self.release_expiry)]
        {
            let expires = status.pointer(path).and_then(Value::as_str).and_then(|time| time.parse().ok());
            let UnixMillis(millis) = expires.unwrap_or(UnixMillis(0));
            gauge.set(millis / 1000);
        }
        self.counts.page(&self.registry)
    }
}

/// The number at a JSON pointer (RFC 6901); 0 where there is none.
fn number(status: &Value, path: &str) -> u64 {
    status.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

/// Fails unless `docs/observability.md` lists every metric of `page` for `service`, or for all, and no other.
#[cfg(test)]
pub(crate) fn assert_listed(service: &str, page: &str) {
    let text = include_str!("../../docs/observability.md");
    let (_, section) = text.split_once("## Metrics of an authority's services").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut listed = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let [names, of] = [1, 2].map(|column| row.split('|').nth(column).unwrap().trim());
        if of == "all" || of == service {
            listed.extend(names.split(", ").map(|name| name.trim_matches('`').to_owned()));
        }
    }
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE cleanroom_")?.split_once(' '));
    let mut metrics: Vec<_> = types
        // The service's prefix is one word.
        .map(|(name, _)| name.split_once('_').unwrap().1.to_owned())
        .collect();
    metrics.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, metrics);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_metric_of_a_lease_service() {
        let metrics = Metrics::new();
        metrics.counts.count("lease", "granted");
        assert_listed("lease", &metrics.page(&Value::Null));
    }
}
