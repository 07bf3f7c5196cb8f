//! The file of a sealed model while it is incomplete. The complete file gets the final name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use cleanroom_program::file;
use cleanroom_sealing::{HEADER_BYTES, Header, SealError};

use crate::failure::Failure;

/// Bytes after which the disk is to take what was written. It takes them while the next ones are sealed.
const WRITE_BACK_BYTES: u64 = 32 << 20;

/// A sealed file that is not finished. It may hold what an earlier run wrote.
///
/// A salt must not seal two different models. So what is there is never written again: it is compared with
/// what this run would write, byte by byte, and a difference ends the run. Only what follows it is written.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// How many bytes an earlier run left, less those that were compared already.
    left: u64,
    /// The header that it left.
    header: Option<Header>,
    write_back: WriteBack,
    /// Bytes that were written since the disk was asked to take some.
    unasked: u64,
}

impl Part {
    /// Opens or makes the file, for this process alone.
    pub(super) fn open(path: PathBuf) -> Result<Self, Failure> {
        let failed = |error| Failure::File { verb: "write", path: path.clone(), error };
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if file.try_lock().is_err() {
            return Err(Failure::Environment(format!(
                "{} is being written by another process",
                path.display()
            )));
        }
        let mut left = file.metadata().map_err(failed)?.len();
        let mut header = None;
        if left < HEADER_BYTES as u64 {
            // No chunk was sealed yet.
            file.set_len(0).map_err(failed)?;
            left = 0;
        } else {
            let mut bytes = [0; HEADER_BYTES];
            file.read_exact(&mut bytes).map_err(failed)?;
            header = Header::parse(&bytes).ok();
            io::Seek::rewind(&mut file).map_err(failed)?;
        }
        let write_back = WriteBack::of(&file).map_err(failed)?;
        Ok(Self { path, file, left, header, write_back, unasked: 0 })
    }

    /// The header that an earlier run wrote.
    pub(super) const fn header(&self) -> Option<Header> {
        self.header
    }

    /// Takes the next bytes of the sealed file.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let there = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (old, new) = bytes.split_at(there);
        let mut found = vec![0; old.len()];
        let failed = |verb| move |error| (verb, error);
        let done = self.file.read_exact(&mut found).map_err(failed("read"));
        let done = done.and_then(|()| {
            if found == old { self.file.write_all(new).map_err(failed("write")) } else { Ok(()) }
        });
        done.map_err(|(verb, error)| Failure::File { verb, path: self.path.clone(), error })?;
        if found != old {
            return Err(self.changed());
        }
        self.left = self.left.saturating_sub(there as u64);
        self.unasked = self.unasked.saturating_add(new.len() as u64);
        if self.unasked >= WRITE_BACK_BYTES {
            self.write_back.ask();
            self.unasked = 0;
        }
        Ok(())
    }

    /// Gives the finished file its name. It has `length` bytes.
    pub(super) fn put_in_place(self, out: &Path, length: u64) -> Result<(), Failure> {
        let failed = |error| Failure::File { verb: "read", path: self.path.clone(), error };
        if self.left > 0 || self.file.metadata().map_err(failed)?.len() != length {
            return Err(self.changed());
        }
        let Self { path, write_back, .. } = self;
        // The system reports once that the disk refused bytes, and not to `publish`.
        write_back.finish().map_err(|error| Failure::File { verb: "write", path: path.clone(), error })?;
        file::publish(&path, out)?;
        Ok(())
    }

    /// The reason why this run cannot go on where an earlier one stopped.
    pub(super) fn refused(&self, error: &SealError) -> Failure {
        Failure::Refused {
            what: self.path.display().to_string(),
            code: error.code(),
            problem: format!(
                "an earlier run began this file with another key; remove it to begin again ({error})"
            ),
        }
    }

    fn changed(&self) -> Failure {
        Failure::Refused {
            what: self.path.display().to_string(),
            code: "model-changed",
            problem:
                "an earlier run began this file with another model, or it is damaged; remove it to begin again"
                    .to_owned(),
        }
    }
}

/// Brings a file to the disk while it is written, on a thread of its own. Little is left to do at the end then.
struct WriteBack {
    ask: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl WriteBack {
    fn of(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (ask, asked) = sync_channel(1);
        let thread = thread::spawn(move || asked.iter().try_for_each(|()| file.sync_data()));
        Ok(Self { ask, thread })
    }

    /// Asks for what was written so far. A question that waits already will do.
    fn ask(&self) {
        let _ = self.ask.try_send(());
    }

    /// Waits for what was asked.
    ///
    /// # Errors
    /// The disk refused bytes.
    fn finish(self) -> io::Result<()> {
        drop(self.ask);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that writes to the disk ended")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_refuses_while_it_is_written_is_heard_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("file")).unwrap();
        // A device that takes no such request.
        let device = File::options().write(true).open("/dev/null").unwrap();
        for (file, kept) in [(file, true), (device, false)] {
            let write_back = WriteBack::of(&file).unwrap();
            write_back.ask();
            assert_eq!(write_back.finish().is_ok(), kept);
        }
    }

    #[test]
    fn a_part_that_the_disk_refused_is_not_put_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let (path, out) = (folder.path().join("part"), folder.path().join("out"));
        let mut part = Part::open(path).unwrap();
        part.write(b"sealed").unwrap();
        let device = File::options().write(true).open("/dev/null").unwrap();
        part.write_back = WriteBack::of(&device).unwrap();
        part.write_back.ask();
        assert!(matches!(part.put_in_place(&out, 6), Err(Failure::File { verb: "write", .. })));
        assert!(!out.exists());
    }
}
