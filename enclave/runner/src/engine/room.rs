//! The room: what an engine sees of the system, and who comes in.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cleanroom_console::{Code, Line};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid, pivot_root, setgid, setgroups, sethostname, setuid};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags, open, statvfs};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::plan::{Plan, SOCKET};
use super::program::{NOT_CONFINED, NOT_STARTED};
use super::{INIT, door};
use crate::console;

/// The user and the group of an engine that a privileged process starts. They own nothing.
const ENGINE: u32 = 65533;
/// Where the room is put together. Every system has this folder.
const BENCH: &str = "/tmp";
/// Devices that every engine has.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// The first and the longest pause before an engine is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An engine that ran so long has no history.
const RAN_WELL: Duration = Duration::from_secs(60);
/// Longest reason that goes through the door (bytes).
const MAX_REASON: usize = 512;

/// Why there is no room, or no longer one.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoomError {
    /// The arguments are not those that the keeper gives.
    #[error("the engine's room was not started by a keeper")]
    Arguments,
    /// The kernel does not give what a room is made of.
    #[error("the kernel refuses {what}: {source}")]
    Kernel { what: &'static str, source: io::Error },
    /// A folder or a file of the configuration's `engine.files` or `engine.devices` cannot be shown to the engine.
    #[error("{path} of the configuration's engine cannot be used: {source}")]
    File { path: String, source: io::Error },
    /// The door, the model's file or a process.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
}

impl cleanroom_console::Reason for RoomError {}

fn kernel<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> RoomError {
    move |error| RoomError::Kernel { what, source: error.into() }
}

/// The life of a room.
pub(super) fn main(arguments: impl Iterator<Item = String>) -> Result<(), RoomError> {
    console::init()?;
    let plan = Plan::from_arguments(arguments).ok_or(RoomError::Arguments)?;
    let mut door = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut length = [0; 8];
    door.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    let made = namespaces(plan.loopback).and_then(|()| furnish(&plan, length));
    // A change of users takes this back, so it comes after that.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    write_answer(&mut door, made.as_ref().err().map(ToString::to_string))?;
    made?;
    let mut model = File::create_new(&plan.model)?;
    let copied = io::copy(&mut (&mut door).take(length), &mut model)?;
    drop(model);
    if copied != length {
        return Err(RoomError::System(io::ErrorKind::UnexpectedEof.into()));
    }
    // Processes are started by the thread that they may not outlive.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        door.set_nonblocking(true)?;
        let door = UnixStream::from_std(door)?;
        tokio::select! {
            ended = let_in(door) => Ok(ended?),
            never = keep_running(&plan) => match never {},
        }
    })
}

/// Tells the worker whether there is a room.
fn write_answer(door: &mut StdUnixStream, refused: Option<String>) -> io::Result<()> {
    let mut reason = refused.unwrap_or_default();
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    let length = u16::try_from(reason.len()).unwrap_or(u16::MAX);
    door.write_all(&length.to_be_bytes())?;
    door.write_all(reason.as_bytes())
}

/// Reads what [`write_answer`] wrote: nothing, or why there is no room.
pub(super) fn read_answer(door: &mut StdUnixStream) -> io::Result<Result<(), String>> {
    let mut length = [0; 2];
    door.read_exact(&mut length)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_REASON {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut reason = vec![0; length];
    door.read_exact(&mut reason)?;
    Ok(if reason.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&reason).into_owned()) })
}

/// Leaves the system's users, mounts, network, and what processes share. Call it before there are threads.
fn namespaces(has_loopback: bool) -> Result<(), RoomError> {
    if geteuid().is_root() {
        setgroups(&[]).map_err(kernel("to leave all groups"))?;
        setgid(Gid::from_raw(ENGINE)).map_err(kernel("another group"))?;
        setuid(Uid::from_raw(ENGINE)).map_err(kernel("another user"))?;
    }
    let (user, group) = (geteuid(), getegid());
    // Files about this process belong to its user again, so that the user can be named in the namespace.
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(kernel("to be named in a namespace"))?;
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(all).map_err(kernel("namespaces to a process without rights (user, mount, network, IPC)"))?;
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{user} {user} 1")),
        ("/proc/self/gid_map", format!("{group} {group} 1")),
    ] {
        fs::write(file, text).map_err(kernel("a user in a namespace"))?;
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(kernel("to protect memory"))?;
    keep_rights().map_err(kernel("rights in a namespace"))?;
    sethostname("engine").map_err(kernel("a name"))?;
    if has_loopback {
        raise_loopback().map_err(kernel("a loopback"))?;
    }
    Ok(())
}

