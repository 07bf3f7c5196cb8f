use std::os::unix::fs::symlink;

use super::*;

/// Runs `work` with a fault at the first operation, the second, and so on, until no fault is met. `check`
/// looks after each at what `work` gave and at the folder; then the work must succeed without a fault.
fn at_every_operation(
    prepare: impl Fn(&Path),
    work: impl Fn(&Path) -> Result<(), FileError>,
    check: impl Fn(&Path, bool),
) -> u64 {
    for number in 1.. {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let (done, met) = fault::at(number, || work(folder.path()));
        if !met {
            done.unwrap();
            return number - 1;
        }
        check(folder.path(), done.is_ok());
        let leftovers: Vec<_> =
            names(folder.path()).into_iter().filter(|name| name.ends_with(".new")).collect();
        assert!(leftovers.is_empty(), "{number}: {leftovers:?}");
        work(folder.path()).unwrap_or_else(|error| panic!("a second try after fault {number}: {error}"));
        check(folder.path(), true);
    }
    0
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_replaced_file_is_the_old_or_the_new_one_at_every_fault() {
    let path = |folder: &Path| folder.join("file");
    let operations = at_every_operation(
        |folder| fs::write(path(folder), "old").unwrap(),
        |folder| replace(&path(folder), b"new", PUBLIC),
        |folder, ok| {
            let found = fs::read(path(folder)).unwrap();
            assert!(found == b"new" || (!ok && found == b"old"), "{}", String::from_utf8_lossy(&found));
        },
    );
    assert_eq!(operations, 5, "open, write, sync, rename, sync the folder");
}

#[test]
fn a_new_file_is_whole_or_absent_at_every_fault() {
    let path = |folder: &Path| folder.join("file");
    let operations = at_every_operation(
        |_| {},
        |folder| match create_new(&path(folder), b"new", PUBLIC) {
            // The check after a second try comes here too.
            Err(error) if error.is_existing() && fs::read(path(folder)).unwrap() == b"new" => Ok(()),
            done => done,
        },
        |folder, ok| match fs::read(path(folder)) {
            Ok(found) => assert!(ok && found == b"new"),
            Err(_) => assert!(!ok),
        },
    );
    assert_eq!(operations, 5, "open, write, sync, link, sync the folder");
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    create_secret(&path, b"first").unwrap();
    assert_eq!(mode(&path), 0o600);
    assert!(create_secret(&path, b"second").unwrap_err().is_existing());
    // Nor is what a link points to, even if there is nothing yet.
    symlink("elsewhere", folder.path().join("link")).unwrap();
    assert!(create_new(&folder.path().join("link"), b"x", PUBLIC).unwrap_err().is_existing());
    assert_eq!(fs::read(&path).unwrap(), b"first");
    assert_eq!(names(folder.path()).len(), 2, "no temporary file stays");
}

#[test]
fn an_unchanged_file_is_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    assert!(replace_if_changed(&path, b"one", 0o400).unwrap());
    let (unchanged, _) = fault::from(3, || replace_if_changed(&path, b"one", 0o400));
    assert!(!unchanged.unwrap(), "a full disk is no obstacle: nothing is opened to write");
    for other in [b"two".as_slice(), b"one and more", b"on"] {
        assert!(replace_if_changed(&path, other, 0o400).unwrap());
        assert_eq!(fs::read(&path).unwrap(), other);
        assert_eq!(mode(&path), 0o400);
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    create_secret(&path, b"secret").unwrap();
    assert_eq!(read_secret(&path, 6).unwrap().as_slice(), b"secret");
    assert!(matches!(read_secret(&path, 5), Err(SecretError::TooLarge { limit: 5, .. })));
    for exposed in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(exposed)).unwrap();
        let error = read_secret(&path, 6).unwrap_err();
        assert!(matches!(error, SecretError::Exposed { mode, .. } if mode == exposed));
        assert!(error.to_string().ends_with(&format!("chmod 600 {}", path.display())), "{error}");
    }
    // A link is no way around it.
    symlink(&path, folder.path().join("link")).unwrap();
    assert!(matches!(read_secret(&folder.path().join("link"), 6), Err(SecretError::Exposed { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    read_secret(&path, 6).unwrap();
    assert!(matches!(read_secret(&folder.path().join("none"), 6), Err(SecretError::File(_))));
}

#[test]
fn folders_are_made_with_those_above_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/c");
    for operation in 1..=6 {
        let (failed, met) = fault::at(operation, || create_folder(&path, 0o700));
        assert!(met && failed.is_err(), "{operation}");
        assert!(!path.exists(), "what may not be on the disk is not there for a second try");
        fs::remove_dir_all(folder.path().join("a")).ok();
    }
    create_folder(&path, 0o700).unwrap();
    assert_eq!(mode(&folder.path().join("a")), 0o700);
    create_folder(&path, 0o700).unwrap();
    fs::write(path.join("file"), "").unwrap();
    assert!(create_folder(&path.join("file/d"), 0o700).is_err());
}

#[test]
fn a_file_that_is_gone_counts_as_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "").unwrap();
    remove(&path).unwrap();
    remove(&path).unwrap();
    let (failed, _) = fault::at(1, || remove(&path));
    assert_eq!(failed.unwrap_err().operation, Operation::Remove);
}

#[test]
fn a_published_file_has_its_name_or_can_be_published_again() {
    let (temporary, path) = (|folder: &Path| folder.join("part"), |folder: &Path| folder.join("file"));
    let operations = at_every_operation(
        |folder| fs::write(temporary(folder), "whole").unwrap(),
        |folder| match publish(&temporary(folder), &path(folder)) {
            Err(error) if !temporary(folder).exists() && path(folder).exists() => {
                // The name was given, by a rename, and only bringing it to the disk failed.
                sync(&path(folder)).map_err(|_| error)
            }
            done => done,
        },
        |folder, ok| {
            assert_eq!(ok, path(folder).exists());
            assert!(temporary(folder).exists() || fs::read(path(folder)).unwrap() == b"whole");
        },
    );
    assert_eq!(operations, 4, "open, sync, link, sync the folder");
    let folder = tempfile::tempdir().unwrap();
    for name in ["part", "file"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    assert!(publish(&temporary(folder.path()), &path(folder.path())).unwrap_err().is_existing());
    assert_eq!(fs::read(path(folder.path())).unwrap(), b"file");
}
