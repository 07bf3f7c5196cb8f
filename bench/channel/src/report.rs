//! The result: text for people, JSON for programs, and whether the targets are met.

use serde_json::{Map, Value, json};

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    text: bool,
    sections: Map<String, Value>,
    targets: Vec<Target>,
}

struct Target {
    what: &'static str,
    actual: f64,
    limit: Limit,
}

/// What a number must be.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn holds(self, actual: f64) -> bool {
        match self {
            Self::AtMost(limit) => actual <= limit,
            Self::AtLeast(limit) => actual >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("at most {limit:.2}"),
            Self::AtLeast(limit) => format!("at least {limit:.2}"),
        }
    }
}

impl Report {
    /// A report that also speaks while it is made, unless it is to be JSON.
    pub(crate) fn new(json: bool) -> Self {
        Self { text: !json, ..Self::default() }
    }

    /// A line for people.
    pub(crate) fn line(&self, line: impl AsRef<str>) {
        if self.text {
            println!("{}", line.as_ref());
        }
    }

    /// A section for programs.
    pub(crate) fn section(&mut self, name: &str, content: Value) {
        self.sections.insert(name.to_owned(), content);
    }

    /// A number that has a target.
    pub(crate) fn target(&mut self, what: &'static str, actual: f64, limit: Limit) {
        self.targets.push(Target { what, actual, limit });
    }

    /// Says how it ended. Gives whether every target is met.
    pub(crate) fn conclude(mut self) -> bool {
        self.line("");
        for Target { what, actual, limit } in &self.targets {
            let verdict = if limit.holds(*actual) { "met   " } else { "MISSED" };
            self.line(format!("{verdict}  {what}: {actual:.3}, target {}", limit.text()));
        }
        let targets = self.targets.iter().map(|target| {
            json!({
                "what": target.what,
                "actual": target.actual,
                "target": target.limit.text(),
                "met": target.limit.holds(target.actual),
            })
        });
        let targets = targets.collect();
        self.sections.insert("targets".to_owned(), targets);
        if !self.text {
            println!("{:#}", Value::Object(self.sections));
        }
        self.targets.iter().all(|target| target.limit.holds(target.actual))
    }
}
