//! The files that git tracks.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The work tree of this repository.
pub(crate) struct Repository {
    root: PathBuf,
}

impl Repository {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root: root.canonicalize().unwrap_or(root) }
    }

    /// The paths of all tracked files, and of new files that git does not ignore, relative to the root.
    pub(crate) fn files(&self) -> Result<Vec<String>, String> {
        let listed =
            self.output("git", &["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"])?;
        Ok(listed.lines().filter(|path| self.root.join(path).exists()).map(str::to_owned).collect())
    }

    /// The text of a file. A file that is not text counts as empty.
    pub(crate) fn text(&self, path: &str) -> Result<String, String> {
        let bytes = fs::read(self.root.join(path)).map_err(|error| format!("{path}: {error}"))?;
        Ok(String::from_utf8(bytes).unwrap_or_default())
    }

    /// What a program prints that is run at the root.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.root)
            .output()
            .map_err(|error| format!("{program} could not be started: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "{program} {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        String::from_utf8(output.stdout).map_err(|_| format!("{program} printed something that is not text"))
    }
}
