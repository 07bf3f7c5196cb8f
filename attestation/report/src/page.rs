//! The parts that pages for people are made of. A page is one file of HTML that needs nothing else, not even a script.
//!
//! Text of anybody's stands in [`Safe`], so that it never becomes markup.

use core::fmt::{self, Display, Write as _};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{ModelState, UnixMillis};

use crate::terms::{Document, Terms};

const STYLE: &str = include_str!("page.css");

/// Text of anybody's, safe in HTML.
#[derive(Debug)]
pub struct Safe<T>(pub T);

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
#[derive(Debug)]
pub struct Short<'a>(pub &'a Sha256Digest);

impl Display for Short<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.to_string();
        write!(formatter, "<code title=\"{whole}\">{}…</code>", whole.get(..12).unwrap_or_default())
    }
}

/// A time in milliseconds since 1970, for people and programs.
#[derive(Debug)]
pub struct Time(pub u64);

impl Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = UnixMillis(self.0).to_string();
        let read = text.replace('T', " ").replace('Z', " UTC");
        write!(formatter, "<time datetime=\"{text}\">{read}</time>")
    }
}

/// How something stands. A colour never says more than the words beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// As it should be.
    Good,
    /// Somebody holds it back.
    Held,
    /// Wrong, or stopped.
    Bad,
}

impl Condition {
    const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Held => "held",
            Self::Bad => "bad",
        }
    }
}

/// Some words with a colour.
#[derive(Debug)]
pub struct Pill(pub Condition, pub &'static str);

impl Display for Pill {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(condition, words) = self;
        write!(formatter, "<span class=\"pill {}\">{words}</span>", condition.class())
    }
}

/// Something that is wrong, and where.
#[derive(Debug)]
pub struct Fault<'a> {
    /// A stable word.
    pub code: &'a str,
    /// Where.
    pub place: &'a str,
    /// What was expected and what was found.
    pub problem: &'a str,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The colour of its dot: good, bad, or neither.
    pub is_good: Option<bool>,
    /// What, in words. Anybody's text.
    pub says: String,
}

/// Begins a page: `title` of `whose`, made at `at` out of `from`.
///
/// # Errors
/// None into a string.
pub fn begin(html: &mut String, title: &str, whose: &str, at: UnixMillis, from: &str) -> fmt::Result {
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{title} of {whose}</title><style>\n{STYLE}</style></head><body>\
         <a class=\"skip\" href=\"#main\">Skip to the result</a><header class=\"top\"><h1>{title} of {whose}</h1>\
         <p class=\"quiet\">{} · read from <code>{}</code></p></header><main id=\"main\">",
        Time(at.0),
        Safe(from),
        title = Safe(title),
        whose = Safe(whose),
    )
}

/// Ends a page with a note.
///
/// # Errors
/// None into a string.
pub fn end(html: &mut String, note: &str) -> fmt::Result {
    writeln!(html, "<footer class=\"quiet\">{note}</footer></main></body></html>")
}

/// The page's first statement.
///
/// # Errors
/// None into a string.
pub fn verdict(html: &mut String, condition: Condition, says: &str) -> fmt::Result {
    write!(html, "<p class=\"verdict {}\" role=\"status\">{}</p>", condition.class(), Safe(says))
}

/// What is wrong, if anything is.
///
/// # Errors
/// None into a string.
pub fn faults<'a>(html: &mut String, faults: impl Iterator<Item = Fault<'a>>) -> fmt::Result {
    let mut faults = faults.peekable();
    if faults.peek().is_none() {
        return Ok(());
    }
    html.push_str("<section aria-labelledby=\"wrong\"><h2 id=\"wrong\">What is wrong</h2>");
    table(html, None, &["Code", "Where", "What"])?;
    for Fault { code, place, problem } in faults {
        write!(
            html,
            "<tr><th scope=\"row\"><span class=\"pill bad\">{}</span></th><td data-is=\"Where\"><code>{}</code>\
             </td><td data-is=\"What\">{}</td></tr>",
            Safe(code),
            Safe(place),
            Safe(problem),
        )?;
    }
    html.push_str("</tbody></table></section>");
    Ok(())
}

/// Begins a table with the heads of its columns. The caller writes the rows and `</tbody></table>`.
///
/// # Errors
/// None into a string.
pub fn table(html: &mut String, caption: Option<&str>, columns: &[&str]) -> fmt::Result {
    html.push_str("<table>");
    if let Some(caption) = caption {
        write!(html, "<caption>{caption}</caption>")?;
    }
    html.push_str("<thead><tr>");
    for column in columns {
        write!(html, "<th scope=\"col\">{column}</th>")?;
    }
    html.push_str("</tr></thead><tbody>");
    Ok(())
}

