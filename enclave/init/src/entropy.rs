//! Randomness: from the security module into the kernel's pool, before anybody makes a key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use aws_nitro_enclaves_nsm_api::driver::{nsm_exit, nsm_init, nsm_process_request};
use cleanroom_tpm::{Fields, GET_RANDOM, MESSAGE_MAX, Message, NO_SESSIONS, message};
use rustix::ioctl::{NoArg, ioctl, opcode};

use crate::halt::Halt;
use crate::platform::Platform;

/// Which hardware the kernel draws randomness from.
const CURRENT: &str = "/sys/class/misc/hw_random/rng_current";
/// The name under which the kernel's NSM driver registers (`drivers/misc/nsm.c`).
const DRIVER: &str = "nsm-hwrng";
/// The TPM of an instance. The kernel draws from it as well, but not on AMD's processors.
const TPM: &str = "/dev/tpm0";

/// Bytes in one answer to `GetRandom`, as every Nitro security module gives them.
const LENGTH: usize = 256;

/// Writes the security module's randomness into the kernel's pool and makes the kernel's generator take it up.
pub(crate) fn mix_in(platform: Platform) -> Result<(), Halt> {
    let random = match platform {
        Platform::NitroEnclave => {
            let random = from_security_module()?;
            check_current(Path::new(CURRENT))?;
            random
        }
        Platform::NitroTpm => from_tpm(open_tpm(Path::new(TPM))?)?,
    };
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

fn open_tpm(path: &Path) -> Result<File, Halt> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| Halt::NoTpm(error.kind()))
}

/// Asks a TPM, which gives at most as many bytes at once as its longest digest has, until it has given enough.
fn from_tpm(mut tpm: impl Read + Write) -> Result<Vec<u8>, Halt> {
    let mut random = Vec::with_capacity(LENGTH);
    while let Some(missing) = LENGTH.checked_sub(random.len()).filter(|missing| *missing > 0) {
        let wanted = u16::try_from(missing).unwrap_or(u16::MAX);
        let command = message(NO_SESSIONS, GET_RANDOM, &[&wanted.to_be_bytes()]);
        // The kernel takes a command in one write and gives the response in one read.
        let mut response = [0; MESSAGE_MAX];
        let length = tpm.write_all(&command).and_then(|()| tpm.read(&mut response));
        let length = length.map_err(Halt::machine("asking the TPM for randomness"))?;
        let some = given(response.get(..length).unwrap_or_default());
        let some = some.filter(|some| (1..=missing).contains(&some.len()));
        let got = "an error, or an answer to another question";
        random.extend_from_slice(some.ok_or(Halt::NoRandomness { expected: LENGTH, got })?);
    }
    randomness(Response::GetRandom { random })
}

/// The bytes in a TPM's response to `GetRandom`.
fn given(response: &[u8]) -> Option<&[u8]> {
    let response = Message::parse(response)?;
    let mut fields = Fields(response.body);
    let random = fields.sized()?;
    fields.end()?;
    (response.tag == NO_SESSIONS && response.code == 0).then_some(random)
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
fn reseed(pool: &File) -> io::Result<()> {
    #[expect(unsafe_code, reason = "no safe interface has this request, and keys must not be made before it")]
    // SAFETY: random(4) defines the request without an argument, so the kernel reads and writes no memory of ours.
    unsafe {
        ioctl(pool, NoArg::<{ opcode::none(b'R', 0x07) }>::new())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use aws_nitro_enclaves_nsm_api::api::ErrorCode;
    use cleanroom_tpm::{SESSIONS, read_message, sized};

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

    /// What comes of a TPM that answers each command so.
    fn asked(answer: impl Fn(u16) -> Vec<u8> + Send) -> Result<Vec<u8>, Halt> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while let Ok(command) = read_message(&mut theirs) {
                    let command = Message::parse(&command).unwrap();
                    assert_eq!((command.tag, command.code), (NO_SESSIONS, GET_RANDOM));
                    theirs.write_all(&answer(Fields(command.body).u16().unwrap())).unwrap();
                }
            });
            from_tpm(ours)
        })
    }

    #[test]
    fn a_tpm_is_asked_until_it_has_given_enough() {
        let bytes = |count: u16| -> Vec<u8> { (0..count).map(|index| index.to_le_bytes()[0]).collect() };
        // As many as asked for, at most those of the longest digest.
        let random = asked(move |wanted| message(NO_SESSIONS, 0, &[&sized(&bytes(wanted.min(48)))])).unwrap();
        assert_eq!(random.len(), LENGTH);
        let nonsense: [&(dyn Fn(u16) -> Vec<u8> + Sync); 7] = [
            &|_| message(NO_SESSIONS, 0, &[&sized(&[])]),
            &|wanted| message(NO_SESSIONS, 0, &[&sized(&bytes(wanted + 1))]),
            &|_| message(NO_SESSIONS, 0, &[&sized(&[7])]),
            &|_| message(NO_SESSIONS, 0, &[&sized(&[1, 2]), &[0]]),
            &|_| message(NO_SESSIONS, 0x101, &[&sized(&[1, 2])]),
            &|_| message(SESSIONS, 0, &[&sized(&[1, 2])]),
            &|_| vec![1],
        ];
        for (index, answer) in nonsense.into_iter().enumerate() {
            assert!(matches!(asked(answer), Err(Halt::NoRandomness { .. })), "{index}");
        }
        assert!(matches!(open_tpm(Path::new("/nonexistent")), Err(Halt::NoTpm(io::ErrorKind::NotFound))));
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
