//! Small inputs that pass every check.

use super::build::{ApplicationInput, Input, Inputs};
use cleanroom_attestation::time::Timestamp;
use cleanroom_forge::boot_image::{Executable, field};

/// 2026-01-01T00:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_767_225_600);

/// Bytes that look like a bzImage of version 6.12.
pub(crate) fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 0x300];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x80_u16.to_le_bytes());
    kernel[0x280..0x29c].copy_from_slice(b"6.12.1-test (a@b) #1 SMP now");
    kernel
}

/// An ELF file with one program header of this type, and `contents`.
pub(crate) fn program(header: u8, contents: &[u8]) -> Vec<u8> {
    let mut program = vec![0; 64];
    program[..6].copy_from_slice(b"\x7fELF\x02\x01");
    program[18] = 62;
    program[32] = 64;
    program[54] = 56;
    program[56] = 1;
    program.push(header);
    program.resize(120, 0);
    program.extend_from_slice(contents);
    program
}

pub(crate) fn input(contents: impl Into<Vec<u8>>) -> Input {
    Input { name: "file".to_owned(), contents: contents.into() }
}

pub(crate) fn file(path: &str, contents: impl Into<Vec<u8>>) -> ApplicationInput {
    let executable = path == "/app/enclave";
    ApplicationInput { path: path.parse().unwrap(), executable, input: input(contents) }
}

pub(crate) fn inputs() -> Inputs {
    Inputs {
        kernel: input(kernel()),
        init: input(program(1, b"init")),
        application: vec![
            file("/app/root.json", "{}"),
            file("/app/enclave.toml", "x = 1\n"),
            file("/app/enclave", program(1, b"enclave")),
        ],
        name: "test".to_owned(),
        version: "1".to_owned(),
        time: Timestamp::from_seconds(0),
    }
}

/// A stub as systemd's: a version, room in its headers, and symbols behind its sections.
pub(crate) fn stub(version: &str) -> Vec<u8> {
    let magic = format!("#### LoaderInfo: systemd-stub {version} ####\0");
    let others = [".text", ".reloc", ".data", ".sbat"].map(|name| (name, &b"stub"[..]));
    let sections: Vec<_> = others.into_iter().chain([(".sdmagic", magic.as_bytes())]).collect();
    let mut stub = Executable::new(&sections).bytes();
    let symbols = u32::try_from(stub.len()).unwrap().to_le_bytes();
    stub[field::SYMBOLS..field::SYMBOLS + 4].copy_from_slice(&symbols);
    stub.extend_from_slice(b"symbols");
    stub
}
