//! Relative links: the file must exist, and the heading, where one is named.

use super::page::Page;

/// What is wrong with a link, if anything.
pub(crate) fn check(page: &Page, target: &str, files: &[String], pages: &[Page]) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = if path.is_empty() { page.path().to_owned() } else { resolve(page.path(), path) };
    if !super::names::exists(files, &path) {
        return Some(format!("the link {target} leads to {path}, which does not exist"));
    }
    let other = pages.iter().find(|other| other.path() == path)?;
    let anchor = anchor?;
    (!other.anchors().iter().any(|known| known == anchor)).then(|| format!("{path} has no heading #{anchor}"))
}

/// A path that is relative to the folder of `page`, relative to the root.
fn resolve(page: &str, path: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::{Page, check};

    #[test]
    fn files_and_headings_must_exist() {
        let files = ["README.md".to_owned(), "docs/a.md".to_owned(), "docs/b.md".to_owned()];
        let pages = [Page::read("docs/a.md", "# One\n"), Page::read("docs/b.md", "# Two\n")];
        for good in ["b.md", "b.md#two", "#one", "../README.md", "../docs", "https://example.org/x"] {
            assert_eq!(check(&pages[0], good, &files, &pages), None, "{good}");
        }
        for bad in ["c.md", "b.md#one", "#two", "../a.md", "README.md"] {
            assert!(check(&pages[0], bad, &files, &pages).is_some(), "{bad}");
        }
    }
}
