use std::fs::File;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{fcntl_getfd, fcntl_setfd};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::*;

/// Where the guest keeps its request and its room for the answer, away from the rings.
const REQUEST: GuestAddress = GuestAddress(0x10_0000);
const ANSWER: GuestAddress = GuestAddress(0x12_0000);

/// The device may write to a buffer with this flag (virtio specification, `VIRTQ_DESC_F_WRITE`).
const WRITABLE: u16 = 2;

/// Answers with the request's length and first byte, then as many bytes as there is room for.
struct Echo;

impl Respond for Echo {
    fn respond(&mut self, request: &[u8], capacity: usize) -> Vec<u8> {
        let mut answer = vec![9; capacity];
        answer[..2].copy_from_slice(&(request.len() as u16).to_be_bytes());
        answer[2] = request.first().copied().unwrap_or(0);
        answer
    }
}

/// What a guest sees after it has put these chains into the ring and they were taken out: how many were used,
/// with how many bytes each, the bytes at [`ANSWER`], and the number of interrupts.
fn asked(chains: &[(GuestAddress, u32, u16)]) -> (u16, Vec<u32>, Vec<u8>, u64) {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();
    memory.write_slice(&[5; 0x8000], REQUEST).unwrap();
    let queue = MockSplitQueue::new(&memory, 16);
    let descriptors: Vec<RawDescriptor> =
        chains.iter().map(|(at, length, flags)| Descriptor::new(at.0, *length, *flags, 0).into()).collect();
    queue.add_desc_chains(&descriptors, 0).unwrap();

    let shared = GuestMemoryAtomic::new(memory.clone());
    let vring = VringRwLock::new(shared.clone(), 16).unwrap();
    vring.set_queue_size(16);
    vring.set_queue_info(queue.desc_table_addr().0, queue.avail_addr().0, queue.used_addr().0).unwrap();
    vring.set_queue_ready(true);
    let interrupts = File::from(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    vring.set_call(Some(interrupts.try_clone().unwrap()));

    let mut backend = Backend::new(Box::new(Echo)).unwrap();
    backend.update_memory(shared).unwrap();
    backend.drain(&vring).unwrap();

    let used = queue.used().idx().load();
    let written = (0..used).map(|at| queue.used().ring().ref_at(at.into()).unwrap().load().len()).collect();
    let mut answer = vec![0; 16];
    memory.read_slice(&mut answer, ANSWER).unwrap();
    let mut count = [0; 8];
    let rung = rustix::io::read(&interrupts, &mut count).map_or(0, |_| u64::from_ne_bytes(count));
    (used, written, answer, rung)
}

#[test]
fn request_and_answer_in_two_chains_are_one_interrupt() {
    let (used, written, answer, interrupts) = asked(&[(REQUEST, 7, 0), (ANSWER, 10, WRITABLE)]);
    assert_eq!((used, written.as_slice(), interrupts), (2, [0, 10].as_slice(), 1));
    assert_eq!(answer, [0, 7, 5, 9, 9, 9, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_request_alone_waits_for_room_without_an_interrupt() {
    assert_eq!(asked(&[(REQUEST, 7, 0)]).3, 0);
}

#[test]
fn a_request_that_is_too_long_is_cut_one_byte_after_the_limit() {
    let (_, written, answer, _) = asked(&[(REQUEST, 0x8000, 0), (ANSWER, 10, WRITABLE)]);
    assert_eq!(written, [0, 10]);
    assert_eq!(u16::from_be_bytes([answer[0], answer[1]]), 4097);
}

#[test]
fn room_that_no_answer_needs_is_not_filled() {
    let (_, written, ..) = asked(&[(REQUEST, 1, 0), (ANSWER, 0x8000, WRITABLE)]);
    assert_eq!(written, [0, 12_288]);
}

#[test]
fn the_guest_is_interrupted_again_until_the_device_has_certainly_started() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();
    let queue = MockSplitQueue::new(&memory, 16);
    let chains: Vec<RawDescriptor> = [(REQUEST, 0), (ANSWER, WRITABLE)]
        .map(|(at, flags)| Descriptor::new(at.0, 8, flags, 0).into())
        .to_vec();
    queue.add_desc_chains(&chains, 0).unwrap();
    let shared = GuestMemoryAtomic::new(memory.clone());
    let vring = VringRwLock::new(shared.clone(), 16).unwrap();
    vring.set_queue_size(16);
    vring.set_queue_info(queue.desc_table_addr().0, queue.avail_addr().0, queue.used_addr().0).unwrap();
    vring.set_queue_ready(true);
    let mut backend = Backend::new(Box::new(Echo)).unwrap();
    backend.update_memory(shared).unwrap();

    // Nobody hears the interrupt of the answer: QEMU gives the real one only afterwards.
    backend.handle_event(DOORBELL, EventSet::IN, std::slice::from_ref(&vring), 0).unwrap();
    let interrupts = File::from(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    vring.set_call(Some(interrupts.try_clone().unwrap()));
    for _ in 0..SETTLED {
        backend.handle_event(TIMER as u16, EventSet::IN, std::slice::from_ref(&vring), 0).unwrap();
    }
    let mut count = [0; 8];
    rustix::io::read(&interrupts, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), u64::from(SETTLED));
    let timer = rustix::time::timerfd_gettime(&backend.timer).unwrap();
    assert_eq!((timer.it_interval.tv_sec, timer.it_interval.tv_nsec), (0, 0), "then the polls end");
}

#[test]
fn the_guests_memory_is_not_carried_into_another_program() {
    let file = File::from(memfd_create("guest", MemfdFlags::empty()).unwrap());
    file.set_len(0x10_0000).unwrap();
    let range = (GuestAddress(0), 0x10_0000, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
    let memory = GuestMemoryMmap::<()>::from_ranges_with_files([range]).unwrap();
    let received = memory.iter().next().unwrap().file_offset().unwrap().file();
    // As the library that receives it leaves it.
    fcntl_setfd(received, FdFlags::empty()).unwrap();
    Backend::new(Box::new(Echo)).unwrap().update_memory(GuestMemoryAtomic::new(memory.clone())).unwrap();
    let received = memory.iter().next().unwrap().file_offset().unwrap().file();
    assert!(fcntl_getfd(received).unwrap().contains(FdFlags::CLOEXEC));
}
