//! The security module as a virtio device (id 33), which the guest's own driver talks to: a vhost-user
//! backend.
//!
//! QEMU carries the guest's memory and its doorbell here, `vhost-user-test-device` being the door; the
//! answers come from the state machine that the simulated tier has, too. Two things about the rings are not
//! in the virtio specification's text:
//!
//! * The driver (`drivers/misc/nsm.c`) puts the request and the room for the answer into the ring as two
//!   chains, and takes the first interrupt as the sign that both are done. So there is one interrupt, after
//!   the answer.
//! * The driver's source of randomness asks before the device is started. QEMU loses that doorbell, and what
//!   is answered while it starts the device interrupts nobody. So until [`SETTLED`] after the first answer
//!   the ring is looked at every [`POLL`], and the guest interrupted again; an interrupt too many is ignored.

use std::io;
use std::ops::Deref as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use cleanroom_software_nsm::serve::system_time_ms;
use cleanroom_software_nsm::{REQUEST_MAX, RESPONSE_MAX, SoftwareNsm};
use rustix::io::FdFlags;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::{QueueOwnedT as _, QueueT as _};
use vm_memory::{
    Bytes as _, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend as _, GuestMemoryMmap,
    GuestMemoryRegion as _,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

/// The virtio device id of the security module (virtio specification, appendix of device ids).
pub(super) const VIRTIO_ID: u32 = 33;
/// The queue's length. The driver has one request at a time, so two entries are in use.
pub(super) const QUEUE_SIZE: u16 = 16;

/// How often the ring is looked at until the device has started.
const POLL: Duration = Duration::from_millis(20);
/// After how many polls from the first answer on it certainly has: a second.
const SETTLED: u32 = 50;

/// `VIRTIO_F_VERSION_1`: the layout of virtio 1.0 and later.
const VERSION_1: u64 = 1 << 32;

/// The events that the backend's thread waits for: the queue's doorbell, the end, the timer.
const DOORBELL: u16 = 0;
const TIMER: u64 = 2;

/// Answers the enclave's requests: CBOR in, at most `capacity` bytes of CBOR out.
pub trait Respond: Send + Sync + 'static {
    /// The answer to `request`.
    fn respond(&mut self, request: &[u8], capacity: usize) -> Vec<u8>;
}

impl Respond for SoftwareNsm {
    fn respond(&mut self, request: &[u8], capacity: usize) -> Vec<u8> {
        self.process_within(request, system_time_ms(), capacity)
    }
}

