//! What was measured, and whether the targets are met.

/// Everything that has a target.
#[derive(Default)]
pub(crate) struct Report(Vec<Target>);

struct Target {
    what: String,
    actual: f64,
    limit: Limit,
}

/// What a number must be.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Report {
    /// Says which machine this is, and what else it does.
    pub(crate) fn machine(&self) {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let avx512 = if flags.contains(" avx512f") { "AVX-512" } else { "no AVX-512" };
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!(
            "{}, {avx512}, {processors} processors; load before the first measurement: {}",
            name.map_or("unknown processor", |(_, name)| name),
            load.trim()
        );
    }

    /// A number that has a target.
    pub(crate) fn target(&mut self, what: impl Into<String>, actual: f64, limit: Limit) {
        self.0.push(Target { what: what.into(), actual, limit });
    }

    /// Prints each target with its number. Gives whether all are met.
    pub(crate) fn conclude(self) -> bool {
        println!();
        let mut all = true;
        for Target { what, actual, limit } in self.0 {
            let (met, limit) = match limit {
                Limit::AtMost(limit) => (actual <= limit, format!("at most {limit:.2}")),
                Limit::AtLeast(limit) => (actual >= limit, format!("at least {limit:.2}")),
            };
            println!("{}  {what}: {actual:.3}, target {limit}", if met { "met   " } else { "MISSED" });
            all &= met;
        }
        all
    }
}

/// The middle one.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    at(values, 50)
}

/// The value below which so many of a hundred are.
pub(crate) fn at(values: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(f64::NAN)
}
