//! Which rule of the specification is held by which vectors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Vector;

/// What `docs/verification.md` says, as far as a program can read it: rules, their codes, and gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Every rule in the order of the document.
    pub rules: Vec<Rule>,
    /// Codes that the document lists as gaps: no vector has them.
    pub gaps: BTreeSet<String>,
}

/// A rule of the document: a list item that begins with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Like `V-1.1`.
    pub number: String,
    /// What stands in backticks behind `Code:` or `Codes:`.
    pub codes: Vec<String>,
    /// What stands behind `No vector:`; why the rule has none.
    pub no_vector: Option<String>,
}

impl Coverage {
    /// Reads the document.
    #[must_use]
    pub fn of(document: &str) -> Self {
        let items = items(document);
        let rules = items.iter().filter_map(|item| rule(item)).collect();
        let gaps = document
            .split_once("\n## Gaps\n")
            .map(|(_, section)| section.split_once("\n## ").map_or(section, |(section, _)| section))
            .into_iter()
            .flat_map(str::lines)
            .filter_map(|line| Some(line.strip_prefix("- `")?.split_once('`')?.0.to_owned()))
            .collect();
        Self { rules, gaps }
    }

    /// Everything in which the document and the vectors contradict each other, for people. Empty when they agree.
    #[must_use]
    pub fn problems(&self, vectors: &[Vector]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut numbers = BTreeSet::new();
        for rule in &self.rules {
            if !numbers.insert(rule.number.as_str()) {
                problems.push(format!("{} is in the document twice", rule.number));
            }
        }
        let held = by_rule(vectors);
        let mut ids = BTreeSet::new();
        for vector in vectors {
            if !ids.insert(&vector.id) {
                problems.push(format!("{} is there twice", vector.id));
            }
            let rules: Vec<_> =
                self.rules.iter().filter(|rule| vector.rules.contains(&rule.number)).collect();
            if rules.len() != vector.rules.len() {
                problems.push(format!(
                    "{} names a rule that is not in the document: {:?}",
                    vector.id, vector.rules
                ));
            }
            if let Some(code) = &vector.response.code
                && !rules.iter().any(|rule| rule.codes.contains(code))
                // The rule on the order of checks holds for every code.
                && !vector.rules.iter().any(|rule| rule == "V-8.3")
            {
                problems.push(format!("{} has the code {code}, which none of its rules names", vector.id));
            }
        }
        let codes = codes(vectors);
        for rule in &self.rules {
            match (held.contains_key(rule.number.as_str()), &rule.no_vector) {
                (false, None) => problems.push(format!("{} has no vector and does not say why", rule.number)),
                (true, Some(_)) => {
                    problems.push(format!("{} has vectors and says that it has none", rule.number));
                }
                (true, None) => {
                    let missing = rule.codes.iter().filter(|code| !codes.contains(code.as_str()));
                    for code in missing.filter(|code| !self.gaps.contains(*code)) {
                        problems.push(format!(
                            "{code} of {} has no vector and is not listed as a gap",
                            rule.number
                        ));
                    }
                }
                (false, Some(_)) => {}
            }
        }
        for code in self.gaps.iter().filter(|code| codes.contains(code.as_str())) {
            problems.push(format!("{code} is listed as a gap and has a vector"));
        }
        problems
    }

    /// Every code that the document names, in a rule or as a gap.
    #[must_use]
    pub fn codes(&self) -> BTreeSet<&str> {
        let of_rules = self.rules.iter().flat_map(|rule| &rule.codes);
        of_rules.chain(&self.gaps).map(String::as_str).collect()
    }
}

/// The table of coverage in Markdown.
#[must_use]
pub fn table(document: &str, vectors: &[Vector]) -> String {
    let coverage = Coverage::of(document);
    let held = by_rule(vectors);
    let mut table = "| rule | codes | vectors |\n|---|---|---|\n".to_owned();
    for rule in &coverage.rules {
        let codes: Vec<_> = rule.codes.iter().map(|code| format!("`{code}`")).collect();
        let codes = if codes.is_empty() { "–".to_owned() } else { codes.join(", ") };
        let vectors = match held.get(rule.number.as_str()) {
            Some(ids) => format!("{}: {}", ids.len(), ids.join(", ")),
            None => format!("**none**: {}", rule.no_vector.as_deref().unwrap_or("not yet")),
        };
        let _ = writeln!(table, "| {} | {codes} | {vectors} |", rule.number);
    }
    let accepted = vectors.iter().filter(|vector| vector.response.code.is_none()).count();
    let distinct = codes(vectors).len();
    let without = coverage.rules.iter().filter(|rule| !held.contains_key(rule.number.as_str())).count();
    let _ = write!(
        table,
        "\n{} vectors, {accepted} of them accepted; {distinct} codes; {} rules, {without} of them without a vector.\n",
        vectors.len(),
        coverage.rules.len(),
    );
    table
}