/// Lets the processes that this one starts make a process namespace, and show it, within the namespaces of this one. The process
/// that becomes the engine gives that up.
fn keep_rights() -> rustix::io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.inheritable |= CapabilitySet::SYS_ADMIN;
    set_capabilities(None, sets)?;
    configure_capability_in_ambient_set(CapabilitySet::SYS_ADMIN, true)
}

/// Switches on the only interface of a new network namespace: a request `RTM_NEWLINK` of rtnetlink(7).
fn raise_loopback() -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const REQUEST_AND_ANSWER: u16 = 1 | 4;
    const UP: u32 = 1;
    const LOOPBACK: i32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32_u32.to_ne_bytes());
    message.extend_from_slice(&NEW_LINK.to_ne_bytes());
    message.extend_from_slice(&REQUEST_AND_ANSWER.to_ne_bytes());
    // Sequence number, and no address of its own.
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&0_u32.to_ne_bytes());
    // Any family, and any type of interface.
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&LOOPBACK.to_ne_bytes());
    message.extend_from_slice(&UP.to_ne_bytes());
    message.extend_from_slice(&UP.to_ne_bytes());
    // Without a protocol it is the one for routes.
    let kernel = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    send(&kernel, &message, SendFlags::empty())?;
    let mut answer = [0; 64];
    let (count, _) = recv(&kernel, &mut answer, RecvFlags::empty())?;
    // Behind the header of 16 bytes stands the number of an error, or zero.
    let error = answer.get(16..20).filter(|_| count >= 20).and_then(|bytes| bytes.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Makes a root of its own: the configuration's files, read-only; some devices; and memory of `scratch` and the model.
fn furnish(plan: &Plan, model: u64) -> Result<(), RoomError> {
    let mounts = || kernel("mounts in a namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(mounts())?;
    // Held before the folder under which the room is put together is covered.
    let files = plan.files.iter().map(|path| Shown::find(path)).collect::<Result<Vec<_>, _>>()?;
    let devices = DEVICES.iter().copied().chain(plan.devices.iter().map(String::as_str));
    let devices = devices.map(Shown::find).collect::<Result<Vec<_>, _>>()?;
    let processes = Shown::find("/proc")?;

    memory(BENCH, "mode=755,size=1m,nr_inodes=1k").map_err(mounts())?;
    for folder in ["dev", "proc", "tmp"] {
        fs::create_dir(Path::new(BENCH).join(folder))?;
    }
    for shown in files.iter().chain(&devices) {
        shown.show(MsFlags::empty())?;
    }
    for file in &files {
        file.protect()?;
    }
    processes.show(MsFlags::MS_REC)?;
    std::os::unix::fs::symlink("/tmp", format!("{BENCH}/dev/shm"))?;
    std::os::unix::fs::symlink("/proc/self/fd", format!("{BENCH}/dev/fd"))?;
    let bytes = plan.scratch.saturating_add(model);
    memory(&format!("{BENCH}/tmp"), &format!("mode=700,size={bytes}")).map_err(mounts())?;

    std::env::set_current_dir(BENCH)?;
    // The old root is put over the new one, and taken away.
    pivot_root(".", ".").map_err(kernel("another root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(kernel("to leave the old root"))?;
    std::env::set_current_dir("/")?;
    let flags =
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(kernel("a read-only root"))
}

fn memory(at: &str, options: &str) -> nix::Result<()> {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
}

/// Something of the system that the engine sees at the same path.
struct Shown {
    path: String,
    kind: Kind,
}

enum Kind {
    /// A link, which is made anew.
    Link(PathBuf),
    Folder(OwnedFd),
    File(OwnedFd),
}

impl Shown {
    fn find(path: &str) -> Result<Self, RoomError> {
        let kind = || {
            let metadata = fs::symlink_metadata(path)?;
            if metadata.is_symlink() {
                return fs::read_link(path).map(Kind::Link);
            }
            let held = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            Ok(if metadata.is_dir() { Kind::Folder(held) } else { Kind::File(held) })
        };
        match kind() {
            Ok(kind) => Ok(Self { path: path.to_owned(), kind }),
            Err(source) => Err(RoomError::File { path: path.to_owned(), source }),
        }
    }

    fn place(&self) -> String {
        format!("{BENCH}{}", self.path)
    }

    fn failed(&self, source: io::Error) -> RoomError {
        RoomError::File { path: self.path.clone(), source }
    }

    fn show(&self, further: MsFlags) -> Result<(), RoomError> {
        let place = self.place();
        let shown = || {
            if let Some(parent) = Path::new(&place).parent() {
                fs::create_dir_all(parent)?;
            }
            let held = match &self.kind {
                Kind::Link(to) => return std::os::unix::fs::symlink(to, &place),
                Kind::Folder(held) => {
                    fs::create_dir_all(&place)?;
                    held
                }
                Kind::File(held) => {
                    File::create_new(&place)?;
                    held
                }
            };
            let from = format!("/proc/self/fd/{}", held.as_raw_fd());
            Ok(mount(
                Some(from.as_str()),
                place.as_str(),
                None::<&str>,
                MsFlags::MS_BIND | further,
                None::<&str>,
            )?)
        };
        shown().map_err(|error| self.failed(error))
    }

    /// Takes all ways to change it away. What the system has forbidden there already stays forbidden.
    fn protect(&self) -> Result<(), RoomError> {
        if matches!(self.kind, Kind::Link(_)) {
            return Ok(());
        }
        let place = self.place();
        let has = statvfs(&place).map_err(|error| self.failed(error.into()))?.f_flag;
        let mut flags = MsFlags::MS_REMOUNT
            | MsFlags::MS_BIND
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV;
        for (had, kept) in [
            (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
            (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
            (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
            (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
        ] {
            if has.contains(had) {
                flags |= kept;
            }
        }
        mount(None::<&str>, place.as_str(), None::<&str>, flags, None::<&str>)
            .map_err(|error| self.failed(error.into()))
    }
}

/// Hands a connection to the worker for each byte that asks for one, until the worker is gone.
async fn let_in(mut worker: UnixStream) -> io::Result<()> {
    while worker.read_u8().await.is_ok_and(|byte| byte == door::WANTED) {
        let engine = UnixStream::connect(SOCKET).await.ok();
        let descriptor = engine.as_ref().map(|engine| engine.as_fd());
        worker.async_io(Interest::WRITABLE, || door::send(worker.as_fd(), descriptor)).await?;
    }
    Ok(())
}

/// Runs the engine, again and again.
async fn keep_running(plan: &Plan) -> std::convert::Infallible {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let how = match start(plan) {
            Ok(mut child) => how_it_ended(child.wait().await),
            Err(_) => "not-started",
        };
        // Its socket would stand in the next one's way.
        let _ = fs::remove_file(SOCKET);
        if begun.elapsed() >= RAN_WELL {
            pause = FIRST_PAUSE;
        }
        Line::EngineEnded { how: Code::of(how), again_after: pause }.say();
        sleep(pause).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

fn start(plan: &Plan) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("cleanroom-engine-init")
        .arg(INIT)
        .arg(u8::from(plan.loopback).to_string())
        .args(&plan.argv)
        .env_clear()
        .envs(&plan.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command.spawn()
}

fn how_it_ended(status: io::Result<ExitStatus>) -> &'static str {
    match status.ok().and_then(|status| status.code()).map(u8::try_from) {
        Some(Ok(NOT_CONFINED)) => "not-confined",
        Some(Ok(NOT_STARTED)) => "not-started",
        Some(Ok(0)) => "ended",
        Some(Ok(1..=127)) => "failed",
        _ => "killed",
    }
}
