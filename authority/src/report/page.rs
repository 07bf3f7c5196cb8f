//! The report as one page.

use std::fmt::{self, Write as _};

use cleanroom_report::page::{
    Condition, Fault, Pill, Safe, Short, Time, begin, end, faults, joined, signers, table, timeline, verdict,
    who_may_do_what,
};

use super::{Overview, SHOWN_EVENTS};

/// Changes of one release that stand on the page. `release diff` shows all.
const SHOWN_CHANGES: usize = 20;

/// The page.
pub(super) fn page(overview: &Overview) -> String {
    let mut html = String::new();
    // Writing into a string does not fail.
    let _ = write(&mut html, overview);
    html
}

fn write(html: &mut String, overview: &Overview) -> fmt::Result {
    begin(html, "Report", &overview.terms.room, overview.at, &joined(&overview.read))?;
    let halted = overview.halts.iter().any(|halt| halt.is_in_force);
    let condition = match (overview.problems.is_empty(), overview.leases, halted) {
        (true, "granted", false) => Condition::Good,
        (true, "granted", true) => Condition::Held,
        _ => Condition::Bad,
    };
    verdict(html, condition, &overview.summary())?;
    faults(
        html,
        overview.problems.iter().map(|problem| Fault {
            code: problem.code,
            place: &problem.place,
            problem: &problem.problem,
        }),
    )?;
    who_may_do_what(html, &overview.terms, overview.at)?;
    what_may_run(html, overview)?;
    halts(html, overview)?;
    openings(html, overview)?;
    let shown = overview.events.len().saturating_sub(SHOWN_EVENTS);
    timeline(html, overview.events.iter().skip(shown).cloned().collect())?;
    if shown > 0 {
        write!(html, "<p class=\"quiet\">{shown} earlier events are in --json.</p>")?;
    }
    boots(html, overview)?;
    history(html, overview)?;
    end(
        html,
        "Documents count by their signatures, under the roots that were given. Times of events are those of this \
         authority’s own services; times of boots are those of the enclaves’ security modules. Digests are SHA-256; a \
         digest is whole in its tooltip and in <code>cleanroom-authority --json report</code>.",
    )
}

fn what_may_run(html: &mut String, overview: &Overview) -> fmt::Result {
    html.push_str("<section aria-labelledby=\"run\"><h2 id=\"run\">What may run, and where</h2>");
    html.push_str("<div class=\"card\"><dl>");
    for image in &overview.images {
        for (register, value) in [("PCR 0", image.pcr0), ("NitroTPM, PCR 4", image.pcr4)] {
            let Some(value) = value.map(|value| value.to_string()) else { continue };
            write!(
                html,
                "<dt>Image</dt><dd>{} ({register} <code title=\"{value}\">{}…</code>)</dd>",
                Safe(&image.name),
                value.get(..16).unwrap_or_default(),
            )?;
        }
    }
    match &overview.deployments {
        None => html.push_str("<dt>Deployments</dt><dd>anywhere</dd>"),
        Some(names) => write!(html, "<dt>Deployments</dt><dd>{}</dd>", Safe(joined(names)))?,
    }
    html.push_str("</dl></div></section>");
    Ok(())
}

fn halts(html: &mut String, overview: &Overview) -> fmt::Result {
    if overview.halts.is_empty() {
        return Ok(());
    }
    html.push_str("<section aria-labelledby=\"halts\"><h2 id=\"halts\">Halts</h2>");
    table(html, None, &["What", "Why", "By", "Now", "Denial"])?;
    for halt in &overview.halts {
        let now = match (halt.is_in_force, halt.lifted_by) {
            (true, _) => Pill(Condition::Bad, "in force").to_string(),
            (false, Some(_)) => halt.standing(),
            (false, None) => Pill(Condition::Held, "unsigned").to_string(),
        };
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td data-is=\"Why\">{}</td><td data-is=\"By\">{}</td>\
             <td data-is=\"Now\">{now}</td><td data-is=\"Denial\">{}</td></tr>",
            Safe(&halt.target),
            Safe(&halt.reason),
            Safe(signers(&halt.signed_by)),
            Short(&halt.denial),
        )?;
    }
    html.push_str("</tbody></table></section>");
    Ok(())
}

