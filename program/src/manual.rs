//! Writes a program's manual pages and shell completions from the same definitions as its `--help`.
//!
//! Packages call the hidden command that each program has for it, so the pages are those of the very program
//! that lies beside them.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

/// Write the manual pages and completions of this program into a folder. Packages are made with it.
#[derive(Args)]
pub struct Manual {
    /// The folder. It gets man1/ with a page for each command, and completions/ with a file for each shell.
    /// What is there already is replaced.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl Manual {
    /// Writes the pages and completions of `program`.
    ///
    /// # Errors
    /// [`ManualError`] names the folder that cannot be written.
    pub fn write(&self, program: &Command) -> Result<(), ManualError> {
        write(program, &self.folder).map_err(|source| ManualError { folder: self.folder.clone(), source })
    }
}

/// The folder for the manual cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the manual into {}: {source}", folder.display())]
pub struct ManualError {
    folder: PathBuf,
    source: io::Error,
}

fn write(program: &Command, folder: &Path) -> io::Result<()> {
    let (pages, completions) = (folder.join("man1"), folder.join("completions"));
    for folder in [&pages, &completions] {
        std::fs::create_dir_all(folder)?;
    }
    clap_mangen::generate_to(program.clone().disable_help_subcommand(true), pages)?;
    let name = program.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut program.clone(), name.as_str(), &completions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn program() -> Command {
        let kept = Command::new("keep").about("Keeps it").arg(Arg::new("file").long("file"));
        Command::new("tool").subcommand(kept).subcommand(Command::new("manual").hide(true))
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn each_command_that_is_shown_has_a_page_and_each_shell_its_completions() {
        let folder = tempfile::tempdir().unwrap();
        Manual { folder: folder.path().join("a/b") }.write(&program()).unwrap();
        assert_eq!(names(&folder.path().join("a/b/man1")), ["tool-keep.1", "tool.1"]);
        assert_eq!(names(&folder.path().join("a/b/completions")), ["_tool", "tool.bash", "tool.fish"]);
        let page = std::fs::read_to_string(folder.path().join("a/b/man1/tool-keep.1")).unwrap();
        assert!(page.contains("Keeps it") && page.contains("file"), "{page}");
    }

    #[test]
    fn two_runs_write_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let written = ["one", "two"].map(|name| {
            let folder = folder.path().join(name);
            Manual { folder: folder.clone() }.write(&program()).unwrap();
            ["man1/tool.1", "completions/_tool", "completions/tool.bash"]
                .map(|file| std::fs::read(folder.join(file)).unwrap())
        });
        assert_eq!(written[0], written[1]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let error = Manual { folder: "/proc/none".into() }.write(&program()).unwrap_err();
        assert!(error.to_string().contains("/proc/none"), "{error}");
    }
}
