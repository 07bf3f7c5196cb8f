//! Reads the roots, the release and the denials that a command works with.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use cleanroom_attestation::release::{
    Denial, Envelope, Payload as _, PayloadType, ReleaseError, Role, Root, RootKey, TrustedState, UnixMillis,
};
use cleanroom_program::file;
use serde_json::json;

use crate::Outcome;
use crate::failure::Failure;
use crate::files;
use crate::signer::SignerArguments;

/// The roots that a command trusts.
#[derive(Args, Debug, Clone)]
pub(crate) struct RootArguments {
    /// A root, or a folder of roots. Give it several times for a chain of roots. The root with the lowest
    /// version is trusted as it is. Each other root must follow the root before it.
    #[arg(long = "root", value_name = "FILE", env = "CLEANROOM_ROOT", value_delimiter = ',')]
    roots: Vec<PathBuf>,
}

/// The time by this machine's clock. It judges dates here, and nothing inside an enclave.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl RootArguments {
    /// Whether at least one root was given.
    pub(crate) const fn is_given(&self) -> bool {
        !self.roots.is_empty()
    }

    /// The roots' envelopes, lowest version first.
    pub(crate) fn envelopes(&self) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
        if !self.is_given() {
            return Err(Failure::usage(
                "say which root to trust: --root FILE, or the variable CLEANROOM_ROOT",
            ));
        }
        let mut roots = Vec::new();
        for path in &self.roots {
            for file in files::json_files(path)? {
                let bytes = files::read(&file, PayloadType::Root.envelope_limit())?;
                let root = Envelope::parse(&bytes, PayloadType::Root)
                    .and_then(|envelope| Root::from_payload(envelope.payload()))
                    .map_err(|error| Failure::refused(&file.display(), &error))?;
                roots.push((root.version, file, bytes));
            }
        }
        roots.sort();
        Ok(roots.into_iter().map(|(_, file, bytes)| (file, bytes)).collect())
    }

    /// A state with the newest root.
    pub(crate) fn state(&self) -> Result<TrustedState, Failure> {
        self.state_with(None, None)
    }

    /// A state with the newest root, the release, and every denial in the folder.
    ///
    /// A denial counts if a deny key of any root of the chain signed it. Once all its keys have left the root, it
    /// stops leases until people decide. A denial that no such key signed is an error, unless the release lifts it:
    /// without it, what it halts could go on.
    pub(crate) fn state_with(
        &self,
        release: Option<&Path>,
        denials: Option<&Path>,
    ) -> Result<TrustedState, Failure> {
        let roots = self.envelopes()?;
        let (first, bytes) = roots
            .first()
            .ok_or_else(|| Failure::usage("there is no root in the folder given with --root"))?;
        let mut state =
            TrustedState::new(bytes).map_err(|error| Failure::refused(&first.display(), &error))?;
        self.update(&mut state, release, denials)?;
        Ok(state)
    }

    /// Reads the files again and adds what is new to `state`. Nothing is taken out of `state`.
    pub(crate) fn update(
        &self,
        state: &mut TrustedState,
        release: Option<&Path>,
        denials: Option<&Path>,
    ) -> Result<(), Failure> {
        let mut waiting = denials.map_or(Ok(Vec::new()), read_denials)?;
        // Denials first and after each step: a step that fails must not keep one out.
        let mut last_error = accept_denials(state, &mut waiting);
        for (path, bytes) in self.envelopes()? {
            let envelope = Envelope::parse(&bytes, PayloadType::Root);
            let version =
                envelope.and_then(|envelope| Root::from_payload(envelope.payload())).map(|root| root.version);
            if version.is_ok_and(|version| version < state.root().version) {
                continue;
            }
            state.accept_root(&bytes).map_err(|error| Failure::refused(&path.display(), &error))?;
            last_error = accept_denials(state, &mut waiting).or(last_error);
        }
        if let Some(release) = release {
            accept_release(state, release)?;
            // What the release lifts takes no place any more, and needs no signature.
            last_error = accept_denials(state, &mut waiting).or(last_error);
            waiting.retain(|(_, bytes)| !is_lifted(state, bytes));
        }
        match (waiting.first(), last_error) {
            (Some((path, _)), Some(error)) => Err(Failure::refused(&path.display(), &error)),
            _ => Ok(()),
        }
    }

    /// The files of the roots.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut all = Vec::new();
        for path in &self.roots {
            all.extend(files::json_files(path)?);
        }
        Ok(all)
    }

    /// Every file that [`Self::update`] would read.
    pub(crate) fn fingerprint(&self, release: &Path, denials: &Path) -> Result<Fingerprint, Failure> {
        let mut paths = self.files()?;
        paths.push(release.to_owned());
        paths.extend(files::json_files(denials)?);
        let one = |path: PathBuf| {
            let data = std::fs::metadata(&path);
            let data = data.map_err(|error| Failure::File { verb: "read", path: path.clone(), error })?;
            Ok((path, data.len(), data.modified().ok()))
        };
        paths.into_iter().map(one).collect()
    }
}