fn by_rule(vectors: &[Vector]) -> BTreeMap<&str, Vec<&str>> {
    let mut held: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for vector in vectors {
        for rule in &vector.rules {
            held.entry(rule).or_default().push(&vector.id);
        }
    }
    held
}

/// Every code that some vector expects.
fn codes(vectors: &[Vector]) -> BTreeSet<&str> {
    let responses = || vectors.iter().map(|vector| &vector.response);
    let failed = responses().filter_map(|response| response.failed.as_ref()).flatten();
    let first = responses().filter_map(|response| response.code.as_ref());
    let session = responses().filter_map(|response| response.session.as_ref());
    failed.chain(first).chain(session).map(String::as_str).filter(|code| *code != "accepted").collect()
}

/// The document's list items, each as one line.
fn items(document: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    let mut open = false;
    for line in document.lines() {
        if line.starts_with("- ") {
            items.push(line.to_owned());
            open = true;
        } else if open && line.starts_with("  ") {
            if let Some(item) = items.last_mut() {
                item.push(' ');
                item.push_str(line.trim());
            }
        } else {
            open = false;
        }
    }
    items
}

fn rule(item: &str) -> Option<Rule> {
    let (number, text) = item.strip_prefix("- **")?.split_once("**")?;
    if !number.starts_with("V-") {
        return None;
    }
    let (text, no_vector) = match text.split_once("No vector: ") {
        Some((text, reason)) => (text, Some(reason.trim().trim_end_matches('.').to_owned())),
        None => (text, None),
    };
    let codes =
        text.split_once("Code: ").or_else(|| text.split_once("Codes: ")).map_or("", |(_, codes)| codes);
    let codes = codes.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some(Rule { number: number.to_owned(), codes, no_vector })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Expected, Outcome, Request, Response};

    const DOCUMENT: &str = "\
# Title

- **V-1.1** One MUST, over
  two lines. Codes: `one`, `two`.
- **V-1.2** Nobody can test this. Code: `three`. No vector: it
  takes too long.

## Gaps

- `two`: no reason.

## More

- `four` is none.
";

    fn vector(id: &str, rule: &str, code: &str) -> Vector {
        let (document, policy) = (String::new(), String::new());
        Vector {
            id: id.to_owned(),
            rules: vec![rule.to_owned()],
            about: String::new(),
            request: Request { document, policy, expected: Expected::default(), at_ms: 0 },
            response: Response {
                outcome: Outcome::Fail,
                code: Some(code.to_owned()),
                failed: None,
                axes: None,
                tier: None,
                debug: None,
                session: None,
            },
        }
    }

    #[test]
    fn a_document_is_read() {
        let coverage = Coverage::of(DOCUMENT);
        assert_eq!(coverage.rules[0].codes, ["one", "two"]);
        assert_eq!(coverage.rules[1].no_vector.as_deref(), Some("it takes too long"));
        assert_eq!(coverage.codes().into_iter().collect::<Vec<_>>(), ["one", "three", "two"]);
        let table = table(DOCUMENT, &[vector("a", "V-1.1", "one")]);
        assert!(table.contains("| V-1.1 | `one`, `two` | 1: a |\n"), "{table}");
        assert!(table.contains("| V-1.2 | `three` | **none**: it takes too long |\n"), "{table}");
    }

    #[test]
    fn every_contradiction_is_found() {
        let coverage = Coverage::of(DOCUMENT);
        assert_eq!(coverage.problems(&[vector("a", "V-1.1", "one")]), [""; 0]);
        let only = |vectors: &[Vector], expected: &str| {
            let problems = coverage.problems(vectors);
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{problems:?}");
        };
        only(&[], "V-1.1 has no vector");
        only(&[vector("a", "V-9.9", "one")], "not in the document");
        only(&[vector("a", "V-1.1", "else")], "none of its rules names");
        only(&[vector("a", "V-1.1", "two")], "one of V-1.1 has no vector");
        only(&[vector("a", "V-1.1", "two")], "two is listed as a gap and has a vector");
        only(&[vector("a", "V-1.2", "three")], "says that it has none");
        only(&[vector("a", "V-1.1", "one"), vector("a", "V-1.1", "one")], "is there twice");
    }
}
