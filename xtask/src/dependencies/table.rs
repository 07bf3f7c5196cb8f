//! Reads the table of allowed edges from the page.

/// A crate's row.
pub(crate) struct Row {
    /// The row's line in the page, counted from 1.
    pub(crate) line: usize,
    pub(crate) name: String,
    /// The crates of the workspace that this one may depend on.
    pub(crate) allowed: Vec<String>,
    /// What this crate must never reach: crates by name, or folders that end in `/`.
    pub(crate) forbidden: Vec<String>,
}

/// The rows of the table whose head is `| crate | may depend on | must never reach |`.
pub(crate) fn read(page: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let mut inside = false;
    for (index, line) in page.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with('|') {
            inside = false;
        } else if cells == ["crate", "may depend on", "must never reach"] {
            inside = true;
        } else if inside && !line.starts_with("|--") {
            let [name, allowed, forbidden] = cells.as_slice() else {
                return Err(format!("the table's line {} has not three cells", index + 1));
            };
            let [name] = names(name)
                .map_err(|reason| format!("line {}: {reason}", index + 1))?
                .try_into()
                .map_err(|names: Vec<String>| {
                    format!("line {} names {} crates in its first cell", index + 1, names.len())
                })?;
            let list = |cell| names(cell).map_err(|reason| format!("line {}: {reason}", index + 1));
            rows.push(Row { line: index + 1, name, allowed: list(allowed)?, forbidden: list(forbidden)? });
        }
    }
    if rows.is_empty() {
        return Err("the page has no table `| crate | may depend on | must never reach |`".to_owned());
    }
    Ok(rows)
}

/// The names in a cell: each in backticks, with commas between them; or the word `none`.
fn names(cell: &str) -> Result<Vec<String>, String> {
    if cell == "none" {
        return Ok(Vec::new());
    }
    cell.split(',')
        .map(|name| {
            name.trim()
                .strip_prefix('`')
                .and_then(|name| name.strip_suffix('`'))
                .filter(|name| !name.is_empty() && !name.contains('`'))
                .map(str::to_owned)
                .ok_or_else(|| {
                    format!("expected names in backticks with commas between them, or none; got {cell:?}")
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_page_without_the_table_is_an_error() {
        assert!(read("# Architecture\n\n| crate | what |\n|---|---|\n| `a` | b |\n").is_err());
    }

    #[test]
    fn a_cell_that_is_not_understood_is_an_error_and_not_an_empty_list() {
        let head = "| crate | may depend on | must never reach |\n|---|---|---|\n";
        for row in ["| `a` | b | none |", "| `a` | | none |", "| `a` | `b` `c` | none |", "| `a` | none |"] {
            assert!(read(&format!("{head}{row}\n")).is_err(), "{row}");
        }
    }
}
