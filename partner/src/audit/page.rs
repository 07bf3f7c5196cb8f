//! The report as one page: a file of HTML that needs nothing else, not even a script.

use core::fmt::{self, Write as _};

use cleanroom_attestation::release::UnixMillis;
use cleanroom_report::page::{
    Condition, Event, Fault, Pill, Safe, Short, Time, begin, end, faults, joined, timeline, who_may_do_what,
};

use super::report::{BootReport, BootStatus, Report};

/// What a page says beside the report.
pub struct Page<'a> {
    /// The store that was read.
    pub store: &'a str,
    /// When, by the auditor's clock.
    pub at: UnixMillis,
    /// Whether a policy was asked, so that boots are proven to be those of enclaves.
    pub has_policy: bool,
}

/// The page.
#[must_use]
pub fn page(report: &Report, page: &Page<'_>) -> String {
    let mut html = String::new();
    // Writing into a string does not fail.
    let _ = write(&mut html, report, page);
    html
}

fn write(html: &mut String, report: &Report, page: &Page<'_>) -> fmt::Result {
    let room = report.terms.as_ref().map_or("a clean room", |terms| terms.room.as_str());
    begin(html, "Audit", room, page.at, page.store)?;
    verdict(html, report, page)?;
    let problems = report.problems.iter();
    faults(
        html,
        problems.map(|found| Fault { code: found.code, place: &found.place, problem: &found.problem }),
    )?;
    if let Some(terms) = &report.terms {
        who_may_do_what(html, terms, page.at)?;
    }
    timeline(html, events(report))?;
    boots(html, report, page)?;
    end(
        html,
        "Every entry was read and the tree computed anew. Digests are SHA-256; a digest is whole in its tooltip and in \
         <code>cleanroom audit --json</code>. Times in logs are those of the enclaves' security modules.",
    )
}

fn verdict(html: &mut String, report: &Report, page: &Page<'_>) -> fmt::Result {
    let (condition, says) = match (report.problems.len(), page.has_policy) {
        (0, true) => (
            Condition::Good,
            "✓ Nothing is wrong. Every log is whole, and is that of an accepted enclave.".to_owned(),
        ),
        (0, false) => {
            (Condition::Held, "Every log is whole. No policy said which enclaves are accepted.".to_owned())
        }
        (1, _) => (Condition::Bad, "✗ One thing is wrong.".to_owned()),
        (many, _) => (Condition::Bad, format!("✗ {many} things are wrong.")),
    };
    cleanroom_report::page::verdict(html, condition, &says)?;
    if report.receipts > 0 {
        let found: usize = report.boots.iter().map(|boot| boot.receipts_found).sum();
        write!(html, "<p>{found} of {} receipts stand in the log where they say.</p>", report.receipts)?;
    }
    Ok(())
}

/// Everything that the logs say.
fn events(report: &Report) -> Vec<Event> {
    let mut events = Vec::new();
    for boot in &report.boots {
        let which = format!("{}…", boot.boot.to_string().get(..12).unwrap_or_default());
        let mut event = |at_ms, is_good, says| events.push(Event { at_ms, is_good, says });
        if let Some(at) = boot.began_ms {
            let model = boot.model.as_deref().unwrap_or("a model");
            event(at, Some(true), format!("Enclave {which} began to serve {model}"));
        }
        if let Some(at) = boot.ended_ms {
            event(at, None, format!("Enclave {which} ended in order"));
        }
        for taken in &boot.history {
            let says = taken.says.clone().unwrap_or_else(|| format!("{} {}", taken.kind, taken.sha256));
            let (is_good, took) =
                if taken.kind == "denial" { (Some(false), "a denial that ") } else { (None, "") };
            event(taken.at_ms, is_good, format!("Enclave {which} took {took}{says}"));
        }
        for opened in &boot.openings {
            let says = format!("Enclave {which} opened record {}: {}", opened.record_sha256, opened.reason);
            event(opened.at_ms, Some(false), says);
        }
    }
    events
}

fn boots(html: &mut String, report: &Report, page: &Page<'_>) -> fmt::Result {
    html.push_str("<section aria-labelledby=\"boots\"><h2 id=\"boots\">Enclaves</h2>");
    if report.boots.is_empty() {
        html.push_str("<p>The store has no log.</p>");
    }
    for boot in &report.boots {
        one_boot(html, boot, page)?;
    }
    html.push_str("</section>");
    Ok(())
}

