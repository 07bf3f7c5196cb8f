use std::collections::VecDeque;

use super::*;

/// Gives one response after the other, and an error when there is none left.
struct Scripted(VecDeque<Vec<u8>>);

impl Transport for Scripted {
    fn transact(&mut self, _command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.pop_front().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// The response to `GetCapability`: an NV buffer of so many bytes.
fn nv_buffer(length: u32) -> Vec<u8> {
    let fields = [PROPERTIES, 1, NV_BUFFER_MAX, length].map(u32::to_be_bytes).concat();
    message(NO_SESSIONS, 0, &[&[0], &fields])
}

/// A success without parameters, and a refusal.
fn done() -> Vec<u8> {
    message(SESSIONS, 0, &[&[0, 0, 0, 0], &[0, 0, 1, 0, 0]])
}

fn refused(code: u32) -> Vec<u8> {
    message(NO_SESSIONS, code, &[])
}

/// A TPM that has started, with these responses before it.
fn tpm(responses: &[Vec<u8>]) -> Tpm<Scripted> {
    let start = [nv_buffer(1024), refused(0x28b), done()];
    Tpm::start(Scripted(start.iter().chain(responses).cloned().collect())).unwrap()
}

#[test]
fn a_command_that_could_not_begin_is_repeated() {
    let random = message(NO_SESSIONS, 0, &[&sized(&[7; 8])]);
    for code in NOT_YET {
        let mut tpm = tpm(&[refused(code), refused(code), random.clone()]);
        assert_eq!(tpm.random(8).unwrap()[..], [7; 8]);
    }
    // Any other refusal is one.
    let error = tpm(&[refused(0x101), random]).random(8).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the TPM refused TPM2_GetRandom with the code 0x101 (TPM 2.0 Library, part 2, section 6.6)"
    );
}

#[test]
fn random_bytes_come_in_pieces_and_never_more_than_were_asked_for() {
    let piece = |length: usize| message(NO_SESSIONS, 0, &[&sized(&vec![1; length])]);
    assert_eq!(tpm(&[piece(32), piece(32), piece(6)]).random(70).unwrap().len(), 70);
    for nonsense in [piece(0), piece(71), refused(0), message(SESSIONS, 0, &[&sized(&[1; 8])])] {
        assert!(matches!(tpm(&[nonsense]).random(70), Err(TpmError::Nonsense { .. })));
    }
}

#[test]
fn a_register_is_the_one_that_was_asked_for() {
    let answer = |count: u8, algorithm: u8, bit: u8, values: &[&[u8]]| {
        let selection = [0, 0, 0, count, 0, algorithm, 3, 0, bit, 0];
        let number = u32::try_from(values.len()).unwrap().to_be_bytes();
        let values = values.concat();
        message(NO_SESSIONS, 0, &[&[0, 0, 0, 9], &selection, &number, &values])
    };
    let value = sized(&[5; 48]);
    let right = answer(1, 0x0c, 0x40, &[&value]);
    assert_eq!(tpm(std::slice::from_ref(&right)).register(14).unwrap(), Sha384Digest::from_bytes([5; 48]));
    for nonsense in [
        answer(1, 0x0b, 0x40, &[&value]),
        answer(1, 0x0c, 0x80, &[&value]),
        answer(2, 0x0c, 0x40, &[&value]),
        answer(1, 0x0c, 0x40, &[&sized(&[5; 32])]),
        answer(1, 0x0c, 0x40, &[&value, &value]),
        // What a TPM without that bank answers.
        answer(1, 0x0c, 0, &[]),
        [&right[..], &[0]].concat(),
        right[..right.len() - 1].to_vec(),
    ] {
        assert!(matches!(tpm(&[nonsense]).register(14), Err(TpmError::Nonsense { .. })));
    }
}

#[test]
fn the_pieces_of_a_request_are_as_long_as_the_tpm_takes_them() {
    for length in [0, 63] {
        let responses = VecDeque::from([nv_buffer(length)]);
        assert!(matches!(Tpm::start(Scripted(responses)), Err(TpmError::Nonsense { .. })), "{length}");
    }
    for (length, piece) in [(64, 64), (1024, 1024), (u32::MAX, 2048)] {
        let responses = VecDeque::from([nv_buffer(length), refused(0x28b), done()]);
        assert_eq!(Tpm::start(Scripted(responses)).unwrap().piece, piece);
    }
}

#[test]
fn a_request_that_does_not_fit_is_refused_before_the_tpm_is_asked() {
    let error = tpm(&[]).attest(&[0; 8193]).unwrap_err();
    assert_eq!(error.to_string(), "a request for a document has 8193 bytes, expected at most 8192");
    assert!(matches!(tpm(&[]).attest(&[0; 8192]), Err(TpmError::Unreachable(_))));
}

#[test]
fn a_definition_that_is_refused_ends_the_start() {
    // `TPM_RC_NV_DEFINED`: an index that its owner cannot take away.
    let responses = VecDeque::from([nv_buffer(1024), refused(0x149), refused(0x14c)]);
    let error = Tpm::start(Scripted(responses)).err().unwrap();
    assert!(matches!(error, TpmError::Refused { command: "TPM2_NV_DefineSpace", code: 0x14c }), "{error}");
}
