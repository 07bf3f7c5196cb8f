//! `halt` and `resume`: one authority stops a model, a partner, or the partners with an attribute; the next
//! release of a quorum lifts the halt.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use clap::Args;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{
    Attribute, Denial, Envelope, Id, Label, List, Payload as _, PayloadType, Release, Role, RootKey, Target,
    UnixMillis,
};
use cleanroom_program::file;
use serde_json::json;

use crate::Outcome;
use crate::chain::{self, RootArguments};
use crate::failure::Failure;
use crate::files;
use crate::release::{next_of, write_draft};
use crate::service;
use crate::signer::SignerArguments;

pub(crate) const HALT_EXAMPLES: &str = "\
Examples:
  cleanroom-authority halt forecast-8b --root roots --release release.json --key offline.pem \\
      --reason 'the weights may have leaked' --out denials \\
      --to http://lease.bank.example:8700 --to http://lease.utility.example:8700
  cleanroom-authority halt partner:north-power --root roots --key offline.pem \\
      --reason 'lost a key' --out denial.json
  cleanroom-authority halt --attribute jurisdiction=eu --root roots --release release.json \\
      --key offline.pem --reason 'order of a court' --out denials \\
      --to http://lease.bank.example:8700";

pub(crate) const RESUME_EXAMPLES: &str = "\
Examples:
  cleanroom-authority resume forecast-8b --root roots --release release.json \\
      --denials denials --out next.draft.json
  cleanroom-authority release sign next.draft.json --root roots --key offline.pem
  cleanroom-authority resume --attribute jurisdiction=eu --root roots --release release.json \\
      --denials denials --out next.draft.json";

#[derive(Args)]
#[group(required = true, multiple = false)]
struct TargetArguments {
    /// A model or a partner of the release: its id, or model:ID or partner:ID.
    target: Option<String>,
    /// Every partner to whom the release in force gives this attribute, now or later.
    #[arg(long, value_name = "NAME=VALUE")]
    attribute: Option<Attribute>,
}

#[derive(Args)]
pub(crate) struct Halt {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    root: RootArguments,
    /// The release in force, to look the target up. Without it, write model:ID or partner:ID; an attribute
    /// then may be one that no partner has yet.
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    #[command(flatten)]
    signer: SignerArguments,
    /// The reason, in a few words. Partners see it.
    #[arg(long, value_name = "TEXT")]
    reason: Label,
    /// The new file to write the denial to, or the denials folder of a lease service.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A lease service to tell at once, as http://HOST:PORT. Tell every one: give this option several times.
    #[arg(long = "to", value_name = "URL")]
    services: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    root: RootArguments,
    /// The release in force.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// The folder of denials, or one file.
    #[arg(long, value_name = "FOLDER")]
    denials: PathBuf,
    /// When the new release expires. Default: when the current one does.
    #[arg(long, value_name = "TIME")]
    expires: Option<UnixMillis>,
    /// The new file for the draft.
    #[arg(long, value_name = "FILE", default_value = "release.draft.json")]
    out: PathBuf,
}

impl Halt {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        let state = self.root.state_with(self.release.as_deref(), None)?;
        let halt = self.target.find(state.release().map(|release| &**release))?;
        let concerned = state.release().map_or(Vec::new(), |release| concerned(&halt, release));
        let root = state.root();
        let candidates: Vec<&RootKey> = root.keys_of(Role::Deny).collect();
        let (signer, key) = self.signer.find(&candidates)?;

        let denial =
            Denial { room: root.room.clone(), halt, reason: self.reason.clone(), serial: new_serial()? };
        let refused = |error| Failure::refused("the denial", &error);
        let mut envelope = Envelope::unsigned(PayloadType::Denial, &denial.to_payload()).map_err(refused)?;
        let signature = signer.sign(envelope.pae())?;
        envelope.attach(&key.spki, &signature).map_err(refused)?;
        let digest = envelope.digest();
        if self.out.is_dir() {
            self.check_room_for(&envelope)?;
        }
        let out = if self.out.is_dir() { self.out.join(format!("{digest}.json")) } else { self.out };
        let kept = match file::create_new(&out, &envelope.to_json(), file::PUBLIC) {
            Err(error) if error.is_existing() => return Err(error.into()),
            kept => kept,
        };

