//! Roots, releases, denials and openings, with those who signed them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::{
    Denial, Opening, Payload, Release, ReleaseError, Root, TrustedState, UnixMillis, Verified,
};
use cleanroom_report::authorities;
use serde::Serialize;

use super::Problem;
use crate::chain::RootArguments;
use crate::changes::changes;
use crate::failure::Failure;
use crate::files;

/// A root of the chain.
#[derive(Debug, Serialize)]
pub(super) struct RootLine {
    pub(super) version: u64,
    pub(super) sha256: Sha256Digest,
    pub(super) expires: UnixMillis,
    pub(super) authorities: BTreeSet<String>,
    pub(super) signed_by: BTreeSet<String>,
}

/// A release, and what it changed.
#[derive(Debug, Serialize)]
pub(super) struct ReleaseLine {
    pub(super) version: u64,
    pub(super) sha256: Sha256Digest,
    pub(super) expires: UnixMillis,
    /// The newest root of the chain under which its signatures suffice.
    pub(super) root_version: u64,
    pub(super) signed_by: BTreeSet<String>,
    pub(super) is_in_force: bool,
    /// Since the release before.
    pub(super) changes: Vec<String>,
    /// The denials that it lists as lifted.
    #[serde(skip)]
    pub(super) lifts: Vec<Sha256Digest>,
}

/// An image that may run.
#[derive(Debug, Serialize)]
pub(super) struct ImageLine {
    pub(super) name: String,
    /// Of an enclave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pcr0: Option<Sha384Digest>,
    /// Of an instance with a `NitroTPM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pcr4: Option<Sha384Digest>,
}

/// A denial.
#[derive(Debug, Serialize)]
pub(super) struct HaltLine {
    pub(super) denial: Sha256Digest,
    pub(super) target: String,
    pub(super) reason: String,
    pub(super) signed_by: BTreeSet<String>,
    pub(super) is_in_force: bool,
    /// The first release that lists it as lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lifted_by: Option<u64>,
}

impl HaltLine {
    /// In words.
    pub(super) fn standing(&self) -> String {
        match (self.is_in_force, self.lifted_by) {
            (true, _) => "in force".to_owned(),
            (false, Some(release)) => format!("lifted by release {release}"),
            (false, None) => "no deny key of the root stands by it".to_owned(),
        }
    }
}

/// An opening of one record.
#[derive(Debug, Serialize)]
pub(super) struct OpeningLine {
    pub(super) opening: Sha256Digest,
    pub(super) record: Sha256Digest,
    pub(super) partner: Sha256Digest,
    pub(super) reason: String,
    pub(super) text: String,
    /// The receiver, by its name in the release in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) receiver: Option<String>,
    pub(super) expires: UnixMillis,
    pub(super) has_expired: bool,
    pub(super) signed_by: BTreeSet<String>,
}

/// All of it, and what is in force.
pub(super) struct Documents {
    pub(super) state: TrustedState,
    pub(super) roots: Vec<RootLine>,
    pub(super) releases: Vec<ReleaseLine>,
    pub(super) halts: Vec<HaltLine>,
    pub(super) openings: Vec<OpeningLine>,
    pub(super) images: Vec<ImageLine>,
    pub(super) deployments: Option<Vec<String>>,
}

impl Documents {
    /// Reads all of it. A root or a release in force that cannot be used is an error; everything else that does not count is
    /// a problem, and the report goes on.
    pub(super) fn read(
        arguments: &RootArguments,
        releases: &[PathBuf],
        denials: Option<&Path>,
        openings: Option<&Path>,
        at: UnixMillis,
        problems: &mut Vec<Problem>,
    ) -> Result<Self, Failure> {
        let roots = chain(arguments)?;
        let mut known = Vec::new();
        for path in each(releases)? {
            match open_newest::<Release>(&roots, &path)? {
                Ok((root, release)) => known.push((path, root, release)),
                Err(error) => problems.push(problem("document-refused", &path, &error)),
            }
        }
        known.sort_by_key(|(_, _, release)| release.version);
        let newest = known.last().map(|(path, _, _)| path.clone());
        let newest = newest.ok_or_else(|| Failure::usage("none of the files given with --release counts"))?;
        let state = arguments.state_with(Some(&newest), denials)?;
        let mut lines = Vec::new();
        let mut before = None;
        for (_, root, release) in &known {
            let value = serde_json::to_value(&**release).unwrap_or_default();
            let changed = before.as_ref().map(|before| changes(before, &value)).unwrap_or_default();
            before = Some(value);
            lines.push(ReleaseLine {
                version: release.version,
                sha256: release.digest(),
                expires: release.expires,
                root_version: *root,
                signed_by: authorities(release),
                is_in_force: state.release().is_some_and(|newest| newest.digest() == release.digest()),
                changes: changed.iter().map(ToString::to_string).collect(),
                lifts: release.supersedes_denials.to_vec(),
            });
        }
        let halts = halts(&roots, &state, &lines, denials, problems)?;
        let openings = opened(&roots, &state, openings, at, problems)?;
        let newest = state.release();
        let enclaves = newest.iter().flat_map(|release| release.images.iter());
        let enclaves = enclaves.map(|image| (&image.name, Some(image.pcr0), None));
        let instances = newest.iter().flat_map(|release| release.nitrotpm_images());
        let instances = instances.map(|image| (&image.name, None, Some(image.pcr4)));
        let images = enclaves.chain(instances);
        let images =
            images.map(|(name, pcr0, pcr4)| ImageLine { name: name.to_string(), pcr0, pcr4 }).collect();
        let deployments = newest.and_then(|release| release.deployments.as_ref());
        let deployments = deployments.map(|list| list.iter().map(|place| place.name.to_string()).collect());
        let roots = roots.iter().map(|root| RootLine {
            version: root.version,
            sha256: root.digest(),
            expires: root.expires,
            authorities: root.keys.iter().map(|key| key.authority.to_string()).collect(),
            signed_by: authorities(root),
        });
        let roots = roots.collect();
        Ok(Self { state, roots, releases: lines, halts, openings, images, deployments })
    }
}

