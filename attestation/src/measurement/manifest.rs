//! The manifest of an image's application: which files the second ramdisk unpacks to, whole.
//!
//! The parent chooses how much memory an enclave gets. A kernel that is short of it reports an unpacking failure and still
//! starts `/init` from the first ramdisk, beside an application ramdisk that is cut off, under the PCRs of the whole image.
//! So the first ramdisk holds this list at [`Manifest::PATH`], and PID 1 compares every file before anything of it runs.
//!
//! # Format
//!
//! ASCII text. The first line is `cleanroom-manifest 1`, then comes one line for each file, in rising order of the paths'
//! bytes, with single spaces:
//!
//! ```text
//! cleanroom-manifest 1
//! 5c5f…9a 4096 0644 /app/enclave.toml
//! 0b7e…11 9876543 0755 /app/weights/a.bin
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | digest | SHA-384 of the contents, 96 lower-case hexadecimal digits |
//! | size | bytes, decimal, without leading zeros |
//! | mode | permissions, `0` and three octal digits |
//! | path | absolute, below `/app/`; components of letters, digits, `.`, `_` and `-`, none of them `.` or `..` |
//!
//! Every line ends in a line feed. There is exactly one text for each list of files, and the reader takes no other.
//! The files' folders are implied, with mode 0755; what is neither listed nor such a folder does not belong there.

use core::fmt;
use core::str::FromStr;

use crate::digest::Sha384Digest;

/// The files of an application, in rising order of their paths; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    files: Vec<ManifestFile>,
}

/// One file of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Where it is, in the enclave.
    pub path: ApplicationPath,
    /// Its permissions, at most `0o777`.
    pub mode: u16,
    /// Its length, bytes.
    pub size: u64,
    /// SHA-384 of its contents.
    pub digest: Sha384Digest,
}

/// An absolute path below [`Manifest::FOLDER`] that is written in one way only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplicationPath(String);

const FIRST_LINE: &str = "cleanroom-manifest 1";

impl Manifest {
    /// Where the manifest is in the first ramdisk.
    pub const PATH: &str = "/manifest";
    /// The folder that all of the application is in.
    pub const FOLDER: &str = "/app";
    /// The longest text, bytes.
    pub const MAX_LENGTH: usize = 1 << 20;
    /// The most files.
    pub const MAX_FILES: usize = 4096;

    /// A manifest of `files`, in whatever order they come.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] for no files or too many, for two with one path, for a file below another file, and for
    /// permissions beyond `0o777`.
    pub fn new(mut files: Vec<ManifestFile>) -> Result<Self, ManifestError> {
        files.sort_by(|left, right| left.path.cmp(&right.path));
        let manifest = Self { files };
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads a manifest's text.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] for every text but the one that [`Display`](fmt::Display) writes for the same files.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        if text.len() > Self::MAX_LENGTH {
            return Err(ManifestError::TooLong { actual: text.len() });
        }
        let text = core::str::from_utf8(text).map_err(|_| ManifestError::FirstLine)?;
        let mut lines = text.split_inclusive('\n');
        if lines.next().and_then(|line| line.strip_suffix('\n')) != Some(FIRST_LINE) {
            return Err(ManifestError::FirstLine);
        }
        let mut files = Vec::new();
        for (index, line) in lines.enumerate() {
            if index == Self::MAX_FILES {
                return Err(ManifestError::FileCount { actual: index + 1 });
            }
            let wrong = |expected| ManifestError::Line { number: index + 2, expected };
            let line = line.strip_suffix('\n').ok_or(wrong("a line feed at its end"))?;
            files.push(ManifestFile::parse(line).map_err(wrong)?);
        }
        let manifest = Self { files };
        manifest.check()?;
        Ok(manifest)
    }

    /// The files, in rising order of their paths.
    #[must_use]
    pub fn files(&self) -> &[ManifestFile] {
        &self.files
    }

    /// The file at `path`, if it is listed.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&ManifestFile> {
        let index = self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok()?;
        self.files.get(index)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if !(1..=Self::MAX_FILES).contains(&self.files.len()) {
            return Err(ManifestError::FileCount { actual: self.files.len() });
        }
        for pair in self.files.windows(2) {
            if let [first, second] = pair
                && first.path >= second.path
            {
                return Err(ManifestError::Order { path: second.path.clone() });
            }
        }
        for file in &self.files {
            if file.mode > 0o777 {
                return Err(ManifestError::Mode { path: file.path.clone(), actual: file.mode });
            }
            // A file cannot be a folder as well.
            if let Some(folder) = file.path.folders().find(|folder| self.file(folder).is_some()) {
                return Err(ManifestError::FileAsFolder { path: folder.to_owned() });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{FIRST_LINE}")?;
        for ManifestFile { path, mode, size, digest } in &self.files {
            writeln!(formatter, "{digest} {size} {mode:04o} {path}")?;
        }
        Ok(())
    }
}