/// Models, partners, and who signed that.
///
/// # Errors
/// None into a string.
pub fn who_may_do_what(html: &mut String, terms: &Terms, at: UnixMillis) -> fmt::Result {
    html.push_str("<section aria-labelledby=\"who\"><h2 id=\"who\">Who may do what</h2>");
    models(html, terms)?;
    partners(html, terms, at)?;
    html.push_str("<div class=\"card\"><h3>Who says so</h3><dl>");
    if let Some(release) = &terms.release {
        signed(html, "Release", release)?;
    }
    signed(html, "Root", &terms.root)?;
    write!(html, "<dt>Authorities</dt><dd>{}</dd>", Safe(joined(&terms.authorities)))?;
    if let Some(demand) = &terms.witnesses {
        write!(
            html,
            "<dt>Witnesses</dt><dd>{} of {} must have cosigned an enclave’s log, which runs ahead of that for at \
             most {} seconds</dd>",
            demand.needed,
            Safe(joined(&demand.names)),
            demand.within_seconds,
        )?;
    }
    html.push_str("</dl></div></section>");
    Ok(())
}

fn models(html: &mut String, terms: &Terms) -> fmt::Result {
    table(html, Some("Models"), &["Model", "State", "Weights", "Safeguards", "Records"])?;
    for model in &terms.models {
        let state = match (model.halted, model.state) {
            (true, _) => Pill(Condition::Bad, "halted by an authority"),
            (_, ModelState::Active) => Pill(Condition::Good, "active"),
            (_, ModelState::Draining) => Pill(Condition::Held, "draining"),
            (_, ModelState::Suspended) => Pill(Condition::Bad, "suspended"),
            (_, ModelState::Revoked) => Pill(Condition::Bad, "revoked"),
        };
        let sealed = if model.sealed { "sealed, " } else { "" };
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td data-is=\"State\">{state}</td><td data-is=\"Weights\">{sealed}{}</td>",
            Safe(&model.id),
            Short(&model.sha256),
        )?;
        match &model.safeguards {
            Some(policy) => write!(html, "<td data-is=\"Safeguards\">policy {}</td>", Short(policy))?,
            None => html.push_str("<td data-is=\"Safeguards\">none</td>"),
        }
        match &model.records {
            Some(records) => write!(
                html,
                "<td data-is=\"Records\">{}, sealed for {} days</td></tr>",
                records.keep.name(),
                records.days
            )?,
            None => html.push_str("<td data-is=\"Records\">none</td></tr>"),
        }
    }
    html.push_str("</tbody></table>");
    Ok(())
}

fn partners(html: &mut String, terms: &Terms, at: UnixMillis) -> fmt::Result {
    table(html, Some("Partners"), &["Partner", "Attributes", "May use", "Until", "Now"])?;
    for partner in &terms.partners {
        let now = match (partner.halted, partner.expires.0 <= at.0) {
            (true, _) => Pill(Condition::Bad, "halted by an authority"),
            (_, true) => Pill(Condition::Held, "expired"),
            _ => Pill(Condition::Good, "admitted"),
        };
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td data-is=\"Attributes\">{}</td><td data-is=\"May use\">{}</td>\
             <td data-is=\"Until\">{}</td><td data-is=\"Now\">{now}</td></tr>",
            Safe(&partner.id),
            Safe(if partner.attributes.is_empty() { "none".to_owned() } else { joined(&partner.attributes) }),
            Safe(joined(&partner.models)),
            Time(partner.expires.0),
        )?;
    }
    html.push_str("</tbody></table>");
    Ok(())
}

fn signed(html: &mut String, name: &str, document: &Document) -> fmt::Result {
    write!(
        html,
        "<dt>{name}</dt><dd>version {} {}, until {}, signed by {}</dd>",
        document.version,
        Short(&document.sha256),
        Time(document.expires.0),
        Safe(signers(&document.signed_by)),
    )
}

/// Those who signed, in words.
#[must_use]
pub fn signers<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names = joined(names);
    if names.is_empty() { "nobody that counts".to_owned() } else { names }
}

/// Names, with commas between them.
#[must_use]
pub fn joined<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Everything that happened, in order. What several saw in the same words at the same time stands once.
///
/// # Errors
/// None into a string.
pub fn timeline(html: &mut String, mut events: Vec<Event>) -> fmt::Result {
    if events.is_empty() {
        return Ok(());
    }
    // At one moment, what a source says first stays first.
    events.sort_by_key(|event| event.at_ms);
    events.dedup();
    html.push_str("<section aria-labelledby=\"when\"><h2 id=\"when\">What happened</h2><ol class=\"time\">");
    for Event { at_ms, is_good, says } in events {
        let dot = match is_good {
            Some(true) => "good-dot",
            Some(false) => "bad-dot",
            None => "",
        };
        write!(html, "<li class=\"{dot}\">{}<br>{}</li>", Time(at_ms), Safe(says))?;
    }
    html.push_str("</ol></section>");
    Ok(())
}
