//! What the `nitro` tier needs: an EC2 instance that may run enclaves, AWS's program, and memory and
//! processors set aside.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::{Finding, first_line};

/// Where the allocator's share of memory and processors is set.
const ALLOCATOR: &str = "set memory_mib and cpu_count in /etc/nitro_enclaves/allocator.yaml, then: \
    systemctl enable --now nitro-enclaves-allocator && systemctl restart nitro-enclaves-allocator";

/// What an enclave is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Processors.
    pub processors: u32,
}

pub(super) fn findings(root: &Path, nitro_cli: &Path, share: Share) -> Vec<Finding> {
    vec![
        instance(root),
        device(root),
        vsock(root),
        tool(nitro_cli),
        allocator(root),
        processors(root, share),
        memory(root, share),
    ]
}

fn instance(root: &Path) -> Finding {
    const WHAT: &str = "EC2 instance";
    let vendor = read(root, "sys/devices/virtual/dmi/id/sys_vendor");
    match vendor.as_deref() {
        Some("Amazon EC2") => {
            Finding::good(WHAT, read(root, "sys/devices/virtual/dmi/id/product_name").unwrap_or_default())
        }
        other => Finding::bad(
            WHAT,
            format!("this machine is by {}", other.unwrap_or("an unknown vendor")),
            "start an instance for enclaves: aws ec2 run-instances --enclave-options Enabled=true --instance-type m6i.2xlarge ...",
        ),
    }
}

fn device(root: &Path) -> Finding {
    const WHAT: &str = "enclave device";
    let path = root.join("dev/nitro_enclaves");
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::good(WHAT, "/dev/nitro_enclaves can be used"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Finding::bad(
            WHAT,
            "/dev/nitro_enclaves belongs to another user",
            "usermod --append --groups ne $USER, then log in again",
        ),
        Err(error) => Finding::bad(
            WHAT,
            format!("/dev/nitro_enclaves: {error}"),
            "modprobe nitro_enclaves; if that fails, the instance was started without --enclave-options Enabled=true: stop it, \
             aws ec2 modify-instance-attribute --instance-id ID --enclave-options Enabled=true, start it",
        ),
    }
}

fn vsock(root: &Path) -> Finding {
    const WHAT: &str = "vsock";
    if root.join("dev/vsock").exists() {
        Finding::good(WHAT, "/dev/vsock is there")
    } else {
        Finding::bad(WHAT, "there is no /dev/vsock", "modprobe vhost_vsock")
    }
}

fn tool(nitro_cli: &Path) -> Finding {
    const WHAT: &str = "nitro-cli";
    const REMEDY: &str = "on Amazon Linux 2023: dnf install --assumeyes aws-nitro-enclaves-cli";
    match first_line(nitro_cli) {
        Ok(line) if !line.is_empty() => Finding::good(WHAT, line),
        Ok(_) => Finding::bad(WHAT, format!("`{}` does not say its version", nitro_cli.display()), REMEDY),
        Err(error) => Finding::bad(WHAT, format!("`{}`: {error}", nitro_cli.display()), REMEDY),
    }
}

/// AWS's service sets memory and processors aside. Huge pages are sure to be there only early after a boot, so
/// the service has to start with the machine.
fn allocator(root: &Path) -> Finding {
    const WHAT: &str = "allocator";
    let Some(text) = read(root, "etc/nitro_enclaves/allocator.yaml") else {
        return Finding::bad(WHAT, "there is no /etc/nitro_enclaves/allocator.yaml", ALLOCATOR);
    };
    let (Some(asked), Some(processors)) = (setting(&text, "memory_mib"), setting(&text, "cpu_count")) else {
        return Finding::bad(WHAT, "allocator.yaml does not say memory_mib and cpu_count", ALLOCATOR);
    };
    let has = huge_pages_mib(root, "nr_hugepages");
    let found = format!("asks for {asked} MiB and {processors} processors; {has} MiB are huge pages");
    if has < asked {
        return Finding::bad(
            WHAT,
            found,
            "memory is in pieces: restart the instance, so that the allocator comes first",
        );
    }
    if !root.join("etc/systemd/system/multi-user.target.wants/nitro-enclaves-allocator.service").exists() {
        let found = format!("{found}; it does not start with the machine");
        return Finding::bad(WHAT, found, "systemctl enable nitro-enclaves-allocator");
    }
    Finding::good(WHAT, found)
}

/// The number behind `name:` in the allocator's file, which is YAML of one level.
fn setting(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split('#').next()?.trim().parse().ok()
}

fn processors(root: &Path, share: Share) -> Finding {
    const WHAT: &str = "processors set aside";
    match read(root, "sys/module/nitro_enclaves/parameters/ne_cpus") {
        Some(pool) if !pool.is_empty() => {
            let (count, needed) = (processors_in(&pool), share.processors);
            let found = format!("{pool}: {count}, and --processors is {needed}");
            if count < u64::from(needed) {
                Finding::bad(WHAT, found, ALLOCATOR)
            } else {
                Finding::good(WHAT, found)
            }
        }
        _ => Finding::bad(WHAT, "none", ALLOCATOR),
    }
}

