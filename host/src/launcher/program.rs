//! The enclave's program. The host runs the very bytes that it measured.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use super::LaunchError;

/// How long the kernel may go on using the program's memory itself before it is given up. On a busy machine
/// it has been seen to need more than the 150 ms that it waits of its own accord.
const SEALING_LIMIT: Duration = Duration::from_secs(10);

/// A program in memory that nobody can change any more, this process included.
///
/// A path would not do: between measuring the file and starting it, somebody could put another there.
pub(super) struct SealedProgram {
    memory: File,
    name: String,
}

impl SealedProgram {
    /// Reads the program at `path`. Gives its bytes too, for measuring them.
    pub(super) fn read(path: &Path) -> Result<(Self, Vec<u8>), LaunchError> {
        let bytes = read_file("enclave's program", path)?;
        if !bytes.starts_with(b"\x7fELF") {
            return Err(LaunchError::NotAProgram(path.to_owned()));
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let memory = sealed(&name, &bytes).map_err(|source| LaunchError::System {
            what: "copying its program into sealed memory (memfd_create(2))",
            source,
        })?;
        Ok((Self { memory, name }, bytes))
    }

    /// A path under which a child of this process finds the program while it is being started. The descriptor
    /// behind it is closed in the child by then.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.memory.as_raw_fd()))
    }

    /// The file's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The contents of a file, with an error that says which.
pub(super) fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, LaunchError> {
    let read = || {
        let mut file = File::open(path)?;
        // Opening a folder succeeds, and reading it gives an error that does not say so.
        if file.metadata()?.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| LaunchError::Read { what, path: path.to_owned(), source })
}

/// An anonymous file with these contents, sealed against every change.
fn sealed(name: &str, bytes: &[u8]) -> std::io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know that a file can be asked to be executable, and make it so.
    let descriptor = match memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        result => result?,
    };
    let mut file = File::from(descriptor);
    file.write_all(bytes)?;
    let start = Instant::now();
    seal(&file, || {
        thread::sleep(Duration::from_millis(20));
        start.elapsed() < SEALING_LIMIT
    })?;
    Ok(file)
}

/// Seals an anonymous file against every change.
///
/// The kernel refuses with `EBUSY` while anything else still holds a page of the file, be it for a moment in
/// its own lists: fcntl(2), `F_SEAL_WRITE`. Nothing here does, so it is asked again for as long as `again`
/// says so.
fn seal(file: &File, mut again: impl FnMut() -> bool) -> std::io::Result<()> {
    loop {
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        match fcntl_add_seals(file, seals) {
            Err(Errno::BUSY) if again() => {}
            result => return Ok(result?),
        }
    }
}

/// Whether this system can run programs from sealed memory; for `doctor`.
pub(crate) fn check_sealed_memory() -> std::io::Result<()> {
    let file = sealed("cleanroom-doctor", b"")?;
    fs::metadata(format!("/proc/self/fd/{}", file.as_raw_fd())).map(drop)
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{SpliceFlags, pipe, splice};

    use super::*;

    #[test]
    fn nobody_can_change_a_sealed_program() {
        let mut file = sealed("test", b"program").unwrap();
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(Errno::PERM.raw_os_error()));
        assert!(file.set_len(0).is_err());
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert!(fs::write(&path, "other").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"program");
    }

    /// A pipe that was given a page of the file, not a copy, keeps the kernel from sealing it.
    #[test]
    fn sealing_waits_until_nobody_holds_the_memory_any_more() {
        let mut file = File::from(memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap());
        file.write_all(&[7; 4096]).unwrap();
        let (reader, writer) = pipe().unwrap();
        splice(&file, Some(&mut 0), &writer, None, 4096, SpliceFlags::empty()).unwrap();

        let busy = seal(&file, || false).unwrap_err();
        assert_eq!(busy.raw_os_error(), Some(Errno::BUSY.raw_os_error()));
        let mut held = Some((reader, writer));
        seal(&file, || held.take().is_some()).unwrap();
        assert!(held.is_none(), "it was refused once");
        assert!(file.write(b"x").is_err());
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(
            matches!(SealedProgram::read(&script), Err(LaunchError::NotAProgram(path)) if path == script)
        );
        for path in [folder.path().join("absent"), folder.path().to_owned()] {
            assert!(
                matches!(SealedProgram::read(&path), Err(LaunchError::Read { .. })),
                "{}",
                path.display()
            );
        }
    }
}