impl ManifestFile {
    fn parse(line: &str) -> Result<Self, &'static str> {
        let mut fields = line.splitn(4, ' ');
        let mut field = || fields.next().unwrap_or_default();
        let (digest, size, mode, path) = (field(), field(), field(), field());

        let lower_case = digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let digest = digest.parse().ok().filter(|_| lower_case);
        let decimal =
            size.bytes().all(|byte| byte.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
        let size = size.parse().ok().filter(|_| decimal);
        let octal =
            mode.len() == 4 && mode.starts_with('0') && mode.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let mode = u16::from_str_radix(mode, 8).ok().filter(|_| octal);
        Ok(Self {
            digest: digest.ok_or("96 lower-case hexadecimal digits first")?,
            size: size.ok_or("a decimal size in bytes second")?,
            mode: mode.ok_or("0 and three octal digits third")?,
            path: path.parse().map_err(|_| "a path below /app/ fourth")?,
        })
    }
}

impl ApplicationPath {
    /// The longest path, bytes. The kernel's own limit is four times that.
    pub const MAX_LENGTH: usize = 1024;
    /// The longest component, bytes: the kernel's limit.
    const MAX_COMPONENT: usize = 255;

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders on the way to the file, from [`Manifest::FOLDER`] on.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').skip(1).filter_map(|(end, _)| self.0.get(..end))
    }
}

impl FromStr for ApplicationPath {
    type Err = ManifestError;

