//! The host's description of the enclave that it runs.

use serde::Serialize;

use super::LaunchError;
use super::state::StateFolder;

/// The host's description of an enclave. It helps the operator to write down what partners should trust. A
/// partner has no reason to believe it, since it comes from the host. The host writes it to
/// `measurements.json` in the state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// PCR 0, 96 hexadecimal digits.
    pub pcr0: String,
    /// PCR 1.
    pub pcr1: String,
    /// PCR 2.
    pub pcr2: String,
    /// PCR 4, when the parent's instance id was given.
    pub pcr4: Option<String>,
    /// SHA-256 of the development root's certificate, 64 hexadecimal digits; in a tier that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub development_root_sha256: Option<String>,
    /// The model's identity, 64 hexadecimal digits.
    pub model_sha256: String,
    /// The command line that was measured.
    pub command_line: String,
}

impl Description {
    /// Writes `measurements.json`.
    pub(super) fn write(&self, state: &StateFolder) -> Result<(), LaunchError> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| LaunchError::System {
            what: "writing measurements.json",
            source: error.into(),
        })?;
        state.write("measurements.json", 0o644, &json).map(drop)
    }
}
