//! The report as one page: a file of HTML that needs nothing else, not even a script.

use core::fmt::{self, Display, Write as _};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{ModelState, UnixMillis};

use super::report::{BootReport, BootStatus, Report};
use super::terms::{Document, Terms};

const STYLE: &str = include_str!("page.css");

/// What a page says beside the report.
pub struct Page<'a> {
    /// The store that was read.
    pub store: &'a str,
    /// When, by the auditor's clock.
    pub at: UnixMillis,
    /// Whether a policy was asked, so that boots are proven to be those of enclaves.
    pub has_policy: bool,
}

/// Text of anybody's, safe in HTML.
struct Safe<T>(T);

impl<T: Display> Display for Safe<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for each in self.0.to_string().chars() {
            match each {
                '&' => formatter.write_str("&amp;")?,
                '<' => formatter.write_str("&lt;")?,
                '>' => formatter.write_str("&gt;")?,
                '"' => formatter.write_str("&quot;")?,
                '\'' => formatter.write_str("&#39;")?,
                each => formatter.write_char(each)?,
            }
        }
        Ok(())
    }
}

/// A digest by its first digits; the rest is in its title.
struct Short<'a>(&'a Sha256Digest);

impl Display for Short<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.to_string();
        write!(formatter, "<code title=\"{whole}\">{}…</code>", whole.get(..12).unwrap_or_default())
    }
}

/// A time, for people and programs.
struct Time(u64);

impl Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = UnixMillis(self.0).to_string();
        let read = text.replace('T', " ").replace('Z', " UTC");
        write!(formatter, "<time datetime=\"{text}\">{read}</time>")
    }
}

/// A word with a colour, which never says more than the word.
struct Pill(&'static str, &'static str);

impl Display for Pill {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(colour, word) = self;
        write!(formatter, "<span class=\"pill {colour}\">{word}</span>")
    }
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
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Audit of {room}</title><style>\n{STYLE}</style></head><body>\
         <a class=\"skip\" href=\"#main\">Skip to the result</a><header class=\"top\"><h1>Audit of {room}</h1>\
         <p class=\"quiet\">{} · read from <code>{}</code></p></header><main id=\"main\">",
        Time(page.at.0),
        Safe(page.store),
        room = Safe(room),
    )?;
    verdict(html, report, page)?;
    problems(html, report)?;
    if let Some(terms) = &report.terms {
        who_may_do_what(html, terms, page.at)?;
    }
    timeline(html, report)?;
    boots(html, report, page)?;
    html.push_str(
        "<footer class=\"quiet\">Every entry was read and the tree computed anew. Digests are SHA-256; a digest is \
         whole in its tooltip and in <code>cleanroom audit --json</code>. Times in logs are those of the \
         enclaves' security modules.</footer></main></body></html>\n",
    );
    Ok(())
}

fn verdict(html: &mut String, report: &Report, page: &Page<'_>) -> fmt::Result {
    let (colour, says) = match (report.problems.len(), page.has_policy) {
        (0, true) => {
            ("good", "✓ Nothing is wrong. Every log is whole, and is that of an accepted enclave.".to_owned())
        }
        (0, false) => ("held", "Every log is whole. No policy said which enclaves are accepted.".to_owned()),
        (1, _) => ("bad", "✗ One thing is wrong.".to_owned()),
        (many, _) => ("bad", format!("✗ {many} things are wrong.")),
    };
    write!(html, "<p class=\"verdict {colour}\" role=\"status\">{says}</p>")?;
    if report.receipts > 0 {
        let found: usize = report.boots.iter().map(|boot| boot.receipts_found).sum();
        write!(html, "<p>{found} of {} receipts stand in the log where they say.</p>", report.receipts)?;
    }
    Ok(())
}

fn problems(html: &mut String, report: &Report) -> fmt::Result {
    if report.problems.is_empty() {
        return Ok(());
    }
    html.push_str(
        "<section aria-labelledby=\"wrong\"><h2 id=\"wrong\">What is wrong</h2><table><thead><tr>\
         <th scope=\"col\">Code</th><th scope=\"col\">Where</th><th scope=\"col\">What</th></tr></thead><tbody>",
    );
    for problem in &report.problems {
        write!(
            html,
            "<tr><th scope=\"row\"><span class=\"pill bad\">{}</span></th><td data-is=\"Where\"><code>{}</code>\
             </td><td data-is=\"What\">{}</td></tr>",
            problem.code,
            Safe(&problem.place),
            Safe(&problem.problem),
        )?;
    }
    html.push_str("</tbody></table></section>");
    Ok(())
}

