//! Modules of one crate that import each other in a circle.
//!
//! A module is a file. It imports another one of its crate when it names it behind `crate::`, `super::` or
//! `self::`, in a `use` declaration outside its tests. A module and the module that it is part of may import each
//! other: the one is the other's front. So may the groups in [`NATURAL`].

use std::collections::{BTreeMap, BTreeSet};

use crate::Outcome;
use crate::repository::Repository;

/// A crate's folder, modules of it that import each other, and why they may.
type Natural = (&'static str, &'static [&'static str], &'static str);

/// Modules that are one idea in several files.
const NATURAL: [Natural; 3] = [
    ("enclave/init/", &["console", "halt"], "a halt is a line of the console"),
    (
        "enclave/worker/",
        &["api::error", "api::json", "api::request", "api::shape"],
        "an error has the shape of the API that the request came by",
    ),
    ("host/", &["agent::delivery", "agent::service"], "a service is a source of what is delivered"),
];

/// Looks for circles in each crate.
pub(crate) fn check(repository: &Repository) -> Result<Outcome, String> {
    let mut crates: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for path in repository.files()? {
        let Some((folder, file)) = path.split_once("src/") else { continue };
        let is_other = path.contains("/bin/") || path.ends_with("/tests.rs") || path.contains("/tests/");
        let Some(module) = file.strip_suffix(".rs") else { continue };
        if !is_other && !folder.starts_with("bench/") && !folder.starts_with("fuzz/") {
            let module =
                if matches!(module, "lib" | "main") { String::new() } else { module.replace('/', "::") };
            let text = repository.text(&path)?;
            crates.entry(folder.to_owned()).or_default().entry(module).or_default().push_str(&text);
        }
    }
    let mut faults = Vec::new();
    let mut met: BTreeSet<&Natural> = BTreeSet::new();
    for (folder, modules) in &crates {
        for circle in circles(&imports(modules)) {
            let natural = NATURAL.iter().find(|(name, members, _)| name == folder && *members == circle);
            if natural.is_none() {
                faults.push(format!("{folder}src: these modules import each other: {}", circle.join(", ")));
            }
            met.extend(natural);
        }
    }
    for (folder, members, _) in NATURAL.iter().filter(|natural| !met.contains(natural)) {
        let members = members.join(", ");
        faults
            .push(format!("xtask/src/cycles.rs: {folder}src: these no longer import each other: {members}"));
    }
    Ok(Outcome { summary: format!("{} crates, {} natural circles", crates.len(), met.len()), faults })
}

/// Who imports whom.
fn imports(modules: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    modules
        .iter()
        .map(|(module, text)| {
            let mut imported = BTreeSet::new();
            for path in uses(text) {
                if let Some(target) = resolve(module, &path, modules)
                    && !is_part(module, &target)
                    && !is_part(&target, module)
                {
                    imported.insert(target);
                }
            }
            (module.clone(), imported)
        })
        .collect()
}

/// Whether one module is the other, or within it.
fn is_part(inner: &str, outer: &str) -> bool {
    outer.is_empty() || inner == outer || inner.starts_with(&format!("{outer}::"))
}

/// The paths of the `use` declarations before the tests, braces taken apart.
fn uses(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut paths = Vec::new();
    let mut declaration = String::new();
    for line in text.lines() {
        let line = line.trim();
        let starts = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "]
            .iter()
            .find_map(|start| line.strip_prefix(start));
        match starts {
            Some(rest) => rest.clone_into(&mut declaration),
            None if declaration.is_empty() => continue,
            None => declaration += line,
        }
        if let Some(whole) = declaration.strip_suffix(';') {
            expand("", whole, &mut paths);
            declaration.clear();
        }
    }
    paths
}

fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        paths.push(format!("{prefix}{path}"));
        return;
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let inner = tree[open + 1..].trim_end_matches('}');
    let (mut depth, mut start) = (0_usize, 0);
    // The last bracket of a group may have been cut off with the outer one: it is missing at the end alone.
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                expand(&prefix, &inner[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(&prefix, &inner[start..], paths);
    }
}

/// The module of this crate that a path leads into: the longest prefix that is a file.
fn resolve(from: &str, path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let mut at: Vec<&str> = from.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").peekable();
    match parts.next()? {
        "crate" => at.clear(),
        "self" => {}
        "super" => {
            at.pop()?;
            while parts.peek() == Some(&"super") {
                parts.next();
                at.pop()?;
            }
        }
        // A module of its own that is named without `self::`.
        first if modules.contains_key(&[&at[..], &[first]].concat().join("::")) => at.push(first),
        _ => return None,
    }
    let mut found = at.join("::");
    for part in parts {
        at.push(part);
        let module = at.join("::");
        if !modules.contains_key(&module) {
            break;
        }
        found = module;
    }
    modules.contains_key(&found).then_some(found)
}

/// The groups of modules that reach each other.
fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        imports.keys().map(|module| (module, reached(module, imports))).collect();
    let mut circles: Vec<Vec<String>> = Vec::new();
    for module in imports.keys() {
        if circles.iter().any(|circle| circle.contains(module)) {
            continue;
        }
        let circle: Vec<String> = imports
            .keys()
            .filter(|other| reach[module].contains(other) && reach[*other].contains(module))
            .cloned()
            .collect();
        if circle.len() > 1 {
            circles.push(circle);
        }
    }
    circles
}

fn reached<'a>(from: &'a String, imports: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        for next in imports.get(module).into_iter().flatten() {
            if found.insert(next) {
                open.push(next);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{circles, imports};

    fn found(modules: &[(&str, &str)]) -> Vec<Vec<String>> {
        let modules: BTreeMap<String, String> =
            modules.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        circles(&imports(&modules))
    }

    #[test]
    fn a_circle_through_three_modules_is_found() {
        let circle = found(&[
            ("", "mod a;\nmod b;\nmod c;\nuse crate::a::A;\n"),
            ("a", "use crate::{\n    b::B,\n    b::{C, D},\n};\n"),
            ("b", "use super::c::C;\n"),
            ("c", "pub(crate) use crate::a::{A, B};\n"),
        ]);
        assert_eq!(circle, [["a", "b", "c"]]);
    }

    #[test]
    fn a_front_and_its_parts_are_no_circle() {
        assert!(
            found(&[("a", "mod b;\nuse b::B;\n"), ("a::b", "use super::A;\nuse crate::a::C;\n")]).is_empty()
        );
    }

    #[test]
    fn what_tests_import_is_left_out() {
        let tests = "#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}\n";
        assert!(found(&[("a", tests), ("b", "use crate::a::A;\n")]).is_empty());
    }
}
