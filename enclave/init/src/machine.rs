//! The machine around the application: file systems, limits, the loopback interface.

use std::fs;
use std::io;

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, sendto, socket};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

use crate::halt::Halt;

/// The parent's context id in a Nitro enclave (AWS, "Nitro Enclaves concepts").
const PARENT: u32 = 3;
/// What names another parent, for virtual machine monitors that have none with that id.
const PARENT_PARAMETER: &str = "cleanroom.parent_cid=";

/// Descriptors that the application may open: each connection takes one.
const DESCRIPTORS: u64 = 8192;

/// Mounts the kernel's file systems, forbids core dumps and new privileges.
pub(crate) fn set_up() -> Result<(), Halt> {
    let closed = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (name, path, flags) in [
        ("proc", "/proc", closed | MountFlags::NODEV),
        ("sysfs", "/sys", closed | MountFlags::NODEV),
        ("devtmpfs", "/dev", closed),
    ] {
        match mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Halt::machine("making a mount point")(error.into())),
        }
        mount(name, path, name, flags, None)
            .map_err(|error| Halt::machine("mounting a file system")(error.into()))?;
    }
    let failed = |error: rustix::io::Errno| Halt::machine("setting limits")(error.into());
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(failed)?;
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) })
        .map_err(failed)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
    set_no_new_privs(true).map_err(failed)
}

/// From here on nothing in the root file system changes: what was checked is what runs.
pub(crate) fn make_read_only() -> Result<(), Halt> {
    mount_remount("/", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, "")
        .map_err(|error| Halt::machine("making the root file system read-only")(error.into()))
}

/// The parent's context id.
pub(crate) fn parent() -> Result<u32, Halt> {
    let command_line =
        fs::read_to_string("/proc/cmdline").map_err(Halt::machine("reading the command line"))?;
    Ok(parent_in(&command_line))
}

fn parent_in(command_line: &str) -> u32 {
    let named = command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix(PARENT_PARAMETER));
    named.and_then(|number| number.parse().ok()).unwrap_or(PARENT)
}

/// Brings the loopback interface up: a routing netlink message, as rtnetlink(7) describes it.
pub(crate) fn bring_loopback_up() -> Result<(), Halt> {
    let talk = || -> io::Result<()> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
        sendto(&socket, &link_up(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 64];
        let (_, length) = recv(&socket, &mut answer, RecvFlags::empty())?;
        acknowledged(answer.get(..length).unwrap_or_default())
    };
    talk().map_err(Halt::machine("bringing the loopback interface up"))
}

/// `RTM_NEWLINK` for interface 1, which is always the loopback, with `IFF_UP` set; the kernel acknowledges it.
fn link_up() -> [u8; 32] {
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 0x01 | 0x04;
    const LOOPBACK: i32 = 1;
    const IFF_UP: u32 = 1;
    let mut message = [0; LENGTH as usize];
    let fields: [(usize, &[u8]); 6] = [
        (0, &LENGTH.to_ne_bytes()),
        (4, &RTM_NEWLINK.to_ne_bytes()),
        (6, &NLM_F_REQUEST_ACK.to_ne_bytes()),
        (20, &LOOPBACK.to_ne_bytes()),
        (24, &IFF_UP.to_ne_bytes()),
        (28, &IFF_UP.to_ne_bytes()),
    ];
    for (offset, bytes) in fields {
        for (target, byte) in message.iter_mut().skip(offset).zip(bytes) {
            *target = *byte;
        }
    }
    message
}

/// An acknowledgement is an `NLMSG_ERROR` (2) with error number zero, after the 16 bytes of its header.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    const NLMSG_ERROR: u16 = 2;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let error = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_nitros_unless_another_is_named() {
        assert_eq!(parent_in("reboot=k panic=30\n"), 3);
        assert_eq!(parent_in("reboot=k cleanroom.parent_cid=2\n"), 2);
        for text in [
            "cleanroom.parent_cid=",
            "cleanroom.parent_cid=x",
            "cleanroom.parent_cid=-1",
            "xcleanroom.parent_cid=2",
        ] {
            assert_eq!(parent_in(text), 3, "{text}");
        }
    }

    #[test]
    fn only_an_acknowledgement_is_one() {
        let answer = |kind: u16, error: i32| {
            let mut answer = vec![0; 36];
            answer[4..6].copy_from_slice(&kind.to_ne_bytes());
            answer[16..20].copy_from_slice(&error.to_ne_bytes());
            answer
        };
        acknowledged(&answer(2, 0)).unwrap();
        assert_eq!(acknowledged(&answer(2, -1)).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(acknowledged(&answer(3, 0)).is_err());
        assert!(acknowledged(&[]).is_err());
    }
}
