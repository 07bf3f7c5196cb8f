//! Randomness: from the security module into the kernel's pool, before anybody makes a key.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use aws_nitro_enclaves_nsm_api::driver::{nsm_exit, nsm_init, nsm_process_request};
use rustix::ioctl::{NoArg, ioctl, opcode};

use crate::halt::Halt;

/// Which hardware the kernel draws randomness from.
const CURRENT: &str = "/sys/class/misc/hw_random/rng_current";
/// The name under which the kernel's NSM driver registers (`drivers/misc/nsm.c`).
const DRIVER: &str = "nsm-hwrng";

/// Bytes in one answer to `GetRandom`, as every Nitro security module gives them.
const LENGTH: usize = 256;

/// Writes the security module's randomness into the kernel's pool and makes the kernel's generator take it up.
pub(crate) fn mix_in() -> Result<(), Halt> {
    let random = from_security_module()?;
    check_current(Path::new(CURRENT))?;
    let mut pool = OpenOptions::new()
        .write(true)
        .open("/dev/random")
        .map_err(Halt::machine("opening the pool of randomness"))?;
    pool.write_all(&random).map_err(Halt::machine("mixing randomness in"))?;
    reseed(&pool).map_err(Halt::machine("taking up the randomness that was mixed in"))
}

fn from_security_module() -> Result<Vec<u8>, Halt> {
    let descriptor = nsm_init();
    if descriptor < 0 {
        return Err(Halt::NoSecurityModule);
    }
    let answer = nsm_process_request(descriptor, Request::GetRandom);
    nsm_exit(descriptor);
    randomness(answer)
}

fn randomness(answer: Response) -> Result<Vec<u8>, Halt> {
    let got = match answer {
        Response::GetRandom { random } if random.len() != LENGTH => "another number of them",
        Response::GetRandom { random } if random.windows(2).all(|pair| pair.first() == pair.last()) => {
            "one byte over and over"
        }
        Response::GetRandom { random } => return Ok(random),
        Response::Error(_) => "an error",
        _ => "an answer to another question",
    };
    Err(Halt::NoRandomness { expected: LENGTH, got })
}

fn check_current(current: &Path) -> Result<(), Halt> {
    let name = fs::read_to_string(current).unwrap_or_default();
    if name.trim_end() == DRIVER { Ok(()) } else { Err(Halt::OtherRandomness { expected: DRIVER }) }
}

/// `RNDRESEEDCRNG` of random(4). Without it the generator takes the pool up at its next turn, seconds later, and the first keys
/// would be made before.
fn reseed(pool: &fs::File) -> std::io::Result<()> {
    #[expect(unsafe_code, reason = "no safe interface has this request, and keys must not be made before it")]
    // SAFETY: random(4) defines the request without an argument, so the kernel reads and writes no memory of ours.
    unsafe {
        ioctl(pool, NoArg::<{ opcode::none(b'R', 0x07) }>::new())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_nitro_enclaves_nsm_api::api::ErrorCode;

    use super::*;

    #[test]
    fn only_whole_answers_that_look_random_are_used() {
        let random: Vec<u8> = (0..=255).collect();
        assert_eq!(randomness(Response::GetRandom { random: random.clone() }).unwrap(), random);
        for nonsense in [
            Response::GetRandom { random: Vec::new() },
            Response::GetRandom { random: random[1..].to_vec() },
            Response::GetRandom { random: vec![7; LENGTH] },
            Response::LockPCR,
            Response::Error(ErrorCode::InternalError),
        ] {
            assert!(matches!(randomness(nonsense), Err(Halt::NoRandomness { .. })));
        }
    }

    #[test]
    fn the_kernel_must_draw_from_the_security_module() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rng_current");
        assert!(check_current(&file).is_err(), "a kernel without such a source is refused");
        for (name, accepted) in [("nsm-hwrng\n", true), ("virtio_rng.0\n", false), ("none\n", false)] {
            fs::write(&file, name).unwrap();
            assert_eq!(check_current(&file).is_ok(), accepted, "{name}");
        }
    }
}
