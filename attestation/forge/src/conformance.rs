//! The conformance vectors: for one document, policy, expectation and time, what a verifier has to answer.
//!
//! `docs/verification.md` has the rules and the contract; `tests/vectors/verification` has the vectors. [`generate`] makes
//! them anew under fresh keys: same cases, same answers, other bytes. [`run`] puts any program through them.

mod case;
mod chain;
mod coverage;
mod envelope;
mod genuine;
mod payload;
mod policy;
mod registers;
mod run;
mod session;
mod shape;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::coverage::{Coverage, table};
pub use self::run::{Disagreement, Report, run};

/// Where the committed vectors are, from the root of the repository.
pub const DIRECTORY: &str = "tests/vectors/verification";

/// One question with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// `section/name`.
    pub id: String,
    /// The rules of `docs/verification.md` that it holds.
    pub rules: Vec<String>,
    /// What is special about it, for people.
    pub about: String,
    /// The question.
    pub request: Request,
    /// The answer.
    pub response: Response,
}

/// What a verifier is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The attestation document in standard base64 with padding.
    pub document: String,
    /// The policy file's text.
    pub policy: String,
    /// What the session expects.
    pub expected: Expected,
    /// The verifier's time, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// What the session expects, all of it in hexadecimal. What is absent is not asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// The user data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// The public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// PCR 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcr16: Option<String>,
    /// PCR 17.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcr17: Option<String>,
}

/// What a verifier answers. When the outcome is `invalid`, nothing was judged and only `code` stands beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The answer on all axes together.
    pub outcome: Outcome,
    /// The code of the first rule that is broken; null when none is.
    pub code: Option<String>,
    /// The codes of all broken rules, in the order of the checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Vec<String>>,
    /// The answer on each axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axes: Option<BTreeMap<String, String>>,
    /// What the root vouches for, when the document is genuine under one: `production` or `development`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Whether a genuine document is of an enclave in debug mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<bool>,
    /// Whether the evidence is enough for a channel: `accepted`, or the code of the reason why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// The answer on all axes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every axis was asked about and passed.
    Pass,
    /// Nothing failed, but some axis was not asked about.
    Partial,
    /// Something failed.
    Fail,
    /// The request or the policy in it is malformed; nothing was judged.
    Invalid,
}

impl Outcome {
    /// The exit code with which a program says the same.
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Invalid => 2,
            Self::Partial => 3,
        }
    }
}

/// All vectors, under fresh keys. The cases and their answers are the same every time; keys and signatures are not.
#[must_use]
pub fn generate() -> Vec<Vector> {
    generate_with_siblings().into_iter().map(|(vector, _)| vector).collect()
}

/// As [`generate`], each vector with a *sibling*: a document that is right in itself, under the same certificates above the
/// leaf. Where those are right as well, a verifier that saw the sibling knows them when the vector comes.
#[must_use]
pub fn generate_with_siblings() -> Vec<(Vector, Vec<u8>)> {
    let mut list = case::List::default();
    chain::list(&mut list);
    genuine::list(&mut list);
    shape::list(&mut list);
    // From here on certificates matter only because there are some.
    list.shorten_chains();
    envelope::list(&mut list);
    payload::list(&mut list);
    policy::list(&mut list);
    registers::list(&mut list);
    session::list(&mut list);
    list.into_vectors()
}

/// Reads the committed vectors of a repository, in the order of the files' names.
///
/// # Errors
///
/// When a file cannot be read or is not a list of vectors.
pub fn read(repository: &Path) -> io::Result<Vec<Vector>> {
    let mut files: Vec<_> = fs::read_dir(repository.join(DIRECTORY))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut vectors = Vec::new();
    for path in files {
        let list: Vec<Vector> = serde_json::from_slice(&fs::read(&path)?)?;
        vectors.extend(list);
    }
    Ok(vectors)
}

/// Writes vectors into a repository, one file for each section.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write(repository: &Path, vectors: &[Vector]) -> io::Result<()> {
    let directory = repository.join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    for section in vectors.chunk_by(|one, other| section(one) == section(other)) {
        let name = section.first().map(self::section).unwrap_or_default();
        // One vector on each line, so that a difference between two versions is one between vectors.
        let lines = section.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        fs::write(directory.join(format!("{name}.json")), text)?;
    }
    Ok(())
}

fn section(vector: &Vector) -> &str {
    vector.id.split('/').next().unwrap_or_default()
}
