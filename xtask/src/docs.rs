//! Compares the names on the pages with the names that exist.
//!
//! Read are all tracked Markdown files. In a link: the file and the heading. In backticks: paths, types, functions,
//! settings, flags and commands. In blocks of shell lines: the project's own programs and scripts, with their
//! subcommands and flags. Names that belong to others, and names that a page says do not exist, are in `foreign.txt`.

mod commands;
mod links;
mod names;
mod page;

use std::collections::BTreeSet;

use crate::Outcome;
use crate::repository::Repository;
use commands::Programs;
use names::Names;
use page::{Page, Piece};

/// Names that are not this repository's own: one on a line, after `#` a comment.
const FOREIGN: &str = include_str!("docs/foreign.txt");

/// Checks every page.
pub(crate) fn check(repository: &Repository) -> Result<Outcome, String> {
    let files = repository.files()?;
    let (mut pages, mut sources) = (Vec::new(), Vec::new());
    for path in &files {
        let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension {
            "md" => pages.push(Page::read(path, &repository.text(path)?)),
            // Seeds, models and lock files name nothing, and this check's own examples do not exist.
            "gguf" | "lock" => {}
            _ if path.starts_with("fuzz/corpus") || path.starts_with("xtask/src/docs") => {}
            _ => sources.push((path.clone(), repository.text(path)?)),
        }
    }
    let foreign: BTreeSet<String> = FOREIGN
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    let names = Names::read(&files, &sources);
    let programs = Programs::read(&sources);
    let (mut faults, mut used) = (Vec::new(), BTreeSet::new());
    for page in &pages {
        for (line, piece) in page.pieces() {
            let found = match piece {
                Piece::Link(target) => links::check(page, target, &files, &pages).into_iter().collect(),
                Piece::Code(code) if foreign.contains(code.as_str()) => {
                    used.insert(code.clone());
                    Vec::new()
                }
                Piece::Code(code) => {
                    let mut found: Vec<String> = names.check(page.path(), code).into_iter().collect();
                    found.extend(programs.check(code));
                    found
                }
                Piece::Shell(command) => programs.check(command),
            };
            faults.extend(found.into_iter().map(|fault| format!("{}:{line}: {fault}", page.path())));
        }
    }
    for name in foreign.difference(&used) {
        faults.push(format!("xtask/src/docs/foreign.txt: no page names {name:?} any more"));
    }
    Ok(Outcome { summary: format!("{} pages against {} files", pages.len(), files.len()), faults })
}