fn one_boot(html: &mut String, boot: &BootReport, page: &Page<'_>) -> fmt::Result {
    let state = match (boot.problems.is_empty(), boot.status) {
        (false, _) => Pill(Condition::Bad, "something is wrong"),
        (true, BootStatus::Ended) => Pill(Condition::Good, "whole, and ended"),
        (true, BootStatus::Open) => Pill(Condition::Good, "whole, without an end yet"),
    };
    write!(html, "<div class=\"card\"><h3>{} {state}</h3><dl>", Short(&boot.boot))?;
    if let (Some(model), Some(sha256)) = (&boot.model, &boot.model_sha256) {
        write!(html, "<dt>Model</dt><dd>{} {}</dd>", Safe(model), Short(sha256))?;
    }
    match &boot.image {
        Some(image) => write!(html, "<dt>Image</dt><dd>{}</dd>", Safe(image))?,
        None if page.has_policy => html.push_str("<dt>Image</dt><dd>not accepted</dd>"),
        None => html.push_str("<dt>Image</dt><dd>not asked</dd>"),
    }
    if let Some(at) = boot.began_ms {
        write!(html, "<dt>Began</dt><dd>{}</dd>", Time(at))?;
    }
    if let Some(at) = boot.ended_ms {
        write!(html, "<dt>Ended</dt><dd>{}</dd>", Time(at))?;
    }
    let entries = boot.entries.iter().map(|(kind, count)| format!("{count} {kind}"));
    let entries = entries.collect::<Vec<_>>().join(", ");
    write!(html, "<dt>Entries</dt><dd>{}: {}</dd>", boot.size, Safe(entries))?;
    for (limit, count) in &boot.held {
        write!(html, "<dt>Held</dt><dd>{count} times a partner reached the limit {}</dd>", Safe(limit))?;
    }
    for opened in &boot.openings {
        let whose =
            opened.receipt.as_ref().map_or(String::new(), |receipt| format!(", of your request {receipt}"));
        write!(
            html,
            "<dt>Opened</dt><dd>{}: record {}{}: {}: {}</dd>",
            Time(opened.at_ms),
            opened.record_sha256,
            Safe(whose),
            Safe(&opened.reason),
            Safe(&opened.text)
        )?;
    }
    for (code, count) in &boot.refused {
        write!(html, "<dt>Refused</dt><dd>{count} sessions: {}</dd>", Safe(code))?;
    }
    if let Some(cosigned) = &boot.cosigned {
        let by = joined(cosigned.by.keys());
        write!(html, "<dt>Cosigned</dt><dd>{} entries, by {}</dd>", cosigned.size, Safe(by))?;
    }
    html.push_str("</dl></div>");
    Ok(())
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::digest::Sha256Digest;

    use super::super::report::Problem;
    use super::*;

    #[test]
    fn nothing_of_a_store_becomes_markup() {
        let evil = "</code><script>alert('x')</script><img src=\"x\" onerror=\"y\">&";
        let mut boot = BootReport::new(Sha256Digest::of(&[b"boot"]));
        (boot.model, boot.model_sha256) = (Some(evil.to_owned()), Some(Sha256Digest::of(&[b"model"])));
        boot.image = Some(evil.to_owned());
        boot.refused.insert(evil.to_owned(), 1);
        let problem = Problem { code: "entry-form", place: evil.to_owned(), problem: evil.to_owned() };
        let report = Report { boots: vec![boot], receipts: 1, problems: vec![problem], terms: None };
        let html = page(&report, &Page { store: evil, at: UnixMillis(0), has_policy: true });
        assert!(html.contains("&lt;script&gt;"));
        for markup in ["<script", "<img", "onerror=\"", "javascript:", "http://", "https://", "src="] {
            assert!(!html.contains(markup) || markup == "src=" && !html.contains("src=\""), "{markup}");
        }
    }

    #[test]
    fn the_first_line_says_what_the_audit_found() {
        let says = |problems: usize, has_policy| {
            let problem = Problem { code: "root", place: "p".to_owned(), problem: "q".to_owned() };
            let report = Report { problems: vec![problem; problems], ..Report::default() };
            page(&report, &Page { store: "log", at: UnixMillis(0), has_policy })
        };
        assert!(says(0, true).contains("Nothing is wrong"));
        assert!(says(0, false).contains("No policy"));
        assert!(says(1, true).contains("One thing is wrong"));
        assert!(says(3, false).contains("3 things are wrong"));
    }
}
