//! What the `qemu` tier needs: two programs, and better a processor that helps.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::Path;

use super::{Finding, program, version};

/// Gets both programs without changing the system, and prints the folder they are in.
const REMEDY: &str = "PATH=$(scripts/qemu):$PATH";
/// The first version with the device that carries the security module.
const OLDEST: (u32, u32) = (11, 1);

pub(super) fn findings(root: &Path, search: &OsStr) -> Vec<Finding> {
    vec![architecture(), machine(search), vsock(search), acceleration(root)]
}

fn architecture() -> Finding {
    const WHAT: &str = "processor";
    match std::env::consts::ARCH {
        arch @ "x86_64" => Finding::good(WHAT, arch),
        arch => Finding::bad(WHAT, arch, "use a machine with an x86_64 processor: images are built for it"),
    }
}

fn machine(search: &OsStr) -> Finding {
    const WHAT: &str = "QEMU";
    let Some(path) = program("qemu-system-x86_64", search) else {
        return Finding::bad(WHAT, "no qemu-system-x86_64 in the search path", REMEDY);
    };
    match version(&path) {
        Some(text) if is_new_enough(&text) => Finding::good(WHAT, text),
        Some(text) => Finding::bad(WHAT, format!("{text}; 11.1 or later is needed"), REMEDY),
        None => Finding::bad(WHAT, format!("{} does not run", path.display()), REMEDY),
    }
}

/// Whether a line like `QEMU emulator version 11.1.3 (Debian 1:11.1.3)` names a version that has what is needed.
fn is_new_enough(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace().skip_while(|word| *word != "version");
    let mut numbers = words.nth(1).unwrap_or_default().split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

fn vsock(search: &OsStr) -> Finding {
    const WHAT: &str = "vhost-device-vsock";
    match program("vhost-device-vsock", search) {
        Some(path) => Finding::good(WHAT, path.display().to_string()),
        None => Finding::bad(WHAT, "not in the search path", REMEDY),
    }
}

/// Without the processor's help a machine is slow and works.
fn acceleration(root: &Path) -> Finding {
    const WHAT: &str = "acceleration";
    match OpenOptions::new().read(true).write(true).open(root.join("dev/kvm")) {
        Ok(_) => Finding::good(WHAT, "/dev/kvm can be used"),
        Err(error) => Finding::good(
            WHAT,
            format!("in software, several times slower: /dev/kvm cannot be used ({error})"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for good in ["QEMU emulator version 11.1.3 (Debian 1:11.1.3-1)", "QEMU emulator version 100.0"] {
            assert!(is_new_enough(good), "{good}");
        }
        for bad in [
            "QEMU emulator version 11.0.9",
            "QEMU emulator version 9.2",
            "QEMU 11.1",
            "version",
            "version x.y",
            "",
        ] {
            assert!(!is_new_enough(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_can_be_got_with_one_command() {
        let folder = tempfile::tempdir().unwrap();
        let of = |what: &str| {
            let findings = findings(folder.path(), folder.path().as_os_str());
            findings.into_iter().find(|finding| finding.what == what).unwrap()
        };
        for what in ["QEMU", "vhost-device-vsock"] {
            assert_eq!(of(what).remedy.as_deref(), Some(REMEDY));
        }
        assert!(of("acceleration").good, "software does it, too");

        let program = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        program("vhost-device-vsock", "");
        assert!(of("vhost-device-vsock").good);
        program("qemu-system-x86_64", "#!/bin/sh\necho QEMU emulator version 7.2.1\n");
        assert!(of("QEMU").found.contains("11.1 or later"));
        program("qemu-system-x86_64", "#!/bin/sh\necho QEMU emulator version 11.1.3\n");
        assert!(of("QEMU").good);
        program("qemu-system-x86_64", "#!/bin/sh\nexit 1\n");
        assert!(of("QEMU").found.contains("does not run"));
    }
}
