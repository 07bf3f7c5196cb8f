//! The policy file as TOML. Unknown members are refused.

use serde::Deserialize;

use crate::{Action, Part};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyFile {
    pub(super) version: u64,
    pub(super) id: String,
    pub(super) hold_back: u64,
    pub(super) rules: Vec<RuleFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFile {
    pub(super) id: String,
    #[serde(default)]
    pub(super) about: String,
    pub(super) on: Part,
    pub(super) action: Action,
    pub(super) any: Vec<String>,
}
