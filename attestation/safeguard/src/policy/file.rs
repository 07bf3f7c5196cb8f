//! The policy file as TOML. Unknown members are refused.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Action, Part};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyFile {
    pub(super) version: u64,
    pub(super) id: String,
    pub(super) hold_back: u64,
    #[serde(default)]
    pub(super) lists: BTreeMap<String, Vec<String>>,
    pub(super) rules: Vec<RuleFile>,
    #[serde(default)]
    pub(super) classifiers: Vec<ClassifierFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassifierFile {
    pub(super) id: String,
    #[serde(default)]
    pub(super) about: String,
    pub(super) sha256: String,
    pub(super) label: String,
    pub(super) on: Part,
    pub(super) flag: Option<f64>,
    pub(super) refuse: Option<f64>,
    pub(super) end: Option<f64>,
    pub(super) window: Option<u64>,
    pub(super) step: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFile {
    pub(super) id: String,
    #[serde(default)]
    pub(super) about: String,
    pub(super) on: Part,
    pub(super) action: Action,
    #[serde(default)]
    pub(super) any: Vec<String>,
    #[serde(default)]
    pub(super) all: Vec<String>,
    pub(super) within: Option<u64>,
    pub(super) times: Option<u64>,
    #[serde(default)]
    pub(super) unless: Vec<String>,
    #[serde(default)]
    pub(super) hidden: bool,
}