        let mut text = format!(
            "{} is halted by {}: {}\n  denial  {digest}\n  file    {}\n",
            denial.halt,
            key.name,
            denial.reason,
            if kept.is_ok() { out.display().to_string() } else { "none".to_owned() }
        );
        if !concerned.is_empty() {
            text += &format!("  halts   {}\n", concerned.join(", "));
        }
        // A full disk here is no reason to let the model run on.
        let (told, failed) = tell(&self.services, &envelope);
        for url in &told {
            text += &format!("  told    {url}\n");
        }
        if let Err(error) = kept {
            let told =
                if told.is_empty() { "no lease service was told" } else { "the services above keep it" };
            return Err(Failure::Environment(format!(
                "{text}but the denial has no file here: {error}; {told}"
            )));
        }
        if !failed.is_empty() {
            let problem = format!(
                "{text}but some services were not told; send them {} again:\n{}",
                out.display(),
                failed.join("\n")
            );
            return Err(Failure::Environment(problem));
        }
        if told.is_empty() {
            text += "no lease service was told: put the file into the denials folder of each, or POST it to \
                     /v1/denials";
        }
        let file = out.display().to_string();
        let json = json!({ "halted": denial.halt, "denial": digest, "file": file, "told": told });
        let mut outcome = Outcome { text, json };
        if matches!(denial.halt, Target::Attribute(_)) {
            outcome.add("partners", json!(concerned));
        }
        Ok(outcome)
    }
}

fn new_serial() -> Result<Sha256Digest, Failure> {
    let mut serial = [0; 32];
    let random = SystemRandom::new().fill(&mut serial);
    random.map_err(|_| Failure::Environment("no random numbers for the denial's serial".to_owned()))?;
    Ok(Sha256Digest::from_bytes(serial))
}

/// Tells lease services of a denial, all at the same time: one that does not answer delays none of the others.
/// Gives those that have it, and what went wrong with the others.
fn tell(services: &[String], denial: &Envelope) -> (Vec<String>, Vec<String>) {
    let (mut told, mut failed) = (Vec::new(), Vec::new());
    let answers = std::thread::scope(|scope| {
        let calls = services.iter().map(|url| scope.spawn(move || service::tell(url, denial.to_json())));
        let calls: Vec<_> = calls.collect();
        let no_answer = || Err(Failure::Environment("the call was broken off".to_owned()));
        calls.into_iter().map(|call| call.join().unwrap_or_else(|_| no_answer())).collect::<Vec<_>>()
    });
    for (url, answer) in services.iter().zip(answers) {
        match answer {
            Ok(()) => told.push(url.clone()),
            Err(failure) => failed.push(format!("{url}: {failure}")),
        }
    }
    (told, failed)
}

/// The code of [`ReleaseError::TooManyDenials`](cleanroom_attestation::release::ReleaseError::TooManyDenials).
const TOO_MANY: &str = "too-many-denials";

impl Halt {
    /// Refuses a denial that no enclave would take, because its key has as many in force as it may have. Nothing else that is
    /// wrong with the folder keeps anybody from halting.
    fn check_room_for(&self, denial: &Envelope) -> Result<(), Failure> {
        let state = self.root.state_with(self.release.as_deref(), Some(&self.out));
        let accepted = state.and_then(|mut state| {
            state.accept_denial(&denial.to_json()).map_err(|error| Failure::refused("the denial", &error))
        });
        match accepted {
            Err(failure @ Failure::Refused { code: TOO_MANY, .. }) => Err(failure),
            _ => Ok(()),
        }
    }
}