/// A device that waits for a virtual machine on a socket, and serves one. Dropping it ends it.
pub(super) struct Device {
    socket: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    /// Waits on the socket `path` from now on.
    pub(super) fn start(path: &Path, security_module: Box<dyn Respond>) -> io::Result<Self> {
        let backend = Arc::new(RwLock::new(Backend::new(security_module)?));
        let timer = backend.read().map_err(|_| poisoned())?.timer.as_raw_fd();
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new("security-module".to_owned(), backend, memory)
            .map_err(|error| io::Error::other(error.to_string()))?;
        for handler in daemon.get_epoll_handlers() {
            handler.register_listener(timer, EventSet::IN, TIMER)?;
        }
        let socket = path.to_owned();
        let thread = std::thread::Builder::new().name("security-module".to_owned()).spawn(move || {
            if let Err(error) = daemon.serve(&socket) {
                tracing::warn!(%error, "the security module's device ended");
            }
        })?;
        Ok(Self { socket: path.to_owned(), thread: Some(thread) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // A device that no machine ever came to still waits for one; this one hangs up at once.
        drop(UnixStream::connect(&self.socket));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the guest's ring and the security module have to do with each other.
struct Backend {
    security_module: Box<dyn Respond>,
    memory: Option<GuestMemoryAtomic<GuestMemoryMmap>>,
    /// The request that was read last and not answered yet.
    request: Vec<u8>,
    timer: OwnedFd,
    /// Polls since the first answer, once there was one.
    polls: Option<u32>,
}

impl Backend {
    fn new(security_module: Box<dyn Respond>) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        set_timer(&timer, POLL)?;
        Ok(Self { security_module, memory: None, request: Vec::new(), timer, polls: None })
    }

    /// What a poll does beside looking at the ring.
    fn settle(&mut self, vring: &VringRwLock) -> io::Result<()> {
        // How often the timer went off in the meantime does not matter.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        if let Some(polls) = &mut self.polls {
            *polls += 1;
            vring.signal_used_queue()?;
            if *polls >= SETTLED {
                set_timer(&self.timer, Duration::ZERO)?;
            }
        }
        Ok(())
    }

    /// Takes every chain that is in the ring. Whether a request was answered.
    fn drain(&mut self, vring: &VringRwLock) -> io::Result<bool> {
        let mut any = false;
        let Some(memory) = self.memory.as_ref().map(GuestAddressSpace::memory) else { return Ok(any) };
        if !vring.get_ref().get_queue().ready() {
            return Ok(any);
        }
        loop {
            vring.disable_notification().map_err(queue_error)?;
            let chains: Vec<_> =
                vring.get_mut().get_queue_mut().iter(memory.clone()).map_err(queue_error)?.collect();
            for chain in chains {
                let mut request = Vec::new();
                for part in chain.clone().readable() {
                    // One byte over the limit is enough to be refused for it.
                    let room = (REQUEST_MAX + 1).saturating_sub(request.len());
                    let mut bytes = vec![0; usize::try_from(part.len()).unwrap_or(room).min(room)];
                    memory.read_slice(&mut bytes, part.addr()).map_err(io::Error::other)?;
                    request.extend_from_slice(&bytes);
                }
                if !request.is_empty() {
                    self.request = request;
                }
                let room: Vec<_> = chain.clone().writable().collect();
                let answered = !room.is_empty();
                let mut written = 0;
                if answered {
                    let capacity = room
                        .iter()
                        .fold(0_usize, |sum, part| {
                            sum.saturating_add(usize::try_from(part.len()).unwrap_or(0))
                        })
                        .min(RESPONSE_MAX);
                    let answer = self.security_module.respond(&std::mem::take(&mut self.request), capacity);
                    let mut rest = answer.get(..capacity).unwrap_or(&answer);
                    for part in room {
                        let (now, later) = rest.split_at(rest.len().min(part.len() as usize));
                        memory.deref().write_slice(now, part.addr()).map_err(io::Error::other)?;
                        written += u32::try_from(now.len()).unwrap_or(0);
                        rest = later;
                    }
                }
                vring.add_used(chain.head_index(), written).map_err(queue_error)?;
                if answered {
                    vring.signal_used_queue()?;
                    any = true;
                }
            }
            if !vring.enable_notification().map_err(queue_error)? {
                return Ok(any);
            }
        }
    }
}

impl VhostUserBackendMut for Backend {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        keep_to_this_process(&memory)?;
        self.memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        let Some(vring) = vrings.first() else { return Ok(()) };
        if event != DOORBELL {
            self.settle(vring)?;
        }
        if self.drain(vring)? {
            self.polls.get_or_insert(0);
        }
        Ok(())
    }
}

/// Sees that no program which this process starts inherits the guest's memory. QEMU sends its file over the socket, and
/// the library that receives it leaves it open across exec.
fn keep_to_this_process(memory: &GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
    for region in memory.memory().iter() {
        if let Some(file) = region.file_offset() {
            rustix::io::fcntl_setfd(file.file(), FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

/// Lets the timer go off again and again with this pause between; never, if there is none.
fn set_timer(timer: &OwnedFd, pause: Duration) -> io::Result<()> {
    let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
    let times = Itimerspec { it_interval: pause, it_value: pause };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &times)?;
    Ok(())
}

fn queue_error(error: virtio_queue::Error) -> io::Error {
    io::Error::other(error)
}

fn poisoned() -> io::Error {
    io::Error::other("the device failed before it was started")
}

#[cfg(test)]
mod tests;
