//! Paths, types, functions and settings that a page names in backticks.

use std::collections::BTreeSet;

/// Everything that a name can be found in.
pub(crate) struct Names {
    files: Vec<String>,
    /// Every word of every source file.
    words: BTreeSet<String>,
    /// The names after `fn`.
    functions: BTreeSet<String>,
}

impl Names {
    pub(crate) fn read(files: &[String], sources: &[(String, String)]) -> Self {
        let is_word = |character: char| character.is_alphanumeric() || character == '_';
        let (mut words, mut functions) = (BTreeSet::new(), BTreeSet::new());
        for (_, text) in sources {
            let mut before = "";
            for word in text.split(|character| !is_word(character)).filter(|word| !word.is_empty()) {
                if before == "fn" || before == "def" {
                    functions.insert(word.to_owned());
                }
                words.insert(word.to_owned());
                before = word;
            }
        }
        Self { files: files.to_vec(), words, functions }
    }

    /// What is wrong with a name in backticks, if anything. What is no name of these kinds is right.
    pub(crate) fn check(&self, page: &str, code: &str) -> Option<String> {
        let first = code.split_whitespace().next()?;
        if first.contains('/') || is_file_name(first) {
            return self.check_path(page, first);
        }
        if code.contains(' ') {
            return None;
        }
        // `Type::member`, `table.key` and `key = value` are looked up word by word.
        let words = || code.split(['.', ':']).filter(|word| !word.is_empty());
        if !words()
            .all(|word| word.chars().all(|character| character.is_ascii_alphanumeric() || character == '_'))
        {
            return None;
        }
        for word in words() {
            let parts = word.split('_').count();
            let is_snake = parts > 1 && !word.chars().any(|character| character.is_ascii_uppercase());
            let is_type = word.starts_with(|character: char| character.is_ascii_uppercase())
                && word.chars().any(|character| character.is_ascii_lowercase());
            // Tests have long names. So have metrics, which begin with the project's name.
            if is_snake && parts > 4 && !word.starts_with("cleanroom_") && !self.functions.contains(word) {
                return Some(format!("there is no function or test {word}"));
            }
            if (is_snake || is_type) && !self.words.contains(word) && !self.is_composed_metric(word) {
                return Some(format!("{word} is nowhere in the sources"));
            }
        }
        None
    }

    /// Whether a word is a metric of the authority's registry, which puts its prefix and a counter's suffix around the names.
    fn is_composed_metric(&self, word: &str) -> bool {
        let name = word.strip_prefix("cleanroom_authority_");
        name.is_some_and(|name| self.words.contains(name.strip_suffix("_total").unwrap_or(name)))
    }

    fn check_path(&self, page: &str, path: &str) -> Option<String> {
        let path = path.trim_end_matches(['.', ',', ':', ';']);
        let plain = |character: char| character.is_ascii_alphanumeric() || "_-./".contains(character);
        // Patterns, addresses, media types and what is absolute are no paths of the repository.
        if !path.chars().all(plain) || path.starts_with(['/', '-']) || path.starts_with("..") {
            return None;
        }
        let path = path.strip_prefix("./").unwrap_or(path);
        let (folder, _) = path.split_once('/').unwrap_or(("", path));
        let beside = page.rsplit_once('/').map_or("", |(folder, _)| folder);
        if exists(&self.files, path) || exists(&self.files, &format!("{beside}/{path}")) {
            return None;
        }
        if folder.is_empty() {
            let known = self.files.iter().any(|file| file.rsplit('/').next() == Some(path));
            return (!known).then(|| format!("no file is called {path}"));
        }
        let is_ours = exists(&self.files, folder) && folder != "target";
        (is_ours || is_file_name(path)).then(|| format!("{path} does not exist"))
    }
}

/// Whether a word is the name of a source file. Other kinds of files are also written by programs while they run.
fn is_file_name(word: &str) -> bool {
    word.rsplit_once('.').is_some_and(|(stem, extension)| {
        !stem.is_empty()
            && matches!(extension, "rs" | "py" | "md")
            && stem.chars().all(|character| character.is_ascii_alphanumeric() || "_-./".contains(character))
    })
}

/// Whether a path is a tracked file or a folder with tracked files.
pub(crate) fn exists(files: &[String], path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let folder = format!("{path}/");
    path.is_empty() || files.iter().any(|file| file == path || file.starts_with(&folder))
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn a_name_must_be_found_where_its_kind_is_declared() {
        let files = ["docs/a.md", "docs/schema/x.json", "host/src/relay.rs"].map(str::to_owned);
        let source = "pub struct Attested;\nfn a_test_with_a_long_name() {}\n// max_session\n";
        let names = Names::read(&files, &[("host/src/relay.rs".to_owned(), source.to_owned())]);
        for good in [
            "host/",
            "host/src/relay.rs",
            "relay.rs",
            "schema/x.json",
            "Attested",
            "a_test_with_a_long_name",
            "max_session",
            "cleanroom_authority_max_session",
            "freshness.max_session",
            "/dev/nsm",
            "target/demo",
            "application/json",
            "user",
            "two words",
            "--flag",
        ] {
            assert_eq!(names.check("docs/a.md", good), None, "{good}");
        }
        for bad in [
            "host/src/gone.rs",
            "host/gone",
            "gone.rs",
            "elsewhere/gone.rs",
            "Proven",
            "Attested::no_member",
            "max_nothing",
            "cleanroom_authority_max_nothing",
            "a_test_with_another_name",
        ] {
            assert!(names.check("docs/a.md", bad).is_some(), "{bad}");
        }
    }
}
