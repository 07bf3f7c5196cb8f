//! The memory of another process.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use indicatif::ProgressBar;

use super::pieces::{Found, Pieces};
use crate::failure::Failure;

/// What a process has in memory (`proc_pid_maps(5)`, `proc_pid_mem(5)`).
pub(super) struct Memory {
    process: u32,
    memory: File,
    ranges: Vec<Range<u64>>,
}

impl Memory {
    /// The memory that a process has now.
    pub(super) fn of(process: u32) -> Result<Self, Failure> {
        let failed = |name: &str| {
            let path = PathBuf::from(format!("/proc/{process}/{name}"));
            move |error| Failure::File { verb: "read", path, error }
        };
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).map_err(failed("maps"))?;
        let memory = File::open(format!("/proc/{process}/mem")).map_err(failed("mem"))?;
        Ok(Self { process, memory, ranges: maps.lines().filter_map(range).collect() })
    }

    pub(super) const fn process(&self) -> u32 {
        self.process
    }

    /// Its length in bytes.
    pub(super) fn length(&self) -> u64 {
        self.ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum()
    }

    /// Searches all of it, and says how many bytes could be read. What the process gives back in the meantime is
    /// gone.
    pub(super) fn search(
        &self,
        pieces: &Pieces,
        found: &mut Found,
        progress: &ProgressBar,
    ) -> Result<u64, Failure> {
        let failed = |error| {
            let path = PathBuf::from(format!("/proc/{}/mem", self.process));
            Failure::File { verb: "read", path, error }
        };
        let mut bytes = 0;
        for range in &self.ranges {
            let source = Region { memory: &self.memory, range: range.clone() };
            bytes += pieces.search(progress.wrap_read(source), found).map_err(failed)?;
        }
        if bytes == 0 {
            return Err(failed(io::Error::other("nothing of it can be read; has the process ended?")));
        }
        Ok(bytes)
    }
}

/// The addresses of a line of `maps`, if the process may read there and the memory is not a device's.
fn range(line: &str) -> Option<Range<u64>> {
    let mut fields = line.split_whitespace();
    let (addresses, may) = (fields.next()?, fields.next()?);
    let name = fields.nth(3).unwrap_or_default();
    let is_kernels = name.starts_with("[v");
    let (start, end) = addresses.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    (may.starts_with('r') && !is_kernels).then_some(number(start)?..number(end)?)
}

/// A range of addresses as a stream. It ends where nothing is mapped any more.
struct Region<'a> {
    memory: &'a File,
    range: Range<u64>,
}

impl Read for Region<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end.saturating_sub(self.range.start)).unwrap_or(usize::MAX);
        let most = left.min(output.len());
        let Some(output) = output.get_mut(..most).filter(|output| !output.is_empty()) else { return Ok(0) };
        match self.memory.read_at(output, self.range.start) {
            Ok(count) => {
                self.range.start = self.range.start.saturating_add(count as u64);
                Ok(count)
            }
            // Unmapped, or a page of a file that has become shorter.
            Err(error) if matches!(error.raw_os_error(), Some(EIO | EFAULT)) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// Nothing is mapped there (errno(3)).
const EIO: i32 = 5;
/// As [`EIO`], from other kernels.
const EFAULT: i32 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_read_is_searched() {
        let line = "7f00-7f10 r--p 00000000 00:00 0 ";
        assert_eq!(range(line), Some(0x7f00..0x7f10));
        assert_eq!(range("7f00-7f10 rw-p 00000000 08:01 131 /usr/lib/x y"), Some(0x7f00..0x7f10));
        for line in ["7f00-7f10 ---p 00000000 00:00 0", "7f00-7f10 r--p 0 00:00 0 [vvar]", "", "x-y rw-p"] {
            assert_eq!(range(line), None, "{line:?}");
        }
    }
}
