//! Bytes as TPM commands of a guest, and as what swtpm answers: the software TPM never panics, and answers with whole messages.

#![no_main]

use std::io;
use std::sync::{Arc, LazyLock};

use cleanroom_software_nsm::{DevelopmentRoot, TpmAttester};
use cleanroom_software_tpm::device::{Device, Emulator};
use libfuzzer_sys::fuzz_target;

/// 2026-03-01, milliseconds since 1970.
const NOW_MS: u64 = 1_772_366_400_000;

static ROOT: LazyLock<Arc<DevelopmentRoot>> =
    LazyLock::new(|| Arc::new(DevelopmentRoot::generate(NOW_MS).expect("a root can be made")));

/// Answers with one byte after the other of a script: a success, a refusal, or what the script has.
struct Scripted<'a>(&'a [u8]);

impl Emulator for Scripted<'_> {
    fn transact(&mut self, _command: &[u8]) -> io::Result<Vec<u8>> {
        let (kind, rest) = self.0.split_first().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(match kind % 4 {
            0 => b"\x80\x02\0\0\0\x13\0\0\0\0\0\0\0\0\0\0\x01\0\0".to_vec(),
            1 => b"\x80\x01\0\0\0\x0a\0\0\x09\xa2".to_vec(),
            2 => b"\x80\x01\0\0\0\x0a\0\0\0\0".to_vec(),
            _ => {
                let (answer, rest) = rest.split_at(rest.len().min(64));
                self.0 = rest;
                answer.to_vec()
            }
        })
    }
}

// Commands, each with its length (2 bytes) in front; what is left is the emulator's script.
fuzz_target!(|input: &[u8]| {
    let (Some((count, mut rest)), mut commands) = (input.split_first(), Vec::new()) else { return };
    for _ in 0..count % 8 {
        let Some((length, more)) = rest.split_first_chunk::<2>() else { break };
        let length = usize::from(u16::from_be_bytes(*length)).min(more.len());
        let (command, more) = more.split_at(length);
        commands.push(command);
        rest = more;
    }
    // A chain of certificates takes a while, and only the vendor command signs.
    let attester = TpmAttester::start(Arc::clone(&ROOT), NOW_MS).expect("a chain can be made");
    let mut device = Device::new(Scripted(rest), attester);
    for command in commands {
        let _ = device.process(command, NOW_MS);
    }
});
