//! The graph of crates from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

/// A crate of the workspace.
pub(crate) struct Member {
    pub(crate) name: String,
    /// The folder of its manifest, relative to the workspace's root, with a `/` at its end.
    folder: String,
}

/// Crates by name, and what each needs to run: dependencies of tests and of build scripts are left out.
pub(crate) struct Graph {
    members: Vec<Member>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Reads what `cargo metadata --format-version 1` printed.
    pub(crate) fn read(metadata: &str) -> Result<Self, String> {
        let metadata: Value =
            serde_json::from_str(metadata).map_err(|error| format!("cargo metadata is not JSON: {error}"))?;
        let text = |value: &Value, member: &str| {
            value[member]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("cargo metadata: no {member} in {value}"))
        };
        let list = |value: &Value, member: &str| {
            value[member].as_array().cloned().ok_or_else(|| format!("cargo metadata: no list {member}"))
        };
        let root = text(&metadata, "workspace_root")?;
        let in_workspace: BTreeSet<String> = list(&metadata, "workspace_members")?
            .iter()
            .map(|id| id.as_str().unwrap_or_default().to_owned())
            .collect();
        let (mut names, mut members) = (BTreeMap::new(), Vec::new());
        for package in list(&metadata, "packages")? {
            let (id, name) = (text(&package, "id")?, text(&package, "name")?);
            if in_workspace.contains(&id) {
                let manifest = text(&package, "manifest_path")?;
                let folder = manifest
                    .strip_prefix(&format!("{root}/"))
                    .and_then(|path| path.strip_suffix("Cargo.toml"));
                let folder = folder.ok_or_else(|| format!("{manifest} is not below {root}"))?.to_owned();
                members.push(Member { name: name.clone(), folder });
            }
            names.insert(id, name);
        }
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"], "nodes")? {
            let from = names.get(&text(&node, "id")?).ok_or("cargo metadata: a node is no package")?;
            let targets = edges.entry(from.clone()).or_default();
            for dependency in list(&node, "deps")? {
                if list(&dependency, "dep_kinds")?.iter().any(|kind| kind["kind"].is_null()) {
                    let to = names
                        .get(&text(&dependency, "pkg")?)
                        .ok_or("cargo metadata: a dependency is no package")?;
                    targets.insert(to.clone());
                }
            }
        }
        Ok(Self { members, edges })
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The crates of the workspace that `name` depends on itself.
    pub(crate) fn direct(&self, name: &str) -> Vec<String> {
        let is_member = |target: &&String| self.members.iter().any(|member| member.name == **target);
        self.edges.get(name).into_iter().flatten().filter(is_member).cloned().collect()
    }

    /// The crates that a name in the table stands for: one, or those of a folder. None when there is no such crate.
    pub(crate) fn named(&self, name: &str) -> Vec<String> {
        if !name.ends_with('/') {
            return self.edges.keys().filter(|known| *known == name).cloned().collect();
        }
        self.members
            .iter()
            .filter(|member| member.folder.starts_with(name))
            .map(|member| member.name.clone())
            .collect()
    }

    /// The shortest way from one crate to another.
    pub(crate) fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            if at == to {
                let mut path = vec![to.to_owned()];
                let mut step = to;
                while step != from {
                    step = before.get(step)?;
                    path.push(step.to_owned());
                }
                path.reverse();
                return Some(path);
            }
            for next in self.edges.get(at).into_iter().flatten() {
                if next != from && !before.contains_key(next.as_str()) {
                    before.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}
