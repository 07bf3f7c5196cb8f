//! Documents that AWS signed, from a folder beside the repository. They are not ours to copy. Where the folder is absent, the
//! tests that need it say so and pass, except with `CI=true`: there they fail. The vectors under `shape/` have the same
//! shapes under roots of our own, and are in the repository.

use std::path::PathBuf;

use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use serde_json::Value;

/// The folder: `CLEANROOM_AWS_VECTORS`, or `../shared/vectors` beside the repository or its work tree.
fn folder() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CLEANROOM_AWS_VECTORS") {
        let path = PathBuf::from(path);
        assert!(
            path.join("index.json").is_file(),
            "CLEANROOM_AWS_VECTORS has no index.json: {}",
            path.display()
        );
        return Some(path);
    }
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let found = ["../shared/vectors", "../../shared/vectors"]
        .map(|beside| repository.join(beside))
        .into_iter()
        .find(|path| path.join("index.json").is_file());
    if found.is_none() {
        let missing = "the documents of AWS are absent: set CLEANROOM_AWS_VECTORS to their folder";
        // A gate that passes by not testing is none.
        assert!(!is_ci(), "{missing}");
        eprintln!("NOT TESTED: {missing}");
    }
    found
}

/// Whether this run is a gate, by the variable that every service for continuous integration sets.
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}

/// One document and what `index.json` knows about it.
pub(crate) struct AwsDocument {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) facts: Value,
}

/// The documents that must verify; `None` when the folder is absent.
pub(crate) fn documents() -> Option<Vec<AwsDocument>> {
    listed("documents")
}

/// The documents that must be refused; `None` when the folder is absent.
pub(crate) fn negative_documents() -> Option<Vec<AwsDocument>> {
    listed("negative")
}

fn listed(list: &str) -> Option<Vec<AwsDocument>> {
    let folder = folder()?;
    let index: Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let documents = index[list].as_array().unwrap();
    assert!(!documents.is_empty());
    let read = |facts: &Value| {
        let name = facts["file"].as_str().unwrap().to_owned();
        AwsDocument { bytes: std::fs::read(folder.join(&name)).unwrap(), name, facts: facts.clone() }
    };
    Some(documents.iter().map(read).collect())
}

impl AwsDocument {
    pub(crate) fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.facts["timestamp_ms"].as_u64().unwrap())
    }

    pub(crate) fn is_tpm(&self) -> bool {
        self.facts["kind"] == "nitrotpm"
    }

    pub(crate) fn is_debug(&self) -> bool {
        self.facts["debug_pcr0_1_2_zero"] == true
    }

    pub(crate) fn pcr(&self, index: usize) -> Option<&str> {
        self.facts["pcr_nonzero"][index.to_string()].as_str()
    }

    /// The `trust.toml` that names AWS's root and exactly this document's image.
    pub(crate) fn policy_text(&self) -> String {
        let pcr = |index| self.pcr(index).unwrap();
        let image = if self.is_tpm() {
            let twelve = self.pcr(12).map_or("0".repeat(96), str::to_owned);
            format!(
                "[[nitrotpm_image]]\nname = \"image\"\npcrs = {{ 4 = \"{}\", 7 = \"{}\", 12 = \"{twelve}\" }}\n",
                pcr(4),
                pcr(7)
            )
        } else if self.is_debug() {
            "[[image]]\nname = \"image\"\ndebug = true\n".to_owned()
        } else {
            let pcrs = [0, 1, 2].map(|index| format!("pcr{index} = \"{}\"\n", pcr(index)));
            format!("[[image]]\nname = \"image\"\n{}", pcrs.concat())
        };
        format!("version = 1\n[[trust_anchor]]\nname = \"aws\"\n{image}")
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy::from_toml(&self.policy_text()).unwrap()
    }
}
