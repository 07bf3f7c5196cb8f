//! The bytes of a model: one file as it is, or several files as one model.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use cleanroom_attestation::model::CHUNK_BYTES;

use super::files::{Files, FilesError};
use crate::failure::Failure;

/// A model to be read once, from its beginning to its end.
pub(crate) struct Plaintext {
    /// What a message calls it.
    pub(super) name: PathBuf,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// Its files, if it has several.
    pub(super) files: Option<Files>,
    /// What is left: where from, and how many bytes.
    parts: VecDeque<(Part, u64)>,
    /// What is read at the moment, and how much is left of it.
    open: Option<(Box<dyn Read + Send>, u64)>,
}

enum Part {
    Index(Vec<u8>),
    File(PathBuf),
    Zeros,
}

impl Plaintext {
    /// The model of these paths: one file, one folder, or several files.
    pub(crate) fn of(paths: &[PathBuf]) -> Result<Self, Failure> {
        let (files, name) = match paths {
            [path] if path.is_dir() => (in_folder(path)?, path.clone()),
            [path] => return Self::of_file(path),
            paths => {
                let files = paths.iter().map(|path| named(path, path.file_name().map(Path::new)));
                (files.collect::<Result<_, _>>()?, paths.first().cloned().unwrap_or_default())
            }
        };
        Self::of_files(name, files)
    }

    /// One file of `length` bytes, or as many as it has, behind its first `skipped` bytes.
    pub(super) fn behind(path: &Path, skipped: u64) -> Result<Self, Failure> {
        let failed = |error| Failure::File { verb: "read", path: path.to_owned(), error };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len().saturating_sub(skipped);
        io::Seek::seek(&mut file, io::SeekFrom::Start(skipped)).map_err(failed)?;
        let open: Box<dyn Read + Send> = Box::new(file);
        Ok(Self {
            name: path.to_owned(),
            length,
            files: None,
            parts: VecDeque::new(),
            open: Some((open, length)),
        })
    }

    fn of_file(path: &Path) -> Result<Self, Failure> {
        Self::behind(path, 0)
    }

    fn of_files(name: PathBuf, mut files: Vec<(String, PathBuf, u64)>) -> Result<Self, Failure> {
        files.sort();
        let entries = files.iter().map(|(name, _, length)| (name.clone(), *length)).collect();
        let list = Files::new(entries).map_err(|error| refused(&name, &error))?;
        let index = list.index();
        let length = index.len() as u64;
        let mut parts = VecDeque::from([(Part::Index(index), length)]);
        for (_, path, length) in files {
            parts.push_back((Part::File(path), length));
            parts.push_back((Part::Zeros, length.next_multiple_of(CHUNK_BYTES as u64) - length));
        }
        Ok(Self { name, length: list.length(), files: Some(list), parts, open: None })
    }
}

impl Read for Plaintext {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            if output.is_empty() {
                return Ok(0);
            }
            match &mut self.open {
                Some((reader, 0)) => {
                    let more = reader.read(&mut [0])?;
                    if more > 0 {
                        return Err(io::Error::other("a file of the model became longer while it was read"));
                    }
                    self.open = None;
                }
                Some((reader, left)) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(output.len());
                    let count = reader.read(output.get_mut(..most).unwrap_or_default())?;
                    if count == 0 {
                        let problem = "a file of the model became shorter while it was read";
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
                    }
                    *left = left.saturating_sub(count as u64);
                    return Ok(count);
                }
                None => {
                    let Some((part, length)) = self.parts.pop_front() else { return Ok(0) };
                    let reader: Box<dyn Read + Send> = match part {
                        Part::Index(index) => Box::new(Cursor::new(index)),
                        Part::File(path) => Box::new(File::open(path)?),
                        Part::Zeros => Box::new(io::repeat(0).take(length)),
                    };
                    self.open = Some((reader, length));
                }
            }
        }
    }
}

/// The files below a folder, by their paths in it.
fn in_folder(folder: &Path) -> Result<Vec<(String, PathBuf, u64)>, Failure> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(each) = folders.pop() {
        let failed = |error| Failure::File { verb: "read", path: each.clone(), error };
        for entry in each.read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Not through links: what they lead to could be anything on this machine, or the folder itself.
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                files.push(named(&path, path.strip_prefix(folder).ok())?);
            }
        }
    }
    Ok(files)
}

/// A file with its name in the model and its length.
fn named(path: &Path, name: Option<&Path>) -> Result<(String, PathBuf, u64), Failure> {
    let metadata = path.metadata();
    let metadata = metadata.map_err(|error| Failure::File { verb: "read", path: path.to_owned(), error })?;
    if !metadata.is_file() {
        return Err(Failure::usage(format!("{} is neither a file nor a folder of files", path.display())));
    }
    let name = name.and_then(Path::to_str).map(str::to_owned);
    let unnamed = || FilesError::Name { name: path.display().to_string() };
    let name = name.ok_or_else(|| refused(path, &unnamed()))?;
    Ok((name, path.to_owned(), metadata.len()))
}

pub(super) fn refused(path: &Path, error: &FilesError) -> Failure {
    Failure::Refused { what: path.display().to_string(), code: "model-files", problem: error.to_string() }
}
