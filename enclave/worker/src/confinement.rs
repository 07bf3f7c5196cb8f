//! The system calls that a worker may make. The kernel ends a worker that makes another one.
//!
//! The list covers what sessions and the backend need between the first byte of the model and the last byte of an answer. It
//! has no way to open a file, to make or connect a socket, to start a program or a process, to look into another process, to
//! make memory executable, or to take the filter off again. The worker keeps what it holds at that moment and gets nothing
//! else.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use rustix::process::{Resource, Rlimit, getpid, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

/// All that a worker finds in its environment. The C library's allocator would open files otherwise, and a worker may open none.
pub const ENVIRONMENT: [(&str, &str); 2] = [
    // How many pools of memory it makes for threads. When it has made eight, it would see how many processors there are.
    ("MALLOC_ARENA_MAX", "16"),
    // How much a pool keeps: all of it. Before it gives the end of one back for the first time, it would see whether the system
    // promises more memory than it has. Pieces of 128 KiB and more are in no pool, and are given back at once.
    ("MALLOC_TRIM_THRESHOLD_", "1099511627776"),
];

/// Descriptors that a worker may hold: each connection takes one.
const DESCRIPTORS: u64 = 8192;
/// Threads of a worker that has a user of its own: the runtime's, those that tokenise, the engine's.
const THREADS: u64 = 1024;

/// Gives up what a process has by its birth: capabilities, and rights that a program could bring with it. Call it before there are
/// threads.
///
/// # Errors
/// What the kernel answers. A worker that keeps a right does not start.
pub fn give_up_rights() -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    bound(Resource::Nofile, DESCRIPTORS)
}

/// Bounds the threads of a worker. They are counted over all processes of its user, so it needs one of its own.
///
/// # Errors
/// What the kernel answers.
pub fn bound_threads() -> io::Result<()> {
    bound(Resource::Nproc, THREADS)
}

fn bound(resource: Resource, most: u64) -> io::Result<()> {
    let maximum = Some(getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most)));
    Ok(setrlimit(resource, Rlimit { current: maximum, maximum })?)
}

/// Installs the filter on every thread of this process, for good. A worker before an engine of its own process
/// `receives_connections`: the engine's room hands it connections, which it can neither make nor connect itself.
///
/// # Errors
/// What the kernel answers. A worker without a filter does not read the model.
pub fn confine(receives_connections: bool) -> io::Result<()> {
    // The process, and not the thread alone.
    for program in programs(SeccompAction::KillProcess, receives_connections)? {
        apply_filter_all_threads(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The filters, in the order in which they are installed. `forbidden` is what happens to a call that is not on the list.
fn programs(forbidden: SeccompAction, receives_connections: bool) -> io::Result<[BpfProgram; 2]> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let compile = |rules, otherwise, then| -> io::Result<BpfProgram> {
        let filter = SeccompFilter::new(rules, otherwise, then, architecture).map_err(io::Error::other)?;
        filter.try_into().map_err(io::Error::other)
    };
    // The flags of clone3 are behind a pointer, where no filter can look. The C library then uses clone, whose flags are not.
    let unseen = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unseen = compile(unseen, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()))?;
    Ok([unseen, compile(permitted(receives_connections)?, forbidden, SeccompAction::Allow)?])
}

/// Calls that are permitted whatever their arguments.
const ALWAYS: &[c_long] = &[
    // Bytes on descriptors that are there already.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_close,
    // Partners who arrive, and waiting for whatever is ready.
    libc::SYS_accept4,
    libc::SYS_epoll_ctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads that wait, yield, begin and end.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Time, where it cannot be read without a call, and randomness.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
];

/// The whole list.
fn permitted(receives_connections: bool) -> io::Result<BTreeMap<c_long, Vec<SeccompRule>>> {
    let mut list: BTreeMap<c_long, Vec<SeccompRule>> =
        ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    if receives_connections {
        list.insert(libc::SYS_recvmsg, Vec::new());
    }
    // What the first filter has answered.
    list.insert(libc::SYS_clone3, Vec::new());
    let number = |bits: i32| u64::from(bits.unsigned_abs());
    let no_code = when(2, SeccompCmpOp::MaskedEq(number(libc::PROT_EXEC)), 0)?;
    list.insert(libc::SYS_mmap, vec![no_code.clone()]);
    list.insert(libc::SYS_mprotect, vec![no_code]);
    let thread = number(libc::CLONE_THREAD);
    list.insert(libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // To whom the connection is, and to nobody else.
    list.insert(libc::SYS_sendto, vec![when(4, SeccompCmpOp::Eq, 0)?]);
    list.insert(libc::SYS_ioctl, vec![when(1, SeccompCmpOp::Eq, libc::FIONBIO)?]);
    let asks = |what: i32| when(1, SeccompCmpOp::Eq, number(what));
    list.insert(libc::SYS_fcntl, vec![asks(libc::F_GETFD)?, asks(libc::F_GETFL)?]);
    list.insert(libc::SYS_prctl, vec![when(0, SeccompCmpOp::Eq, number(libc::PR_SET_NAME))?]);
    // A process that aborts signals itself.
    let own = number(getpid().as_raw_nonzero().get());
    list.insert(libc::SYS_tgkill, vec![when(0, SeccompCmpOp::Eq, own)?]);
    Ok(list)
}

/// That the argument at `index` compares so with `value`.
fn when(index: u8, compared: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Qword, compared, value);
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
