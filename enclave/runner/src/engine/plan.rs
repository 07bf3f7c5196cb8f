//! What a room needs to know, as the arguments of a process.

use std::collections::BTreeMap;

use cleanroom_config::Engine;

/// Where the engine finds the model, but for the end of the name.
const MODEL: &str = "/tmp/model";
/// Where it listens.
pub(super) const SOCKET: &str = "/tmp/engine.sock";

/// What a room needs to know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Where the engine finds the model.
    pub(super) model: String,
    /// Memory for the engine's files, without the model's, in bytes.
    pub(super) scratch: u64,
    /// Whether the network namespace has a loopback that is up.
    pub(super) loopback: bool,
    /// What is seen of the system, read-only.
    pub(super) files: Vec<String>,
    /// Further devices.
    pub(super) devices: Vec<String>,
    /// The engine's environment.
    pub(super) environment: BTreeMap<String, String>,
    /// The engine.
    pub(super) argv: Vec<String>,
}

impl Plan {
    pub(super) fn of(engine: &Engine) -> Self {
        let model = format!("{MODEL}{}", engine.model_suffix);
        let placed = |text: &String| text.replace("{model}", &model).replace("{socket}", SOCKET);
        Self {
            model: model.clone(),
            scratch: engine.scratch.get(),
            loopback: engine.loopback,
            files: engine.files.clone(),
            devices: engine.devices.clone(),
            environment: engine
                .identity
                .environment
                .iter()
                .map(|(name, value)| (name.clone(), placed(value)))
                .collect(),
            argv: engine.identity.argv.iter().map(placed).collect(),
        }
    }

    pub(super) fn into_arguments(self) -> Vec<String> {
        let Self { model, scratch, loopback, files, devices, environment, argv } = self;
        let mut arguments = vec![model, scratch.to_string(), u8::from(loopback).to_string()];
        for list in [files, devices] {
            arguments.push(list.len().to_string());
            arguments.extend(list);
        }
        arguments.push(environment.len().to_string());
        arguments.extend(environment.into_iter().flat_map(|(name, value)| [name, value]));
        arguments.extend(argv);
        arguments
    }

    /// The plan that [`Plan::into_arguments`] wrote.
    pub(super) fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let model = arguments.next()?;
        let scratch = arguments.next()?.parse().ok()?;
        let loopback = arguments.next()? == "1";
        let mut list = || {
            let count: usize = arguments.next()?.parse().ok()?;
            (0..count).map(|_| arguments.next()).collect::<Option<Vec<_>>>()
        };
        let (files, devices) = (list()?, list()?);
        let count: usize = arguments.next()?.parse().ok()?;
        let environment =
            (0..count).map(|_| Some((arguments.next()?, arguments.next()?))).collect::<Option<_>>()?;
        let argv: Vec<_> = arguments.collect();
        Some(Self { model, scratch, loopback, files, devices, environment, argv })
            .filter(|plan| !plan.argv.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_its_arguments() {
        let list = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        let plan = || Plan {
            model: "/tmp/model.gguf".to_owned(),
            scratch: 1 << 40,
            loopback: true,
            files: list(&["/usr", "2"]),
            devices: Vec::new(),
            environment: BTreeMap::from([("A".to_owned(), "x=y z".to_owned())]),
            argv: list(&["/engine", "", "--x"]),
        };
        assert_eq!(Plan::from_arguments(plan().into_arguments().into_iter()), Some(plan()));
        let cut = |count| plan().into_arguments().into_iter().take(count);
        assert!((0..10).all(|count| Plan::from_arguments(cut(count)).is_none()));
    }
}
