//! The application: every file that the manifest lists, whole, and nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cleanroom_attestation::digest::{Sha384, Sha384Digest};
use cleanroom_attestation::measurement::{Manifest, ManifestError, ManifestFile};

/// The program that is started.
pub(crate) const PROGRAM: &str = "/app/enclave";

/// What was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    /// How many files.
    pub(crate) files: usize,
    /// Bytes in them.
    pub(crate) bytes: u64,
}

/// How the application differs from the manifest. The paths are the image's own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsound {
    #[error("the manifest cannot be read: {0}")]
    NoManifest(io::ErrorKind),
    #[error("the manifest is malformed: {0}")]
    Manifest(#[from] ManifestError),
    #[error("`{}` is not in the manifest", .0.display())]
    Extra(PathBuf),
    #[error("`{}` is neither a file nor a folder", .0.display())]
    Special(PathBuf),
    #[error("`{}` is missing", .0.display())]
    Missing(PathBuf),
    #[error("`{}` has {actual} bytes, the manifest says {expected}", path.display())]
    Length { path: PathBuf, expected: u64, actual: u64 },
    #[error("`{}` has mode {actual:o}, the manifest says {expected:o}", path.display())]
    Mode { path: PathBuf, expected: u32, actual: u32 },
    #[error("`{}` has other contents than the manifest says", .0.display())]
    Contents(PathBuf),
    #[error("`{}` cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::ErrorKind },
}

/// Checks the application below `root` against the manifest in the file at `manifest`, byte by byte.
pub(crate) fn check(root: &Path, manifest: &Path) -> Result<Whole, Unsound> {
    let text = fs::read(manifest).map_err(|error| Unsound::NoManifest(error.kind()))?;
    compare(root, &Manifest::parse(&text)?)
}

/// Takes every file of the application off the manifest's list; what is not on it, or stays on it, is an error.
fn compare(root: &Path, manifest: &Manifest) -> Result<Whole, Unsound> {
    let files = manifest.files().iter();
    let mut listed: BTreeMap<PathBuf, &ManifestFile> =
        files.map(|file| (relative(file.path.as_str()), file)).collect();
    let mut whole = Whole::default();
    let mut folders = vec![relative(Manifest::FOLDER)];
    while let Some(folder) = folders.pop() {
        for path in entries(root, &folder)? {
            let metadata = fs::symlink_metadata(root.join(&path)).map_err(unreadable(&path))?;
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() {
                let expected = listed.remove(&path).ok_or_else(|| Unsound::Extra(path.clone()))?;
                whole.bytes += compare_file(root, path, &metadata, expected)?;
                whole.files += 1;
            } else {
                return Err(Unsound::Special(path));
            }
        }
    }
    match listed.pop_first() {
        Some((path, _)) => Err(Unsound::Missing(path)),
        None => Ok(whole),
    }
}

/// A path from the root, which in tests is not the machine's.
fn relative(path: &str) -> PathBuf {
    PathBuf::from(path.trim_start_matches('/'))
}

/// What is in a folder, as paths from the root; nothing, if the folder is not there.
fn entries(root: &Path, folder: &Path) -> Result<Vec<PathBuf>, Unsound> {
    let entries = match fs::read_dir(root.join(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable(folder))?,
    };
    entries.map(|entry| Ok(folder.join(entry.map_err(unreadable(folder))?.file_name()))).collect()
}

