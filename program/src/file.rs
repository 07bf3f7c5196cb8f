//! Files that are kept: whole or not at all, and still there after a power cut.
//!
//! Each function returns only when the file *and* its entry in the folder are on the disk. A program that
//! acknowledges something after one of them returned has kept it. When one of them fails, the old file is as
//! it was, or the new one is there whole; calling it again is always right.
//!
//! With the feature `fault-injection`, the module `fault` makes a chosen operation fail, so that a program can
//! be tested at every write that it does.

mod append;
#[cfg(feature = "fault-injection")]
pub mod fault;

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

pub use append::Appender;

/// The permissions of a file for everybody to read.
pub const PUBLIC: u32 = 0o644;
/// The permissions of a file for its owner alone.
pub const PRIVATE: u32 = 0o600;

/// What the system was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Open or create a file.
    Open,
    /// Read a file.
    Read,
    /// Write into a file.
    Write,
    /// Bring a file's bytes to the disk.
    SyncFile,
    /// Give a file its name.
    Rename,
    /// Bring a folder's entries to the disk.
    SyncFolder,
    /// Make a folder.
    MakeFolder,
    /// Remove a file.
    Remove,
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::SyncFile => "bring to the disk",
            Self::Rename => "put in place",
            Self::SyncFolder => "bring to the disk the folder",
            Self::MakeFolder => "make the folder",
            Self::Remove => "remove",
        })
    }
}

/// The system refused an operation on a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", .path.display())]
pub struct FileError {
    /// What was asked.
    pub operation: Operation,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// Whether the file was to be new, and there is one already.
    #[must_use]
    pub fn is_existing(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

/// Why a secret was not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// Others than the owner may read the file.
    #[error(
        "{} can be read by others than its owner (permissions {mode:o}); make it yours alone: chmod 600 {}",
        .path.display(), .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is larger than any such secret.
    #[error("{} has more than {limit} bytes, more than any key file", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read, in bytes.
        limit: usize,
    },
}

/// Writes a file in one step. A reader sees the old bytes or the new ones, before and after a power cut.
///
/// A symbolic link at `path` is replaced, not followed. `mode` is the permissions of the new file, less the
/// process's umask.
///
/// # Errors
/// The system refuses. The old file is as it was, or the new one is in place but may not survive a power cut.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let temporary = Temporary::write(path, bytes, mode)?;
    run(Operation::Rename, path, || fs::rename(&temporary.path, path))?;
    temporary.done();
    sync_folder(folder_of(path))
}

/// Writes a file as [`replace`] does, unless it has these bytes already; then it only makes sure that they
/// are on the disk. Says whether it wrote.
///
/// A full disk is no obstacle to a file that is right already.
///
/// # Errors
/// As [`replace`].
pub fn replace_if_changed(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, FileError> {
    let same = File::open(path).and_then(|file| {
        let mut found = Vec::new();
        let limit = u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_add(1);
        (&file).take(limit).read_to_end(&mut found)?;
        Ok((found == bytes).then_some(file))
    });
    // A file that cannot be read is replaced.
    let Ok(Some(file)) = same else {
        return replace(path, bytes, mode).map(|()| true);
    };
    run(Operation::SyncFile, path, || file.sync_all())?;
    sync_folder(folder_of(path))?;
    Ok(false)
}

/// Gives a file that was written under another name in the same folder its own. A file that has the name
/// already is left alone.
///
/// # Errors
/// The system refuses, or there is a file already ([`FileError::is_existing`]).
pub fn publish(temporary: &Path, path: &Path) -> Result<(), FileError> {
    let file = run(Operation::Open, path, || File::open(temporary))?;
    run(Operation::SyncFile, path, || file.sync_all())?;
    let linked = run(Operation::Rename, path, || fs::hard_link(temporary, path));
    match linked {
        Ok(()) => {}
        Err(error) if error.is_existing() => return Err(error),
        // A file system without links: nobody else may make this file at the same moment.
        Err(_) if path.symlink_metadata().is_err() => {
            run(Operation::Rename, path, || fs::rename(temporary, path))?;
            return sync_folder(folder_of(path));
        }
        Err(error) => return Err(error),
    }
    sync_folder(folder_of(path)).inspect_err(|_| _ = fs::remove_file(path))?;
    let _ = fs::remove_file(temporary);
    Ok(())
}

/// Brings a file that another program wrote to the disk, with its name.
///
/// # Errors
/// The system refuses, or there is no such file.
pub fn sync(path: &Path) -> Result<(), FileError> {
    let file = run(Operation::Open, path, || File::open(path))?;
    run(Operation::SyncFile, path, || file.sync_all())?;
    sync_folder(folder_of(path))
}

/// Writes a new file. One that exists is left alone.
///
/// # Errors
/// The system refuses, or there is a file already ([`FileError::is_existing`]). There is no new file then.
pub fn create_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let temporary = Temporary::write(path, bytes, mode)?;
    // Unlike a rename, a link never replaces what is there.
    let linked = run(Operation::Rename, path, || fs::hard_link(&temporary.path, path));
    match linked {
        Ok(()) => {}
        Err(error) if error.is_existing() => return Err(error),
        // Some file systems have no links, FAT on a memory stick for example.
        Err(_) => create_in_place(path, bytes, mode)?,
    }
    drop(temporary);
    sync_folder(folder_of(path)).inspect_err(|_| _ = fs::remove_file(path))
}

