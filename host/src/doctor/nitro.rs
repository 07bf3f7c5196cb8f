//! What the `nitro` tier needs: an EC2 instance that may run enclaves, AWS's program, and memory and
//! processors set aside.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::{Finding, first_line};

/// Where the allocator's share of memory and processors is set.
const ALLOCATOR: &str = "set memory_mib and cpu_count in /etc/nitro_enclaves/allocator.yaml, then: \
    systemctl enable --now nitro-enclaves-allocator && systemctl restart nitro-enclaves-allocator";

pub(super) fn findings(root: &Path, nitro_cli: &Path) -> Vec<Finding> {
    vec![instance(root), device(root), vsock(root), tool(nitro_cli), processors(root), memory(root)]
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

fn processors(root: &Path) -> Finding {
    const WHAT: &str = "processors set aside";
    match read(root, "sys/module/nitro_enclaves/parameters/ne_cpus") {
        Some(pool) if !pool.is_empty() => Finding::good(WHAT, pool),
        _ => Finding::bad(WHAT, "none", ALLOCATOR),
    }
}

/// Enclaves live in huge pages, whose sizes are folders here: `hugepages-2048kB` with a file that says how
/// many.
fn memory(root: &Path) -> Finding {
    const WHAT: &str = "memory set aside";
    let folders = fs::read_dir(root.join("sys/kernel/mm/hugepages")).into_iter().flatten().flatten();
    let of_size = |folder: fs::DirEntry| {
        let name = folder.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: u64 =
            fs::read_to_string(folder.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        Some(kib.saturating_mul(pages))
    };
    match folders.filter_map(of_size).sum::<u64>() / 1024 {
        0 => Finding::bad(WHAT, "no free huge pages", ALLOCATOR),
        mib => Finding::good(
            WHAT,
            format!("{mib} MiB free; an enclave takes four times its image, and its model twice"),
        ),
    }
}

fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn nothing_is_there_and_everything_has_a_remedy() {
        let empty = tempfile::tempdir().unwrap();
        for finding in findings(empty.path(), &empty.path().join("nitro-cli")) {
            assert!(!finding.good && finding.remedy.is_some(), "{finding:?}");
        }
    }

    #[test]
    fn an_instance_with_everything_is_good() {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("sys/devices/virtual/dmi/id/sys_vendor", "Amazon EC2\n"),
            ("sys/devices/virtual/dmi/id/product_name", "m6i.2xlarge\n"),
            ("dev/nitro_enclaves", ""),
            ("dev/vsock", ""),
            ("nitro-cli", "#!/bin/sh\necho Nitro CLI 1.4.2\n"),
            ("sys/module/nitro_enclaves/parameters/ne_cpus", "1,5\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "256\n"),
            ("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "2\n"),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let findings = findings(folder.path(), &folder.path().join("nitro-cli"));
        assert!(findings.iter().all(|finding| finding.good), "{findings:?}");
        let found = |what: &str| findings.iter().find(|finding| finding.what == what).unwrap().found.clone();
        assert!(found("memory set aside").starts_with("2560 MiB"));
        assert_eq!(found("EC2 instance"), "m6i.2xlarge");
        assert_eq!(found("nitro-cli"), "Nitro CLI 1.4.2");
    }
}