impl Resume {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        let state = self.root.state_with(Some(&self.release), Some(&self.denials))?;
        let wanted = self.target.wanted(state.release().map(|release| &**release))?;
        let found: Vec<Sha256Digest> = state
            .denials_in_force()
            .filter(|(_, halted)| **halted == wanted)
            .map(|(digest, _)| *digest)
            .collect();
        if found.is_empty() {
            return Err(Failure::usage(format!(
                "no denial in {} halts {wanted}: nothing to lift",
                self.denials.display()
            )));
        }
        let reasons = reasons(&state, &self.denials, &found)?;
        let mut release = next_of(&self.release)?;
        release.expires = self.expires.unwrap_or(release.expires);
        let lifted = release.supersedes_denials.iter().chain(&found).copied().collect();
        release.supersedes_denials = List::new(lifted).ok_or_else(|| {
            Failure::usage("the release lifts too many denials; rotate the deny keys and start anew")
        })?;
        let mut outcome = write_draft(&release, state.root(), &self.out)?;
        outcome.text = format!("to lift:\n{reasons}{}", outcome.text);
        outcome.add("lifts", json!(found));
        Ok(outcome)
    }
}

/// Who halted what, and why. The quorum should know this before it signs.
fn reasons(
    state: &cleanroom_attestation::release::TrustedState,
    folder: &Path,
    digests: &[Sha256Digest],
) -> Result<String, Failure> {
    let mut text = String::new();
    for file in files::json_files(folder)? {
        let (envelope, denial) = chain::denial(state, &file)?;
        if digests.contains(&envelope.digest()) {
            let signers = state.root().signers_of(Role::Deny, &envelope);
            let by = signers.first().map_or("a key of an earlier root", |key| key.authority.as_str());
            text += &format!("  {} by {by}: {} ({})\n", denial.halt, denial.reason, envelope.digest());
        }
    }
    Ok(text)
}

impl TargetArguments {
    /// The target, for a halt: an attribute must be one that the release gives to somebody.
    fn find(&self, release: Option<&Release>) -> Result<Target, Failure> {
        let target = self.wanted(release)?;
        if let (Target::Attribute(attribute), Some(release)) = (&target, release)
            && concerned(&target, release).is_empty()
        {
            return Err(Failure::usage(format!(
                "no partner of release {} has {attribute}; to halt whoever gets it later, leave --release out",
                release.version
            )));
        }
        Ok(target)
    }

    fn wanted(&self, release: Option<&Release>) -> Result<Target, Failure> {
        match (&self.attribute, &self.target) {
            (Some(attribute), _) => Ok(Target::Attribute(attribute.clone())),
            (None, Some(text)) => target(text, release),
            (None, None) => Err(Failure::usage("expected a target or --attribute NAME=VALUE")),
        }
    }
}

/// The partners that a halt of an attribute concerns under `release`. None for another target, which says so itself.
fn concerned(halt: &Target, release: &Release) -> Vec<String> {
    let Target::Attribute(attribute) = halt else { return Vec::new() };
    let partners = release.partners.iter().filter(|partner| partner.attributes().contains(attribute));
    partners.map(|partner| partner.id.to_string()).collect()
}

/// The target that `text` names: `model:ID`, `partner:ID`, or an id that the release has exactly once.
fn target(text: &str, release: Option<&Release>) -> Result<Target, Failure> {
    let id = |text: &str| text.parse::<Id>().map_err(|error| Failure::usage(format!("{text}: {error}")));
    let (is_model, is_partner) = release
        .map_or((false, false), |release| (release.model(text).is_some(), release.partner(text).is_some()));
    match (is_model, is_partner) {
        (true, false) => return Ok(Target::Model(id(text)?)),
        (false, true) => return Ok(Target::Partner(id(text)?)),
        (true, true) => {
            return Err(Failure::usage(format!(
                "{text} is a model and a partner: write model:{text} or partner:{text}"
            )));
        }
        (false, false) => {}
    }
    if let Some(rest) = text.strip_prefix("model:") {
        return Ok(Target::Model(id(rest)?));
    }
    if let Some(rest) = text.strip_prefix("partner:") {
        return Ok(Target::Partner(id(rest)?));
    }
    Err(Failure::usage(match release {
        Some(release) => format!(
            "{text} is neither a model nor a partner of release {}; to halt it all the same, write model:{text} \
             or partner:{text}",
            release.version
        ),
        None => format!("expected model:{text} or partner:{text}, or the release with --release"),
    }))
}