/// Writes a new file that only its owner can read, from its first byte on. One that exists is left alone.
///
/// # Errors
/// As [`create_new`].
pub fn create_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    create_new(path, bytes, PRIVATE)
}

/// Reads a secret of at most `limit` bytes, and refuses a file that others than its owner can read.
///
/// The bytes are wiped when they are dropped.
///
/// # Errors
/// [`SecretError`].
pub fn read_secret(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let file = run(Operation::Open, path, || File::open(path))?;
    // The open file is asked, not its name: the file cannot be exchanged in between.
    let metadata = run(Operation::Read, path, || file.metadata())?;
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit.saturating_add(1)));
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    run(Operation::Read, path, || (&file).take(most).read_to_end(&mut bytes))?;
    if bytes.len() > limit {
        return Err(SecretError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Makes a folder and those above it, unless they exist. `mode` is the permissions of new ones, less the
/// umask.
///
/// # Errors
/// The system refuses.
pub fn create_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let above = folder_of(path);
    create_folder(above, mode)?;
    match run(Operation::MakeFolder, path, || DirBuilder::new().mode(mode).create(path)) {
        // Somebody else made it in the meantime.
        Err(error) if error.is_existing() && path.is_dir() => {}
        made => made?,
    }
    // A second try must not take it for one that is on the disk.
    sync_folder(above).inspect_err(|_| _ = fs::remove_dir(path))
}

/// Removes a file, and brings that to the disk. A file that is not there counts as removed.
///
/// # Errors
/// The system refuses.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match run(Operation::Remove, path, || fs::remove_file(path)) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    sync_folder(folder_of(path))
}

/// Overwrites a file with zeros, brings that to the disk, and removes the file.
///
/// What a disk keeps beside that is not reached: journals, snapshots, backups, and cells that a solid-state disk put aside.
///
/// # Errors
/// The system refuses.
pub fn shred(path: &Path) -> Result<(), FileError> {
    let mut file = run(Operation::Open, path, || OpenOptions::new().write(true).open(path))?;
    let length = run(Operation::Read, path, || file.metadata())?.len();
    let zeros = vec![0; usize::try_from(length).unwrap_or_default()];
    write_bytes(&mut file, path, &zeros)?;
    run(Operation::SyncFile, path, || file.sync_all())?;
    drop(file);
    remove(path)
}

/// Brings a folder's entries to the disk: names that were made, changed or removed in it.
///
/// # Errors
/// The system refuses.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    run(Operation::SyncFolder, folder, || match File::open(folder)?.sync_all() {
        // Some file systems cannot, and need not.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    })
}

/// The folder that a path is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file under a name of its own beside the one that it is meant for. It is removed unless it was put in
/// place.
struct Temporary {
    path: PathBuf,
    in_place: bool,
}

impl Temporary {
    /// `path`'s new bytes, on the disk under another name.
    fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<Self, FileError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}-{number}.new", std::process::id()));
        let temporary = Self { path: path.with_file_name(name), in_place: false };
        // One that an earlier process with this id left behind.
        let _ = fs::remove_file(&temporary.path);
        write_new(&temporary.path, path, bytes, mode)?;
        Ok(temporary)
    }

    fn done(mut self) {
        self.in_place = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.in_place {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn create_in_place(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let written = write_new(path, path, bytes, mode);
    if written.as_ref().is_err_and(|error| !error.is_existing()) {
        let _ = fs::remove_file(path);
    }
    written
}

/// Writes `bytes` into the new file `to`. Errors name `path`, the file that the user knows.
fn write_new(to: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = run(Operation::Open, path, || options.open(to))?;
    write_bytes(&mut file, path, bytes)?;
    run(Operation::SyncFile, path, || file.sync_all())
}

fn write_bytes(file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    #[cfg(feature = "fault-injection")]
    if let Err(source) = fault::step() {
        // As a disk does that becomes full.
        let _ = file.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default());
        return Err(FileError { operation: Operation::Write, path: path.to_owned(), source });
    }
    file.write_all(bytes).map_err(|source| FileError {
        operation: Operation::Write,
        path: path.to_owned(),
        source,
    })
}

fn run<T>(operation: Operation, path: &Path, work: impl FnOnce() -> io::Result<T>) -> Result<T, FileError> {
    #[cfg(feature = "fault-injection")]
    let done = if operation == Operation::Read { work() } else { fault::step().and_then(|()| work()) };
    #[cfg(not(feature = "fault-injection"))]
    let done = work();
    done.map_err(|source| FileError { operation, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