/// How many processors a list such as `1,5-7` has; what is no number counts as none.
fn processors_in(list: &str) -> u64 {
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').filter_map(one).fold(0, u64::saturating_add)
}

fn memory(root: &Path, share: Share) -> Finding {
    const WHAT: &str = "memory set aside";
    let needed = share.memory_mib;
    match huge_pages_mib(root, "free_hugepages") {
        0 => Finding::bad(WHAT, "no free huge pages", ALLOCATOR),
        mib => {
            let found = format!("{mib} MiB free, and --memory is {needed} MiB");
            if mib < u64::from(needed) {
                Finding::bad(WHAT, found, ALLOCATOR)
            } else {
                Finding::good(WHAT, found)
            }
        }
    }
}

/// Enclaves live in huge pages, whose sizes are folders here: `hugepages-2048kB` with files that say how many.
fn huge_pages_mib(root: &Path, file: &str) -> u64 {
    let folders = fs::read_dir(root.join("sys/kernel/mm/hugepages")).into_iter().flatten().flatten();
    let of_size = |folder: fs::DirEntry| {
        let name = folder.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: u64 = fs::read_to_string(folder.path().join(file)).ok()?.trim().parse().ok()?;
        Some(kib.saturating_mul(pages))
    };
    folders.filter_map(of_size).fold(0, u64::saturating_add) / 1024
}

fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SHARE: Share = Share { memory_mib: 2048, processors: 2 };

    const WHOLE: [(&str, &str); 11] = [
        ("sys/devices/virtual/dmi/id/sys_vendor", "Amazon EC2\n"),
        ("sys/devices/virtual/dmi/id/product_name", "m6i.2xlarge\n"),
        ("dev/nitro_enclaves", ""),
        ("dev/vsock", ""),
        ("nitro-cli", "#!/bin/sh\necho Nitro CLI 1.4.2\n"),
        ("sys/module/nitro_enclaves/parameters/ne_cpus", "1,5-6\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "256\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n"),
        ("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "2\n"),
        ("etc/nitro_enclaves/allocator.yaml", "---\n# MiB.\nmemory_mib: 1024 # for one\ncpu_count: 3\n"),
        ("etc/systemd/system/multi-user.target.wants/nitro-enclaves-allocator.service", ""),
    ];

    /// An instance whose files are `WHOLE`, less one, or with another text in it.
    fn instance_with(changed: Option<(&str, Option<&str>)>) -> (tempfile::TempDir, Vec<Finding>) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in WHOLE {
            let text = match changed {
                Some((other, text)) if other == path => text,
                _ => Some(text),
            };
            let Some(text) = text else { continue };
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let findings = findings(folder.path(), &folder.path().join("nitro-cli"), SHARE);
        (folder, findings)
    }

    #[test]
    fn nothing_is_there_and_everything_has_a_remedy() {
        let empty = tempfile::tempdir().unwrap();
        for finding in findings(empty.path(), &empty.path().join("nitro-cli"), SHARE) {
            assert!(!finding.good && finding.remedy.is_some(), "{finding:?}");
        }
    }

    #[test]
    fn an_instance_with_everything_is_good() {
        let (_folder, findings) = instance_with(None);
        assert!(findings.iter().all(|finding| finding.good), "{findings:?}");
        let found = |what: &str| findings.iter().find(|finding| finding.what == what).unwrap().found.clone();
        assert!(found("memory set aside").starts_with("2560 MiB"));
        assert!(found("processors set aside").contains(": 3,"));
        assert_eq!(found("EC2 instance"), "m6i.2xlarge");
        assert_eq!(found("nitro-cli"), "Nitro CLI 1.4.2");
    }

    #[test]
    fn each_thing_that_is_too_little_is_found_alone() {
        for (what, path, text) in [
            ("allocator", WHOLE[9].0, Some("memory_mib: 1025\ncpu_count: 3\n")),
            ("allocator", WHOLE[9].0, Some("memory_mib: many\ncpu_count: 3\n")),
            ("allocator", WHOLE[9].0, None),
            ("allocator", WHOLE[10].0, None),
            ("processors set aside", WHOLE[5].0, Some("5\n")),
            ("processors set aside", WHOLE[5].0, Some("6-5\n")),
            ("memory set aside", WHOLE[8].0, Some("1\n")),
        ] {
            let (_folder, findings) = instance_with(Some((path, text)));
            let bad: Vec<_> = findings.iter().filter(|finding| !finding.good).collect();
            assert!(
                bad.len() == 1 && bad[0].what == what && bad[0].remedy.is_some(),
                "{what} {text:?}: {bad:?}"
            );
        }
    }
}