/// Name, size and time of change of every file. When it differs, a file changed.
pub(crate) type Fingerprint = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// Files that could not be used and did not change are read again after this time, not at every request.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

fn read_denials(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
    let files = files::json_files(folder)?.into_iter();
    files.map(|file| Ok((file.clone(), files::read(&file, PayloadType::Denial.envelope_limit())?))).collect()
}

/// Accepts the denials that the current root accepts, and leaves the others in `waiting`.
fn accept_denials(state: &mut TrustedState, waiting: &mut Vec<(PathBuf, Vec<u8>)>) -> Option<ReleaseError> {
    let mut last_error = None;
    waiting.retain(|(_, bytes)| match state.accept_denial(bytes) {
        Ok(_) => false,
        Err(error) => {
            last_error = Some(error);
            true
        }
    });
    last_error
}

/// Whether the release lifts the denial in this envelope.
fn is_lifted(state: &TrustedState, denial: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse(denial, PayloadType::Denial) else { return false };
    state.release().is_some_and(|release| release.supersedes_denials.contains(&envelope.digest()))
}

/// Accepts the release in the file `path`.
pub(crate) fn accept_release(state: &mut TrustedState, path: &Path) -> Result<(), Failure> {
    let bytes = files::read(path, PayloadType::Release.envelope_limit())?;
    state.accept_release(&bytes).map_err(|error| Failure::refused(&path.display(), &error))?;
    Ok(())
}

/// Reads a denial that `state` knows, or that its root verifies.
pub(crate) fn denial(state: &TrustedState, path: &Path) -> Result<(Envelope, Denial), Failure> {
    let refused = |error| Failure::refused(&path.display(), &error);
    let bytes = files::read(path, PayloadType::Denial.envelope_limit())?;
    let envelope = Envelope::parse(&bytes, PayloadType::Denial).map_err(refused)?;
    if !state.knows_denial(&envelope.digest()) {
        state.root().open::<Denial>(&bytes).map_err(refused)?;
    }
    let denial = Denial::from_payload(envelope.payload()).map_err(refused)?;
    Ok((envelope, denial))
}

/// Which signatures an envelope has, and which it lacks.
pub(crate) struct Progress {
    pub(crate) signed: Vec<String>,
    pub(crate) needed: u64,
    pub(crate) missing: Vec<String>,
}

impl Progress {
    pub(crate) fn of(root: &Root, role: Role, envelope: &Envelope) -> Self {
        let names =
            |keys: Vec<&RootKey>| keys.into_iter().map(|key| key.name.to_string()).collect::<Vec<_>>();
        let signed = names(root.signers_of(role, envelope));
        let missing =
            names(root.keys_of(role).collect()).into_iter().filter(|name| !signed.contains(name)).collect();
        Self { signed, needed: root.roles.rule(role).threshold, missing }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.signed.len() as u64 >= self.needed
    }

    pub(crate) fn text(&self) -> String {
        let signed = if self.signed.is_empty() { "nobody".to_owned() } else { self.signed.join(", ") };
        let mut text = format!("{} of {} signatures: {signed}", self.signed.len(), self.needed);
        if !self.is_complete() {
            text += &format!(
                "; still needed: {} of {}",
                self.needed - self.signed.len() as u64,
                self.missing.join(", ")
            );
        }
        text
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        json!({
            "signed": self.signed,
            "needed": self.needed,
            "missing": self.missing,
            "complete": self.is_complete(),
        })
    }
}

/// Adds one signature to `document` (a draft or an envelope) and writes the envelope.
pub(crate) fn sign(
    document: &Path,
    (mut envelope, kind): (Envelope, files::Kind),
    signer: &SignerArguments,
    candidates: &[&RootKey],
    out: Option<PathBuf>,
) -> Result<(Envelope, Outcome), Failure> {
    let out = out.map_or_else(|| files::envelope_path(document, kind), Ok)?;
    if kind == files::Kind::Draft && out.exists() {
        return Err(Failure::usage(format!(
            "{} exists: to add a signature, sign that envelope instead of the draft",
            out.display()
        )));
    }
    let (signer, key) = signer.find(candidates)?;
    let signature = signer.sign(envelope.pae())?;
    envelope.attach(&key.spki, &signature).map_err(|error| Failure::refused("the signature", &error))?;
    match kind {
        // Never over an envelope that appeared in the meantime.
        files::Kind::Draft => file::create_new(&out, &envelope.to_json(), file::PUBLIC)?,
        files::Kind::Envelope => file::replace(&out, &envelope.to_json(), file::PUBLIC)?,
    }
    let digest = envelope.digest();
    let text = format!("signed as {} into {}\n  payload SHA-256  {digest}\n", key.name, out.display());
    let json = json!({ "signed_as": key.name, "envelope": out.display().to_string(), "sha256": digest });
    Ok((envelope, Outcome { text, json }))
}
