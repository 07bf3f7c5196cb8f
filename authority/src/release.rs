//! `release`: says what may run, for whom, and until when.

mod describe;
mod draft;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cleanroom_attestation::release::{
    Envelope, Payload as _, PayloadType, Release, Role, Root, RootKey, UnixMillis,
};
use serde_json::json;

pub(crate) use self::draft::{next_of, write_draft};

use self::describe::describe;
use self::draft::Draft;
use crate::Outcome;
use crate::chain::{self, Progress, RootArguments};
use crate::changes::changes;
use crate::failure::Failure;
use crate::files;
use crate::signer::SignerArguments;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Draft a release, from nothing or from the release in force. Read the draft, change it as you like,
    /// then sign it.
    #[command(after_help = DRAFT_EXAMPLES)]
    Draft(Box<Draft>),
    /// Sign a release: a draft, or an envelope that others have signed.
    #[command(after_help = SIGN_EXAMPLES)]
    Sign {
        /// The draft or envelope.
        document: PathBuf,
        #[command(flatten)]
        root: RootArguments,
        #[command(flatten)]
        signer: SignerArguments,
        /// The file for the envelope. Default: NAME.json for NAME.draft.json, and the same file for an
        /// envelope.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show a release in words.
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The draft or envelope.
        document: PathBuf,
    },
    /// Show what changes from one release to another.
    #[command(after_help = DIFF_EXAMPLES)]
    Diff {
        /// The old release: draft or envelope.
        old: PathBuf,
        /// The new release: draft or envelope.
        new: PathBuf,
    },
    /// Check a release as an enclave does: signatures, rules, dates. The exit status is 1 if an enclave would
    /// refuse it.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// The envelope.
        document: PathBuf,
        #[command(flatten)]
        root: RootArguments,
        /// The release in force. The new one must follow it.
        #[arg(long, value_name = "FILE")]
        previous: Option<PathBuf>,
        /// The time to judge dates by, as 2027-01-31T12:00:00Z. Default: now.
        #[arg(long, value_name = "TIME")]
        at: Option<UnixMillis>,
    },
}

const DRAFT_EXAMPLES: &str = "\
Examples:
  cleanroom-authority release draft --root root.json --expires 2027-07-01T00:00:00Z \\
      --image 'cleanroom 0.1.0=cleanroom.eif' --deployment frankfurt=role:ARN \\
      --model forecast-8b=forecast-8b.gguf \\
      --partner north-power=north-power.pub --grant north-power=forecast-8b
  cleanroom-authority release draft --root root.json --from release.json \\
      --image 'cleanroom 0.1.0, NitroTPM=cleanroom.efi' --out instances.draft.json
  cleanroom-authority release draft --root root.json --from release.json \\
      --model forecast-8b=forecast-8b.gguf --model-signature forecast-8b=model.sig,publisher.pub \\
      --out published.draft.json
  cleanroom-authority release draft --root root.json --from release.json --state forecast-8b=draining \\
      --out next.draft.json
  cleanroom-authority release draft --root root.json --from release.json \\
      --attributes north-power=jurisdiction=eu,sector=energy --out described.draft.json
  cleanroom-authority release draft --root root.json --from release.json --weights forecast-8b=weights.json \\
      --out sealed.draft.json
  cleanroom-authority release draft --root root.json --from release.json \\
      --safeguards forecast-8b=safeguards.toml --safeguard-limit forecast-8b=tries,refuse,5,3600 \\
      --out judged.draft.json
  cleanroom-authority release draft --root root.json --from release.json \\
      --witness bank-witness=http://witness.bank.example:8720 \\
      --witness utility-witness=http://witness.utility.example:8720 \\
      --witness-quorum 2 --witness-within 60 --out witnessed.draft.json";

const SIGN_EXAMPLES: &str = "\
Examples:
  cleanroom-authority release sign release.draft.json --root root.json --key offline.pem
  cleanroom-authority release sign release.json --root root.json --key offline.pem
The first makes release.json from the draft. The second adds a signature to it.";

const SHOW_EXAMPLES: &str = "\
Examples:
  cleanroom-authority release show release.draft.json
  cleanroom-authority --json release show release.json";

