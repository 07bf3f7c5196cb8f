//! `search`: whether pieces of a model's weights lie in files, in folders, or in the memory of processes.

mod pieces;
mod process;

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use self::pieces::Pieces;
use self::process::Memory;
use crate::Outcome;
use crate::failure::Failure;
use crate::sealed::{Plaintext, progress};

#[derive(Args)]
pub(crate) struct Search {
    /// The model as it is, not sealed: its file, or its folder.
    model: PathBuf,
    /// Where to search: files, and folders with everything below them.
    #[arg(value_name = "PATH", required_unless_present = "process")]
    paths: Vec<PathBuf>,
    /// A process whose memory is searched, by its id; may be repeated. It needs the right to read it: root, the
    /// parent of the process, or `kernel.yama.ptrace_scope=0`.
    #[arg(long, value_name = "PID")]
    process: Vec<u32>,
}

pub(crate) const EXAMPLES: &str = "\
One piece of 32 bytes of every 16 KiB of the weights is looked for, of at most
4096 places in the model. A piece is found at any offset, as it is: not
compressed, encrypted or written in another alphabet.

Exit status 1, code `weights-found`, when a piece is found; 0 when everything
was read and none is.

Examples:
  cleanroom-authority search forecast-8b.gguf /var/lib/cleanroom /mnt/backup/dump.img
  cleanroom-authority search forecast-8b.gguf --process 4711";

/// What was found in one place.
struct Searched {
    place: String,
    bytes: u64,
    found: usize,
    /// Where, within the place: the first files of a folder.
    where_in: Vec<PathBuf>,
}

/// The most files that a report names of one folder.
const NAMED: usize = 5;

impl Search {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        let mut model = Plaintext::of(std::slice::from_ref(&self.model))?;
        let length = model.length;
        let pieces = Pieces::of(&mut model, length)
            .map_err(|error| Failure::File { verb: "read", path: self.model.clone(), error })?
            .ok_or_else(|| {
                Failure::usage(format!("{} holds no weights to search for", self.model.display()))
            })?;
        let mut work = Vec::new();
        for path in &self.paths {
            let files = files_below(path)?;
            let length: u64 = files.iter().map(|(_, length)| length).sum();
            work.push((Place::Files(path, files), length));
        }
        for process in &self.process {
            let memory = Memory::of(*process)?;
            let length = memory.length();
            work.push((Place::Memory(memory), length));
        }
        let progress = progress(work.iter().map(|(_, length)| length).sum(), "searching");
        let results: Result<Vec<Searched>, Failure> =
            work.into_iter().map(|(place, _)| place.search(&pieces, &progress)).collect();
        progress.finish_and_clear();
        report(&self.model, pieces.count(), &results?)
    }
}

/// Where weights are looked for.
enum Place<'a> {
    Files(&'a Path, Vec<(PathBuf, u64)>),
    Memory(Memory),
}

impl Place<'_> {
    fn search(self, pieces: &Pieces, progress: &ProgressBar) -> Result<Searched, Failure> {
        let mut all = pieces.none_found();
        match self {
            Self::Files(path, files) => {
                let mut result =
                    Searched { place: path.display().to_string(), bytes: 0, found: 0, where_in: Vec::new() };
                for (file, _) in files {
                    let failed = |error| Failure::File { verb: "read", path: file.clone(), error };
                    let mut found = pieces.none_found();
                    let source = progress.wrap_read(File::open(&file).map_err(failed)?);
                    result.bytes += pieces.search(source, &mut found).map_err(failed)?;
                    if found.count() > 0 && result.where_in.len() < NAMED {
                        result.where_in.push(file);
                    }
                    all.add(&found);
                }
                result.found = all.count();
                Ok(result)
            }
            Self::Memory(memory) => {
                let bytes = memory.search(pieces, &mut all, progress)?;
                let place = format!("memory of process {}", memory.process());
                Ok(Searched { place, bytes, found: all.count(), where_in: Vec::new() })
            }
        }
    }
}

fn report(model: &Path, pieces: usize, results: &[Searched]) -> Result<Outcome, Failure> {
    let line = |result: &Searched| {
        let Searched { place, bytes, found, where_in } = result;
        let files: String = where_in.iter().map(|file| format!("\n    in {}", file.display())).collect();
        format!("  {place}: {found} of {pieces} pieces of the weights in {bytes} bytes{files}\n")
    };
    let text: String = results.iter().map(line).collect();
    if results.iter().any(|result| result.found > 0) {
        return Err(Failure::Refused {
            what: model.display().to_string(),
            code: "weights-found",
            problem: format!("pieces of the weights were found\n{}", text.trim_end()),
        });
    }
    let places = results.iter().map(|result| {
        let Searched { place, bytes, found, where_in: _ } = result;
        json!({ "place": place, "bytes": bytes, "found": found })
    });
    let json = json!({ "pieces": pieces, "places": places.collect::<Vec<_>>() });
    Ok(Outcome { text: format!("none of the weights is here\n{text}"), json })
}

/// The files at or below a path, with their lengths. Links within a folder are not followed, and what is neither a
/// file nor a folder holds no bytes of its own.
fn files_below(path: &Path) -> Result<Vec<(PathBuf, u64)>, Failure> {
    let mut files = Vec::new();
    let failed = |path: &Path, error| Failure::File { verb: "read", path: path.to_owned(), error };
    let metadata = path.metadata().map_err(|error| failed(path, error))?;
    if !metadata.is_dir() {
        return Ok(vec![(path.to_owned(), metadata.len())]);
    }
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().map_err(|error| failed(&folder, error))? {
            let path = entry.map_err(|error| failed(&folder, error))?.path();
            let metadata = path.symlink_metadata().map_err(|error| failed(&path, error))?;
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() {
                files.push((path, metadata.len()));
            }
        }
    }
    files.sort();
    Ok(files)
}