    fn from_str(path: &str) -> Result<Self, ManifestError> {
        let good = |component: &str| {
            (1..=Self::MAX_COMPONENT).contains(&component.len())
                && !matches!(component, "." | "..")
                && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let below = path.strip_prefix(Manifest::FOLDER).and_then(|rest| rest.strip_prefix('/'));
        match below {
            Some(below) if path.len() <= Self::MAX_LENGTH && below.split('/').all(good) => {
                Ok(Self(path.to_owned()))
            }
            _ => Err(ManifestError::Path),
        }
    }
}

impl fmt::Display for ApplicationPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Why some text or list of files is not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The text is longer than any manifest.
    #[error("expected a manifest of at most {} bytes, got {actual}", Manifest::MAX_LENGTH)]
    TooLong {
        /// Its length, bytes.
        actual: usize,
    },
    /// The text is not of this format, or of a version that this program does not know.
    #[error("expected a manifest whose first line is `{FIRST_LINE}`")]
    FirstLine,
    /// A line that is not a file's.
    #[error("line {number} of the manifest: expected {expected}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// What it should have.
        expected: &'static str,
    },
    /// No files, or too many.
    #[error("expected a manifest of 1 to {} files, got {actual}", Manifest::MAX_FILES)]
    FileCount {
        /// How many.
        actual: usize,
    },
    /// A path that is not greater than the one before it.
    #[error("expected each path once and in rising order, `{path}` is not greater than the one before it")]
    Order {
        /// The path.
        path: ApplicationPath,
    },
    /// A path that is a file's and a folder's.
    #[error("`{path}` is listed as a file, and another file is below it")]
    FileAsFolder {
        /// The path.
        path: String,
    },
    /// Permissions beyond read, write and execute.
    #[error("expected permissions of at most 0777 for `{path}`, got {actual:04o}")]
    Mode {
        /// The file.
        path: ApplicationPath,
        /// Its permissions.
        actual: u16,
    },
    /// A path that an application's file cannot have.
    #[error(
        "expected an absolute path below /app/ of at most {} bytes, of letters, digits, `.`, `_` and `-`, without `.` and `..`",
        ApplicationPath::MAX_LENGTH
    )]
    Path,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, contents: &[u8]) -> ManifestFile {
        ManifestFile {
            path: path.parse().unwrap(),
            mode: 0o644,
            size: contents.len() as u64,
            digest: Sha384Digest::of(&[contents]),
        }
    }

    fn line(path: &str) -> String {
        format!("{} 3 0644 {path}\n", Sha384Digest::of(&[b"abc"]))
    }

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(text.as_bytes())
    }

    #[test]
    fn what_is_written_is_read() {
        let program = ManifestFile { mode: 0o755, ..file("/app/enclave", b"program") };
        let manifest =
            Manifest::new(vec![file("/app/z/a.bin", b""), program, file("/app/enclave.toml", b"x")]);
        let manifest = manifest.unwrap();
        let paths: Vec<&str> = manifest.files().iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["/app/enclave", "/app/enclave.toml", "/app/z/a.bin"]);
        let text = manifest.to_string();
        assert_eq!(parse(&text), Ok(manifest));
        assert!(text.starts_with("cleanroom-manifest 1\n"), "{text}");
        assert!(text.contains(" 7 0755 /app/enclave\n"), "{text}");
    }

    #[test]
    fn there_is_one_text_for_each_list() {
        let good = format!("cleanroom-manifest 1\n{}{}", line("/app/a"), line("/app/b"));
        assert!(parse(&good).is_ok());
        let cases = [
            good.replace("manifest 1", "manifest 2"),
            good.replace("manifest 1", "manifest 01"),
            good.replace('\n', "\r\n"),
            good.replace(" 3 ", " 03 "),
            good.replace(" 3 ", " +3 "),
            good.replace(" 3 ", "  3 "),
            good.replace(" 3 ", " 18446744073709551616 "),
            good.replace(" 0644 ", " 644 "),
            good.replace(" 0644 ", " 00644 "),
            good.replace(" 0644 ", " 4755 "),
            good.replace(" 0644 ", " 0648 "),
            good.replace(" 0644 ", " +644 "),
            good.replace("0644", "0644\u{e9}"),
            good.replace("cb00", "CB00"),
            good.replace("cb00", "cb0"),
            good.replace("/app/b\n", "/app/b"),
            format!("{good}\n"),
            format!("\u{feff}{good}"),
            good[1..].to_owned(),
            String::new(),
        ];
        for text in cases {
            assert!(parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_below_the_applications_folder_and_plain() {
        let long = format!("/app/{}", "a".repeat(256));
        let deep = format!("/app/{}a", "a/".repeat(520));
        let bad = [
            "",
            "/app",
            "/app/",
            "app/a",
            "/apps/a",
            "/etc/a",
            "//app/a",
            "/app//a",
            "/app/a/",
            "/app/.",
            "/app/../a",
            "/app/./a",
            "/app/a b",
            "/app/a\n",
            "/app/\0",
            "/app/\u{e9}",
            &long,
            &deep,
        ];
        for path in bad {
            assert_eq!(path.parse::<ApplicationPath>(), Err(ManifestError::Path), "{path}");
            assert!(parse(&format!("cleanroom-manifest 1\n{}", line(path))).is_err(), "{path}");
        }
        for path in ["/app/a", "/app/...", "/app/.hidden/B_9-x.toml"] {
            assert_eq!(path.parse::<ApplicationPath>().unwrap().as_str(), path);
        }
    }

    #[test]
    fn folders_are_named_from_the_top() {
        let path: ApplicationPath = "/app/a/b/c".parse().unwrap();
        assert_eq!(path.folders().collect::<Vec<_>>(), ["/app", "/app/a", "/app/a/b"]);
    }

    #[test]
    fn each_file_is_listed_once_and_in_order() {
        let text = |paths: [&str; 2]| format!("cleanroom-manifest 1\n{}{}", line(paths[0]), line(paths[1]));
        for paths in [["/app/b", "/app/a"], ["/app/a", "/app/a"]] {
            let path = paths[1].parse().unwrap();
            assert_eq!(parse(&text(paths)), Err(ManifestError::Order { path }));
        }
        let twice = vec![file("/app/a", b"1"), file("/app/a", b"2")];
        assert!(matches!(Manifest::new(twice), Err(ManifestError::Order { .. })));
    }

    #[test]
    fn a_file_is_no_folder() {
        // Other files sort between the two.
        let files = vec![file("/app/a", b""), file("/app/a-b", b""), file("/app/a/c", b"")];
        assert_eq!(Manifest::new(files), Err(ManifestError::FileAsFolder { path: "/app/a".to_owned() }));
    }

    #[test]
    fn limits_hold_before_anything_is_kept() {
        assert_eq!(parse("cleanroom-manifest 1\n"), Err(ManifestError::FileCount { actual: 0 }));
        let lines: String =
            (0..=Manifest::MAX_FILES).map(|index| line(&format!("/app/{index:05}"))).collect();
        let actual = Manifest::MAX_FILES + 1;
        assert_eq!(
            parse(&format!("cleanroom-manifest 1\n{lines}")),
            Err(ManifestError::FileCount { actual })
        );
        let long = vec![b'x'; Manifest::MAX_LENGTH + 1];
        assert_eq!(Manifest::parse(&long), Err(ManifestError::TooLong { actual: long.len() }));
        let rights = ManifestFile { mode: 0o4755, ..file("/app/a", b"") };
        assert!(matches!(Manifest::new(vec![rights]), Err(ManifestError::Mode { actual: 0o4755, .. })));
    }
}