fn openings(html: &mut String, overview: &Overview) -> fmt::Result {
    if overview.openings.is_empty() {
        return Ok(());
    }
    html.push_str("<section aria-labelledby=\"openings\"><h2 id=\"openings\">Openings of records</h2>");
    table(html, None, &["Record", "Why", "For", "By", "Until"])?;
    for opening in &overview.openings {
        let receiver = opening.receiver.as_deref().unwrap_or("a receiver whom the release does not list");
        let over = if opening.has_expired { " (over)" } else { "" };
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td data-is=\"Why\">{}: {}</td><td data-is=\"For\">{}</td>\
             <td data-is=\"By\">{}</td><td data-is=\"Until\">{}{over}</td></tr>",
            Short(&opening.record),
            Safe(&opening.reason),
            Safe(&opening.text),
            Safe(receiver),
            Safe(signers(&opening.signed_by)),
            Time(opening.expires.0),
        )?;
    }
    html.push_str("</tbody></table></section>");
    Ok(())
}

fn boots(html: &mut String, overview: &Overview) -> fmt::Result {
    if overview.boots.is_empty() {
        return Ok(());
    }
    html.push_str("<section aria-labelledby=\"boots\"><h2 id=\"boots\">Enclaves that the witness knows</h2>");
    table(html, None, &["Boot", "Model", "Began", "Cosigned"])?;
    for boot in &overview.boots {
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td data-is=\"Model\">{}</td><td data-is=\"Began\">{}</td>",
            Short(&boot.boot),
            Safe(&boot.model),
            Time(boot.began.0),
        )?;
        match boot.cosigned_at {
            Some(at) => {
                write!(html, "<td data-is=\"Cosigned\">{} entries, {}</td></tr>", boot.cosigned, Time(at.0))?;
            }
            None => html.push_str("<td data-is=\"Cosigned\">nothing yet</td></tr>"),
        }
    }
    html.push_str("</tbody></table></section>");
    Ok(())
}

/// Releases and roots, the newest first.
fn history(html: &mut String, overview: &Overview) -> fmt::Result {
    html.push_str("<section aria-labelledby=\"history\"><h2 id=\"history\">Releases and roots</h2>");
    for release in overview.releases.iter().rev() {
        let now =
            if release.is_in_force { Pill(Condition::Good, "newest").to_string() } else { String::new() };
        write!(
            html,
            "<div class=\"card\"><h3>Release {} {now}</h3><dl><dt>Payload</dt><dd>{}</dd><dt>Until</dt><dd>{}</dd>\
             <dt>Signed by</dt><dd>{}, under root {}</dd>",
            release.version,
            Short(&release.sha256),
            Time(release.expires.0),
            Safe(signers(&release.signed_by)),
            release.root_version,
        )?;
        for change in release.changes.iter().take(SHOWN_CHANGES) {
            write!(html, "<dt>Changed</dt><dd><code>{}</code></dd>", Safe(change))?;
        }
        if release.changes.len() > SHOWN_CHANGES {
            let more = release.changes.len() - SHOWN_CHANGES;
            write!(html, "<dt>Changed</dt><dd>{more} more; release diff shows all</dd>")?;
        }
        html.push_str("</dl></div>");
    }
    table(html, Some("Roots"), &["Root", "Authorities", "Signed by", "Until", "Payload"])?;
    for root in overview.roots.iter().rev() {
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td data-is=\"Authorities\">{}</td><td data-is=\"Signed by\">{}</td>\
             <td data-is=\"Until\">{}</td><td data-is=\"Payload\">{}</td></tr>",
            root.version,
            Safe(joined(&root.authorities)),
            Safe(signers(&root.signed_by)),
            Time(root.expires.0),
            Short(&root.sha256),
        )?;
    }
    html.push_str("</tbody></table></section>");
    Ok(())
}
