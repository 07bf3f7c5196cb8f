//! PID 1 of an image, in the first ramdisk: of a Nitro enclave, or of an instance that is the enclave itself.
//!
//! It prepares the machine, checks every byte of the application before any of it runs, and starts it. Whatever is not as
//! it must be ends in a halt with its reason on the console; an enclave that serves has passed all of it:
//!
//! | step | why |
//! |---|---|
//! | limits, no core dumps | content must not leave the memory it is in |
//! | application against `/manifest` | the parent chooses the memory's size, and a kernel that is short of it boots with a ramdisk cut off, under the PCRs of the whole image |
//! | security module's randomness into the kernel's pool | keys made from here on do not hang on what the parent's machine contributed |
//! | clock source | a clock that the parent's emulation drives could stop leases from lapsing |
//! | heartbeat to the parent, in a Nitro enclave | the parent connects only afterwards |
//!
//! The command line is not wholly measured (a virtual machine monitor appends to it), so nothing is read from it but the
//! context id of the parent, which decides only where the heartbeat goes.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod application;
mod child;
mod clock;
mod console;
mod entropy;
mod halt;
mod heartbeat;
mod machine;
mod platform;

use std::convert::Infallible;
use std::path::Path;

use cleanroom_attestation::measurement::Manifest;

use crate::console::{Line, say};
use crate::halt::Halt;
use crate::platform::Platform;

fn main() {
    console::keep_panics_short();
    let Err(reason) = boot();
    halt::halt(&reason)
}

fn boot() -> Result<Infallible, Halt> {
    machine::set_up()?;
    say(&Line::Started);
    let platform = Platform::of_image(Path::new(platform::FILE))?;
    let whole = application::check(Path::new("/"), Path::new(Manifest::PATH))?;
    say(&Line::ApplicationWhole(whole));
    machine::make_read_only()?;
    entropy::mix_in(platform)?;
    say(&Line::EntropyMixedIn);
    clock::check(Path::new(clock::CURRENT))?;
    machine::bring_loopback_up()?;
    if platform == Platform::NitroEnclave {
        heartbeat::beat(machine::parent()?)?;
        say(&Line::Heartbeat);
    }
    child::run(Path::new(application::PROGRAM), platform)
}