/// Every root, each signed as the one before it demands.
fn chain(arguments: &RootArguments) -> Result<Vec<Verified<Root>>, Failure> {
    let mut roots: Vec<Verified<Root>> = Vec::new();
    for (path, bytes) in arguments.envelopes()? {
        let refused = |error| Failure::refused(&path.display(), &error);
        let root = match roots.last() {
            None => Root::open_first(&bytes),
            Some(before) => before.open_next(&bytes),
        };
        roots.push(root.map_err(refused)?);
    }
    if roots.is_empty() {
        return Err(Failure::usage("there is no root in the folder given with --root"));
    }
    Ok(roots)
}

/// The files of all these files and folders.
fn each(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(files::json_files(path)?);
    }
    Ok(all)
}

/// The document in a file under the newest root that it counts under, with that root's version. The inner error is of the
/// newest root.
fn open_newest<T: Payload>(
    roots: &[Verified<Root>],
    path: &Path,
) -> Result<Result<(u64, Verified<T>), ReleaseError>, Failure> {
    let bytes = files::read(path, T::TYPE.envelope_limit())?;
    let mut first_error = None;
    for root in roots.iter().rev() {
        match root.open::<T>(&bytes) {
            Ok(document) => return Ok(Ok((root.version, document))),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Ok(Err(first_error.unwrap_or(ReleaseError::NoRelease)))
}

fn halts(
    roots: &[Verified<Root>],
    state: &TrustedState,
    releases: &[ReleaseLine],
    folder: Option<&Path>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<HaltLine>, Failure> {
    let in_force: BTreeSet<&Sha256Digest> = state.denials_in_force().map(|(digest, _)| digest).collect();
    let mut halts = Vec::new();
    for path in folder.map_or(Ok(Vec::new()), files::json_files)? {
        let denial = match open_newest::<Denial>(roots, &path)? {
            Ok((_, denial)) => denial,
            Err(error) => {
                problems.push(problem("document-refused", &path, &error));
                continue;
            }
        };
        let digest = denial.digest();
        halts.push(HaltLine {
            denial: digest,
            target: denial.halt.in_words(),
            reason: denial.reason.to_string(),
            signed_by: authorities(&denial),
            is_in_force: in_force.contains(&digest),
            lifted_by: releases
                .iter()
                .find(|release| release.lifts.contains(&digest))
                .map(|line| line.version),
        });
    }
    // What is in force comes first.
    halts.sort_by_key(|halt| (!halt.is_in_force, halt.target.clone()));
    Ok(halts)
}

fn opened(
    roots: &[Verified<Root>],
    state: &TrustedState,
    folder: Option<&Path>,
    at: UnixMillis,
    problems: &mut Vec<Problem>,
) -> Result<Vec<OpeningLine>, Failure> {
    let receivers: Vec<_> = state
        .release()
        .iter()
        .flat_map(|release| release.models.iter())
        .filter_map(|model| model.retention.as_ref())
        .flat_map(|rule| rule.opening.receivers.iter())
        .map(|receiver| (receiver.sha256, receiver.name.to_string()))
        .collect();
    let mut openings = Vec::new();
    for path in folder.map_or(Ok(Vec::new()), files::json_files)? {
        let opening = match open_newest::<Opening>(roots, &path)? {
            Ok((_, opening)) => opening,
            Err(error) => {
                problems.push(problem("document-refused", &path, &error));
                continue;
            }
        };
        let digest = opening.receiver.digest();
        openings.push(OpeningLine {
            opening: opening.digest(),
            record: opening.record,
            partner: opening.partner,
            reason: opening.reason.to_string(),
            text: opening.text.to_string(),
            receiver: receivers.iter().find(|(sha256, _)| *sha256 == digest).map(|(_, name)| name.clone()),
            expires: opening.expires,
            has_expired: opening.expires <= at,
            signed_by: authorities(&opening),
        });
    }
    openings.sort_by_key(|opening| opening.expires);
    Ok(openings)
}

fn problem(code: &'static str, path: &Path, error: &ReleaseError) -> Problem {
    Problem { code, place: path.display().to_string(), problem: error.to_string() }
}