fn compare_file(
    root: &Path,
    path: PathBuf,
    metadata: &Metadata,
    expected: &ManifestFile,
) -> Result<u64, Unsound> {
    if metadata.len() != expected.size {
        return Err(Unsound::Length { path, expected: expected.size, actual: metadata.len() });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode != u32::from(expected.mode) {
        return Err(Unsound::Mode { path, expected: expected.mode.into(), actual: mode });
    }
    if digest(&root.join(&path)).map_err(unreadable(&path))? != expected.digest {
        return Err(Unsound::Contents(path));
    }
    Ok(expected.size)
}

fn digest(path: &Path) -> io::Result<Sha384Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha384::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> Unsound {
    let path = path.to_owned();
    move |error| Unsound::Unreadable { path: path.clone(), error: error.kind() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A root with an application of two files, and the manifest of it.
    fn application() -> (tempfile::TempDir, Manifest) {
        let root = tempfile::tempdir().unwrap();
        let files =
            [("app/enclave", 0o755, vec![1; 100_000]), ("app/etc/enclave.toml", 0o644, b"x".to_vec())];
        fs::create_dir_all(root.path().join("app/etc")).unwrap();
        let listed = files.map(|(path, mode, bytes)| {
            let whole = root.path().join(path);
            fs::write(&whole, &bytes).unwrap();
            fs::set_permissions(&whole, fs::Permissions::from_mode(mode)).unwrap();
            let digest = Sha384Digest::of(&[&bytes]);
            let path = format!("/{path}").parse().unwrap();
            ManifestFile { path, mode: mode as u16, size: bytes.len() as u64, digest }
        });
        (root, Manifest::new(listed.to_vec()).unwrap())
    }

    fn error_after(change: impl FnOnce(&Path)) -> Unsound {
        let (root, listed) = application();
        change(root.path());
        compare(root.path(), &listed).unwrap_err()
    }

    #[test]
    fn what_is_as_listed_is_whole() {
        let (root, listed) = application();
        let manifest = root.path().join("manifest");
        fs::write(&manifest, listed.to_string()).unwrap();
        assert_eq!(check(root.path(), &manifest).unwrap(), Whole { files: 2, bytes: 100_001 });
    }

    #[test]
    fn a_ramdisk_that_was_cut_off_anywhere_is_refused() {
        // Cut off inside a file, between files, and before the folder.
        for length in [0, 1, 65_536, 99_999] {
            let error = error_after(|root| {
                File::options().write(true).open(root.join("app/enclave")).unwrap().set_len(length).unwrap();
            });
            assert!(
                matches!(error, Unsound::Length { expected: 100_000, actual, .. } if actual == length),
                "{error}"
            );
        }
        let error = error_after(|root| fs::remove_dir_all(root.join("app/etc")).unwrap());
        assert!(matches!(error, Unsound::Missing(path) if path == Path::new("app/etc/enclave.toml")));
        let error = error_after(|root| fs::remove_dir_all(root.join("app")).unwrap());
        assert!(matches!(error, Unsound::Missing(_)), "{error}");
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        let error = error_after(|root| fs::write(root.join("app/etc/more"), "").unwrap());
        assert!(matches!(error, Unsound::Extra(path) if path == Path::new("app/etc/more")));
        let error = error_after(|root| symlink("/bin/sh", root.join("app/shell")).unwrap());
        assert!(matches!(error, Unsound::Special(_)), "{error}");
    }

    #[test]
    fn other_contents_or_another_mode_are_refused() {
        let error = error_after(|root| {
            let mut bytes = vec![1; 100_000];
            bytes[70_000] ^= 1;
            fs::write(root.join("app/enclave"), bytes).unwrap();
        });
        assert!(matches!(error, Unsound::Contents(path) if path == Path::new("app/enclave")));
        let error = error_after(|root| {
            let config = root.join("app/etc/enclave.toml");
            fs::set_permissions(config, fs::Permissions::from_mode(0o4644)).unwrap();
        });
        assert!(matches!(error, Unsound::Mode { expected: 0o644, actual: 0o4644, .. }), "{error}");
    }

    #[test]
    fn without_a_manifest_nothing_is_whole() {
        let (root, _) = application();
        let error = check(root.path(), &root.path().join("manifest")).unwrap_err();
        assert!(matches!(error, Unsound::NoManifest(io::ErrorKind::NotFound)), "{error}");
        fs::write(root.path().join("manifest"), "").unwrap();
        let error = check(root.path(), &root.path().join("manifest")).unwrap_err();
        assert!(matches!(error, Unsound::Manifest(_)), "{error}");
    }
}
