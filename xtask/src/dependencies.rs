//! The table of allowed edges in `docs/architecture.md` against the workspace as cargo resolves it.
//!
//! The table has a row for each crate of the workspace: the crates of the workspace that it may depend on, and the
//! names that it must never reach, however many crates lie between. A name that ends in `/` stands for all crates in
//! that folder. Cargo resolves the features of the whole workspace together, so a crate is judged with at least the
//! features that it is built with.

mod graph;
mod table;

use graph::Graph;
use table::Row;

use crate::Outcome;
use crate::repository::Repository;

const PAGE: &str = "docs/architecture.md";

/// Compares the table with the workspace.
pub(crate) fn check(repository: &Repository) -> Result<Outcome, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let metadata = repository.output(
        &cargo,
        &["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"],
    )?;
    let graph = Graph::read(&metadata)?;
    let rows = table::read(&repository.text(PAGE)?)?;
    let faults = compare(&graph, &rows);
    Ok(Outcome {
        summary: format!("{} crates against {} rows of {PAGE}", graph.members().len(), rows.len()),
        faults,
    })
}

fn compare(graph: &Graph, rows: &[Row]) -> Vec<String> {
    let mut faults = Vec::new();
    for member in graph.members() {
        if !rows.iter().any(|row| row.name == member.name) {
            faults.push(format!("{PAGE}: the table has no row for the crate {}", member.name));
        }
    }
    for Row { line, name, allowed, forbidden } in rows {
        let at = format!("{PAGE}:{line}");
        if !graph.members().iter().any(|member| member.name == *name) {
            faults.push(format!("{at}: the workspace has no crate {name}"));
            continue;
        }
        let direct = graph.direct(name);
        for target in direct.iter().filter(|target| !allowed.contains(target)) {
            faults.push(format!("{at}: {name} depends on {target}, which its row does not allow"));
        }
        for target in allowed.iter().filter(|target| !direct.contains(target)) {
            faults.push(format!("{at}: {name} does not depend on {target}; remove it from the row"));
        }
        for target in forbidden {
            let names = graph.named(target);
            if names.is_empty() {
                faults.push(format!(
                    "{at}: {target} is no crate and no folder of crates here, so forbidding it does nothing"
                ));
            }
            // A crate is in its own folder, and does not reach itself.
            for reached in names.iter().filter(|reached| *reached != name) {
                if let Some(path) = graph.path(name, reached) {
                    faults.push(format!(
                        "{at}: {name} must never reach {reached}, and does: {}",
                        path.join(" → ")
                    ));
                }
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Graph, Repository, check, compare, table};

    #[test]
    fn the_workspace_keeps_to_its_table() {
        let repository = Repository::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        assert_eq!(check(&repository).expect("cargo can be asked").faults, Vec::<String>::new());
    }

    /// A keeper, a worker with an HTTP library, and what they share.
    fn metadata(keeper_needs: &[&str]) -> String {
        let package = |name: &str, folder: &str| {
            format!(r#"{{"id": "{name}#1", "name": "{name}", "manifest_path": "/w/{folder}/Cargo.toml"}}"#)
        };
        let node = |name: &str, needs: &[&str]| {
            let needs: Vec<String> = needs
                .iter()
                .map(|need| {
                    let (need, kind) =
                        need.split_once('@').map_or((*need, "null"), |(need, _)| (need, r#""dev""#));
                    format!(r#"{{"pkg": "{need}#1", "dep_kinds": [{{"kind": {kind}}}]}}"#)
                })
                .collect();
            format!(r#"{{"id": "{name}#1", "deps": [{}]}}"#, needs.join(","))
        };
        format!(
            r#"{{"workspace_root": "/w", "workspace_members": ["keeper#1", "worker#1", "shared#1", "forge#1"],
            "packages": [{}], "resolve": {{"nodes": [{}]}}}}"#,
            [
                package("keeper", "enclave/keeper"),
                package("worker", "enclave/worker"),
                package("shared", "shared"),
                package("forge", "forge"),
                package("axum", "../registry/axum"),
                package("hyper", "../registry/hyper"),
            ]
            .join(","),
            [
                node("keeper", keeper_needs),
                node("worker", &["shared", "axum"]),
                node("shared", &["forge@dev"]),
                node("forge", &[]),
                node("axum", &["hyper"]),
                node("hyper", &[]),
            ]
            .join(",")
        )
    }

    const TABLE: &str = "\
| crate | may depend on | must never reach |
|---|---|---|
| `keeper` | `shared` | `hyper`, `worker` |
| `worker` | `shared` | `keeper` |
| `shared` | none | `enclave/`, `forge` |
| `forge` | none | none |
";

    fn faults(keeper_needs: &[&str], table: &str) -> Vec<String> {
        let graph = Graph::read(&metadata(keeper_needs)).expect("the metadata are well formed");
        compare(&graph, &table::read(table).expect("the table is well formed"))
    }

    #[test]
    fn a_workspace_that_keeps_to_the_table_has_no_faults() {
        assert_eq!(faults(&["shared"], TABLE), Vec::<String>::new());
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_a_fault() {
        let found = faults(&["shared", "forge"], TABLE);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("keeper depends on forge"), "{found:?}");
    }

    #[test]
    fn an_edge_that_only_the_table_has_is_a_fault() {
        let found = faults(&[], TABLE);
        assert!(found[0].contains("keeper does not depend on shared"), "{found:?}");
    }

    #[test]
    fn a_forbidden_crate_is_found_behind_others() {
        let found = faults(&["shared", "axum"], TABLE);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("keeper → axum → hyper"), "{found:?}");
    }

    #[test]
    fn a_forbidden_folder_stands_for_every_crate_in_it() {
        let table =
            TABLE.replace("| `keeper` | `shared` | `hyper`", "| `keeper` | `shared`, `worker` | `enclave/`");
        let found = faults(&["shared", "worker"], &table);
        assert!(found.iter().any(|fault| fault.contains("keeper must never reach worker")), "{found:?}");
        assert!(!found.iter().any(|fault| fault.contains("reach keeper, and does")), "{found:?}");
    }

    #[test]
    fn a_dependency_of_tests_alone_is_no_edge() {
        // `shared` tests itself with `forge`, and must never reach it.
        assert_eq!(faults(&["shared"], TABLE), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_name_that_no_crate_has_is_a_fault() {
        let found = faults(&["shared"], &TABLE.replace("`hyper`", "`hypr`"));
        assert!(found[0].contains("hypr is no crate"), "{found:?}");
    }

    #[test]
    fn a_crate_without_a_row_is_a_fault() {
        let found = faults(&["shared"], &TABLE.replace("| `forge` | none | none |\n", ""));
        assert!(found[0].contains("no row for the crate forge"), "{found:?}");
    }

    #[test]
    fn a_row_without_a_crate_is_a_fault() {
        let found = faults(&["shared"], &format!("{TABLE}| `gone` | none | none |\n"));
        assert!(found[0].contains("no crate gone"), "{found:?}");
    }
}
