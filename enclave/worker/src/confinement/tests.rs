use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::Barrier;

use nix::sys::ptrace;
use nix::unistd::execv;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket, socketpair};
use rustix::process::{DumpableBehavior, Signal, getppid, kill_process, pidfd_open, set_dumpable_behavior};

use super::*;

/// Which call the process that this test program starts is to make.
const ENV_CALL: &str = "CLEANROOM_TEST_CALL";

/// An error that none of these calls has of its own.
const EUNATCH: u32 = 49;

type Call = Box<dyn Fn() -> io::Result<()>>;

/// What a worker that was taken over would try. What they need beforehand is made now.
fn calls() -> Vec<(&'static str, Call)> {
    let made = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let (other, second) =
        (made.try_clone().unwrap(), socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap());
    let parent = getppid().unwrap();
    let address = || SocketAddrUnix::new_abstract_name(b"cleanroom-confinement").unwrap();
    vec![
        ("open a file", Box::new(|| File::open("/etc/passwd").map(drop))),
        ("open /dev/nsm", Box::new(|| File::options().read(true).write(true).open("/dev/nsm").map(drop))),
        ("make a socket", Box::new(|| Ok(socket(AddressFamily::INET, SocketType::STREAM, None).map(drop)?))),
        ("make a vsock", Box::new(|| Ok(socket(AddressFamily::VSOCK, SocketType::STREAM, None).map(drop)?))),
        (
            "make a pair of sockets",
            Box::new(|| {
                let flags = rustix::net::SocketFlags::empty();
                Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map(drop)?)
            }),
        ),
        ("connect", Box::new(move || Ok(connect(&made, &address())?))),
        ("bind", Box::new(move || Ok(bind(&other, &address())?))),
        ("listen", Box::new(move || Ok(listen(&second, 1)?))),
        (
            "start a program",
            Box::new(|| {
                let program = CString::new("/bin/true").map_err(io::Error::other)?;
                execv(&program, &[&program]).map(drop).map_err(io::Error::from)
            }),
        ),
        ("start a process", Box::new(|| Command::new("/bin/true").spawn().map(drop))),
        ("trace", Box::new(|| ptrace::traceme().map_err(io::Error::from))),
        ("signal another process", Box::new(move || Ok(kill_process(parent, Signal::USR1)?))),
        (
            "get hold of another process",
            Box::new(move || {
                let flags = rustix::process::PidfdFlags::empty();
                Ok(pidfd_open(parent, flags).map(drop)?)
            }),
        ),
        ("make a file in memory", Box::new(|| Ok(memfd_create("x", MemfdFlags::CLOEXEC).map(drop)?))),
        ("become dumpable again", Box::new(|| Ok(set_dumpable_behavior(DumpableBehavior::Dumpable)?))),
        (
            "raise a limit",
            Box::new(|| Ok(setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) })?)),
        ),
        ("change a file's mode", Box::new(|| std::fs::set_permissions("/tmp", mode()))),
        ("look at a file", Box::new(|| std::fs::metadata("/").map(drop))),
        ("list a folder", Box::new(|| std::fs::read_dir("/").map(drop))),
        ("remove a file", Box::new(|| std::fs::remove_file("/nonexistent"))),
    ]
}

fn mode() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(0o1777)
}

/// The same list with an error in the place of the end tells which call it was.
#[test]
fn what_a_worker_does_not_need_is_not_on_the_list() {
    std::thread::spawn(|| {
        let calls = calls();
        for program in programs(SeccompAction::Errno(EUNATCH), true).unwrap() {
            seccompiler::apply_filter(&program).unwrap();
        }
        for (name, call) in calls {
            let error = call().expect_err(name);
            assert_eq!(error.raw_os_error(), Some(EUNATCH.cast_signed()), "{name}: {error}");
        }
        // Threads it may have.
        std::thread::spawn(|| ()).join().unwrap();
    })
    .join()
    .unwrap();
}

/// In a process of its own that is confined as a worker is.
#[test]
fn whoever_calls_all_the_same_is_ended() {
    let names = calls().into_iter().map(|(name, _)| name);
    for name in names.chain(["nothing"]) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let (_, module) = module_path!().split_once("::").unwrap();
        command.args(["--exact", &format!("{module}::make_one_call")]);
        command.env(ENV_CALL, name).envs(ENVIRONMENT);
        let status = command.output().unwrap().status;
        if name == "nothing" {
            assert!(status.success(), "{name}: {status}");
        } else {
            assert_eq!(status.signal(), Some(Signal::SYS.as_raw()), "{name}: {status}");
        }
    }
}

/// The process that the test before this one starts.
#[test]
fn make_one_call() {
    let Ok(name) = std::env::var(ENV_CALL) else { return };
    let calls = calls();
    give_up_rights().unwrap();
    let thread = std::thread::spawn(std::thread::park);
    confine(false).unwrap();
    // Threads that were there before are confined, too, and further ones may come.
    thread.thread().unpark();
    thread.join().unwrap();
    // Many, which allocate at once.
    let together = Barrier::new(64);
    std::thread::scope(|threads| {
        for _ in 0..64 {
            threads.spawn(|| {
                together.wait();
                let memory = vec![1_u8; 1 << 20];
                together.wait();
                memory.len()
            });
        }
    });
    // And small pieces that are more than a pool of memory keeps by itself.
    std::thread::spawn(|| {
        let pieces: Vec<Vec<u8>> = (0..512).map(|_| vec![1; 64 * 1024]).collect();
        std::hint::black_box(&pieces);
    })
    .join()
    .unwrap();
    if let Some((_, call)) = calls.iter().find(|(known, _)| *known == name) {
        let _ = call();
    }
    std::process::exit(0);
}
