//! A release in words, a line for each thing that it permits or demands.

use std::fmt::Write as _;

use cleanroom_attestation::release::{
    Attribute, Id, Limits, Model, Partner, Release, Retention, SafeguardLimit, Safeguards, Weights, Witness,
};

/// More partners than a person reads.
const PARTNERS_SHOWN: usize = 50;

/// The release in words: a heading, then what may run, for whom, and under which rules. Ends with a new line.
pub(super) fn describe(release: &Release) -> String {
    let mut text =
        Text(format!("release {} of {}, until {}\n", release.version, release.room, release.expires));
    text.images(release);
    text.deployments(release);
    for model in &release.models {
        text.model(model);
    }
    for model in &release.models {
        text.safeguards(model);
    }
    for model in &release.models {
        text.retention(model);
    }
    for partner in release.partners.iter().take(PARTNERS_SHOWN) {
        text.partner(partner);
    }
    if let hidden @ 1.. = release.partners.len().saturating_sub(PARTNERS_SHOWN) {
        text.line(format_args!("and {hidden} more partners (--json shows all)"));
    }
    for to in &release.egress {
        text.item("egress", format_args!("{}:{}", to.host, to.port));
    }
    for denial in &release.supersedes_denials {
        text.item("lifts", format_args!("denial {denial}"));
    }
    text.item("lease", format_args!("{} seconds, {} issuers", release.lease.seconds, release.lease.issuers));
    text.witnesses(release);
    text.0
}

/// The lines so far.
struct Text(String);

impl Text {
    fn line(&mut self, words: std::fmt::Arguments<'_>) {
        // A `String` takes everything.
        let _ = writeln!(self.0, "  {words}");
    }

    /// A line that begins with what it is about. More about the same thing has an empty `kind`.
    fn item(&mut self, kind: &str, words: std::fmt::Arguments<'_>) {
        self.line(format_args!("{kind:<11} {words}"));
    }

    fn images(&mut self, release: &Release) {
        fn begin(register: &impl ToString) -> String {
            register.to_string().chars().take(16).collect()
        }
        for image in &release.images {
            self.item("image", format_args!("{} (PCR0 {}…)", image.name, begin(&image.pcr0)));
        }
        for image in release.nitrotpm_images() {
            self.item("image", format_args!("{} (NitroTPM, PCR4 {}…)", image.name, begin(&image.pcr4)));
        }
    }

    fn deployments(&mut self, release: &Release) {
        let Some(deployments) = &release.deployments else {
            return self.item("deployments", format_args!("anywhere"));
        };
        for deployment in deployments {
            self.item("deployment", format_args!("{}", deployment.name));
        }
    }

    fn model(&mut self, model: &Model) {
        let Model { id, sha256, state, weights, safeguards: _, retention: _ } = model;
        self.item("model", format_args!("{id} {} (SHA-256 {sha256})", state.name()));
        if let Some(Weights { brokers }) = weights {
            let names = names(brokers.of.iter().map(|broker| &broker.name));
            self.item("", format_args!("sealed; {} of the brokers {names} open it", brokers.needed));
        }
    }

    fn safeguards(&mut self, model: &Model) {
        let Some(Safeguards { policy, limits }) = &model.safeguards else { return };
        self.item("safeguards", format_args!("of {}: policy SHA-256 {policy}", model.id));
        for SafeguardLimit { id, action, count, within_seconds } in limits {
            self.item(
                "",
                format_args!(
                    "{id}: {count} times {action} or stricter within {within_seconds} seconds hold a partner"
                ),
            );
        }
    }

    fn retention(&mut self, model: &Model) {
        let Some(Retention { keep, days, brokers, opening }) = &model.retention else { return };
        let (of, needed) = (names(brokers.of.iter().map(|broker| &broker.name)), brokers.needed);
        self.item(
            "retention",
            format_args!(
                "of {}: {} exchanges, sealed for {days} days; {needed} of the brokers {of} open one",
                model.id,
                keep.name()
            ),
        );
        let receivers = names(opening.receivers.iter().map(|receiver| &receiver.name));
        self.item("", format_args!("for {receivers}, because of {}", names(&opening.reasons)));
    }

    fn partner(&mut self, partner: &Partner) {
        let Limits { requests_per_minute, tokens_per_day, concurrency, share: _ } = partner.limits;
        self.item(
            "partner",
            format_args!(
                "{} may use {} until {}: {requests_per_minute} requests a minute, {tokens_per_day} tokens a day, \
                 {concurrency} at a time, share {}",
                partner.id,
                names(&partner.models),
                partner.expires,
                partner.limits.share()
            ),
        );
        let attributes: Vec<String> = partner.attributes().iter().map(Attribute::to_string).collect();
        if !attributes.is_empty() {
            self.item("", format_args!("{}", attributes.join(", ")));
        }
    }

    fn witnesses(&mut self, release: &Release) {
        for Witness { key, url } in &release.witnesses {
            self.item("witness", format_args!("{key} at {url}"));
        }
        if !release.witnesses.is_empty() {
            let (witnesses, seconds) = (release.audit.witnesses, release.audit.checkpoint_seconds);
            self.item(
                "",
                format_args!(
                    "{witnesses} of them must have cosigned the log, which runs ahead of that for at most {seconds} \
                     seconds"
                ),
            );
        }
    }
}

fn names<'a>(ids: impl IntoIterator<Item = &'a Id>) -> String {
    ids.into_iter().map(Id::as_str).collect::<Vec<_>>().join(", ")
}
