//! Bytes as what a TPM answers: the enclave's device never panics, and each request has an end.

#![no_main]

use std::io;

use aws_nitro_enclaves_nsm_api::api::Request;
use cleanroom_keeper::security_module::Device as _;
use cleanroom_nitrotpm::{NitroTpm, Transport};
use libfuzzer_sys::fuzz_target;

/// Gives responses out of a script: a success of each kind, or what the script has, whole or not.
struct Scripted(Vec<u8>);

impl Transport for Scripted {
    fn transact(&mut self, _command: &[u8]) -> io::Result<Vec<u8>> {
        if self.0.len() < 2 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let kind = self.0.remove(0);
        let length = usize::from(self.0.remove(0));
        let body: Vec<u8> = self.0.drain(..length.min(self.0.len())).collect();
        let authorised = [&(body.len() as u32).to_be_bytes()[..], &body, &[0, 0, 1, 0, 0]].concat();
        let (tag, body) = match kind % 8 {
            // Raw bytes.
            0 => return Ok(body),
            // The first response of a start: an NV buffer of 2048 bytes.
            1 => (0x8001_u16, b"\0\0\0\0\x06\0\0\0\x01\0\0\x01\x2c\0\0\x08\0".to_vec()),
            2 | 3 => (0x8001, body),
            // As many bytes as an index's piece has.
            4 => (0x8002, {
                let mut piece = body;
                piece.resize(2048, 0);
                [&[0, 0, 8, 2, 8, 0][..], &piece, &[0, 0, 1, 0, 0]].concat()
            }),
            5 => (0x8002, body),
            _ => (0x8002, authorised),
        };
        let length = (10 + body.len() as u32).to_be_bytes();
        Ok([&tag.to_be_bytes()[..], &length, &[0; 4], &body].concat())
    }
}

fuzz_target!(|input: &[u8]| {
    let Ok(mut device) = NitroTpm::start(Scripted(input.to_vec())) else { return };
    for request in [
        Request::DescribePCR { index: 14 },
        Request::ExtendPCR { index: 14, data: vec![1; 48] },
        Request::LockPCR { index: 14 },
        Request::GetRandom,
        Request::Attestation { nonce: None, user_data: None, public_key: None },
        Request::Attestation { nonce: None, user_data: None, public_key: None },
    ] {
        let _ = device.process(request);
    }
});