fn who_may_do_what(html: &mut String, terms: &Terms, at: UnixMillis) -> fmt::Result {
    html.push_str("<section aria-labelledby=\"who\"><h2 id=\"who\">Who may do what</h2>");
    html.push_str("<table><caption>Models</caption><thead><tr><th scope=\"col\">Model</th>");
    html.push_str("<th scope=\"col\">State</th><th scope=\"col\">Weights</th><th scope=\"col\">Safeguards</th></tr></thead><tbody>");
    for model in &terms.models {
        let state = match (model.halted, model.state) {
            (true, _) => Pill("bad", "halted by an authority"),
            (_, ModelState::Active) => Pill("good", "active"),
            (_, ModelState::Draining) => Pill("held", "draining"),
            (_, ModelState::Suspended) => Pill("bad", "suspended"),
            (_, ModelState::Revoked) => Pill("bad", "revoked"),
        };
        let sealed = if model.sealed { "sealed, " } else { "" };
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td data-is=\"State\">{state}</td><td data-is=\"Weights\">{sealed}{}</td>",
            Safe(&model.id),
            Short(&model.sha256),
        )?;
        match &model.safeguards {
            Some(policy) => {
                write!(html, "<td data-is=\"Safeguards\">policy {}</td></tr>", Short(policy))?;
            }
            None => html.push_str("<td data-is=\"Safeguards\">none</td></tr>"),
        }
    }
    html.push_str(
        "</tbody></table><table><caption>Partners</caption><thead><tr><th scope=\"col\">Partner</th>",
    );
    html.push_str("<th scope=\"col\">May use</th><th scope=\"col\">Until</th><th scope=\"col\">Now</th></tr></thead><tbody>");
    for partner in &terms.partners {
        let now = match (partner.halted, partner.expires.0 <= at.0) {
            (true, _) => Pill("bad", "halted by an authority"),
            (_, true) => Pill("held", "expired"),
            _ => Pill("good", "admitted"),
        };
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td data-is=\"May use\">{}</td><td data-is=\"Until\">{}</td>\
             <td data-is=\"Now\">{now}</td></tr>",
            Safe(&partner.id),
            Safe(partner.models.join(", ")),
            Time(partner.expires.0),
        )?;
    }
    html.push_str("</tbody></table><div class=\"card\"><h3>Who says so</h3><dl>");
    if let Some(release) = &terms.release {
        signed(html, "Release", release)?;
    }
    signed(html, "Root", &terms.root)?;
    let authorities = terms.authorities.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    write!(html, "<dt>Authorities</dt><dd>{}</dd></dl></div></section>", Safe(authorities))
}

fn signed(html: &mut String, name: &str, document: &Document) -> fmt::Result {
    let by = document.signed_by.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    write!(
        html,
        "<dt>{name}</dt><dd>version {} {}, until {}, signed by {}</dd>",
        document.version,
        Short(&document.sha256),
        Time(document.expires.0),
        Safe(if by.is_empty() { "nobody that counts" } else { by.as_str() }),
    )
}

/// Everything that happened, in order. What several enclaves took stands once.
fn timeline(html: &mut String, report: &Report) -> fmt::Result {
    let mut events: Vec<(u64, &'static str, String)> = Vec::new();
    for boot in &report.boots {
        let which = format!("{}…", boot.boot.to_string().get(..12).unwrap_or_default());
        if let Some(at) = boot.began_ms {
            let model = boot.model.as_deref().unwrap_or("a model");
            events.push((at, "good-dot", format!("Enclave {which} began to serve {model}")));
        }
        if let Some(at) = boot.ended_ms {
            events.push((at, "", format!("Enclave {which} ended in order")));
        }
        for event in &boot.history {
            let says = event.says.clone().unwrap_or_else(|| format!("{} {}", event.kind, event.sha256));
            let (dot, took) = if event.kind == "denial" { ("bad-dot", "a denial that ") } else { ("", "") };
            events.push((event.at_ms, dot, format!("Enclave {which} took {took}{says}")));
        }
    }
    if events.is_empty() {
        return Ok(());
    }
    events.sort();
    html.push_str("<section aria-labelledby=\"when\"><h2 id=\"when\">What happened</h2><ol class=\"time\">");
    for (at, dot, says) in events {
        write!(html, "<li class=\"{dot}\">{}<br>{}</li>", Time(at), Safe(says))?;
    }
    html.push_str("</ol></section>");
    Ok(())
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
        (false, _) => Pill("bad", "something is wrong"),
        (true, BootStatus::Ended) => Pill("good", "whole, and ended"),
        (true, BootStatus::Open) => Pill("good", "whole, without an end yet"),
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
        let by = cosigned.by.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        write!(html, "<dt>Cosigned</dt><dd>{} entries, by {}</dd>", cosigned.size, Safe(by))?;
    }
    html.push_str("</dl></div>");
    Ok(())
}

#[cfg(test)]
mod tests {
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