const DIFF_EXAMPLES: &str = "\
Examples:
  cleanroom-authority release diff release.json next.draft.json   # read it before you sign next.draft.json";

const VERIFY_EXAMPLES: &str = "\
Examples:
  cleanroom-authority release verify release.json --root root.json
  cleanroom-authority release verify next.json --root roots --previous release.json \\
      --at 2027-06-30T00:00:00Z";

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::Draft(draft) => draft.run(),
            Self::Sign { document, root, signer, out } => sign(&document, &root, &signer, out),
            Self::Show { document } => {
                let (envelope, _) = files::open(&document, PayloadType::Release)?;
                let release = payload(&document, &envelope)?;
                let text = format!("{}payload SHA-256  {}", describe(&release), envelope.digest());
                Ok(Outcome { text, json: json!({ "release": release, "sha256": envelope.digest() }) })
            }
            Self::Diff { old, new } => diff(&old, &new),
            Self::Verify { document, root, previous, at } => {
                verify(&document, &root, previous.as_deref(), at)
            }
        }
    }
}

/// The release in an envelope, **unverified**.
pub(crate) fn payload(document: &Path, envelope: &Envelope) -> Result<Release, Failure> {
    Release::from_payload(envelope.payload()).map_err(|error| Failure::refused(&document.display(), &error))
}

fn sign(
    document: &Path,
    root: &RootArguments,
    signer: &SignerArguments,
    out: Option<PathBuf>,
) -> Result<Outcome, Failure> {
    let state = root.state()?;
    let root: &Root = state.root();
    let opened = files::open(document, PayloadType::Release)?;
    let release = payload(document, &opened.0)?;
    release.check_against(root).map_err(|error| Failure::refused(&document.display(), &error))?;
    let candidates: Vec<&RootKey> = root.keys_of(Role::Release).collect();
    let (envelope, mut outcome) = chain::sign(document, opened, signer, &candidates, out)?;
    let progress = Progress::of(root, Role::Release, &envelope);
    outcome.text += &progress.text();
    outcome.add("progress", progress.json());
    Ok(outcome)
}

fn diff(old: &Path, new: &Path) -> Result<Outcome, Failure> {
    let read = |path: &Path| -> Result<serde_json::Value, Failure> {
        let (envelope, _) = files::open(path, PayloadType::Release)?;
        let release = payload(path, &envelope)?;
        serde_json::to_value(release).map_err(|error| Failure::Environment(error.to_string()))
    };
    let changes = changes(&read(old)?, &read(new)?);
    let lines: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let text = if lines.is_empty() { "no change".to_owned() } else { lines.join("\n") };
    Ok(Outcome { text, json: json!({ "changes": changes }) })
}

fn verify(
    document: &Path,
    root: &RootArguments,
    previous: Option<&Path>,
    at: Option<UnixMillis>,
) -> Result<Outcome, Failure> {
    let mut state = root.state()?;
    if let Some(previous) = previous {
        chain::accept_release(&mut state, previous)?;
    }
    chain::accept_release(&mut state, document)?;
    let refused = |code, problem| Failure::Refused { what: document.display().to_string(), code, problem };
    let release = state.release().ok_or_else(|| refused("no-release", "not accepted".to_owned()))?;
    let at = at.unwrap_or_else(chain::now);
    if at >= state.root().expires {
        let problem = format!("the root ended at {}; rotate it", state.root().expires);
        return Err(refused("root-expired", problem));
    }
    if at >= release.expires {
        let problem = format!("the release ended at {}; draft the next one with --from", release.expires);
        return Err(refused("release-expired", problem));
    }
    let progress = Progress::of(state.root(), Role::Release, release.envelope());
    let (digest, version) = (release.digest(), release.version);
    let text = format!(
        "release {version} of {} is valid until {}\n{}\npayload SHA-256  {digest}",
        release.room,
        release.expires.min(state.root().expires),
        progress.text()
    );
    let json = json!({
        "valid": true,
        "version": version,
        "sha256": digest,
        "root_version": state.root().version,
        "expires": release.expires,
        "progress": progress.json(),
    });
    Ok(Outcome { text, json })
}
