//! A TPM's commands, and a reader of its responses that takes nothing but what was asked for.

use std::io;
use std::thread;
use std::time::Duration;

use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_tpm::{
    ATTEST, ATTEST_INDEX_LENGTH, Fields, GET_CAPABILITY, GET_RANDOM, Message, NO_SESSIONS, NV_DEFINE_SPACE,
    NV_READ, NV_UNDEFINE_SPACE, NV_WRITE, PASSWORD_SESSION, PCR_EXTEND, PCR_READ, SESSIONS, SHA384, SHA512,
    message, sized,
};
use zeroize::Zeroizing;

use crate::transport::Transport;

/// Registers of a TPM.
pub(crate) const REGISTERS: u8 = 24;

/// The owner's hierarchy, whose password is empty on a new instance.
const OWNER: u32 = 0x4000_0001;
/// The index for requests and documents: one of the owner's range (TCG Registry of Reserved TPM 2.0 Handles, section 2.2).
const INDEX: u32 = 0x0180_c1ea;
/// `TPMA_NV_AUTHREAD` and `TPMA_NV_AUTHWRITE`: the index's password opens it, and nothing else.
const ATTRIBUTES: u32 = 0x0004_0004;
/// Length of the index's password, in bytes.
const PASSWORD_LENGTH: usize = 32;

/// `TPM_CAP_TPM_PROPERTIES`, and the property `TPM_PT_NV_BUFFER_MAX`.
const PROPERTIES: u32 = 6;
const NV_BUFFER_MAX: u32 = 0x12c;
/// The most bytes that one NV command may carry, so that it fits into a message, and the fewest that are worth asking.
const PIECE_MAX: u16 = 2048;
const PIECE_MIN: u16 = 64;

/// Codes of a TPM that could not begin yet: `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_NV_RATE`, `TPM_RC_RETRY`.
const NOT_YET: [u32; 4] = [0x908, 0x90a, 0x920, 0x922];
/// How often a command is repeated that could not begin, and the time between.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// What a TPM did instead of answering.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// It cannot be reached.
    #[error(
        "the TPM cannot be asked: {0}; this program runs on an instance with a NitroTPM, and nothing else may hold the TPM open"
    )]
    Unreachable(#[from] io::Error),
    /// It refused a command.
    #[error("the TPM refused {command} with the code {code:#05x} (TPM 2.0 Library, part 2, section 6.6)")]
    Refused {
        /// The command.
        command: &'static str,
        /// Its response code.
        code: u32,
    },
    /// It answered something else.
    #[error("expected the TPM to answer {command} with {expected}, got something else")]
    Nonsense {
        /// The command.
        command: &'static str,
        /// What was due.
        expected: &'static str,
    },
    /// A request for a document that is longer than its index.
    #[error("a request for a document has {actual} bytes, expected at most {ATTEST_INDEX_LENGTH}")]
    TooLong {
        /// Its length, bytes.
        actual: usize,
    },
    /// The cryptographic library gave no random bytes for a password.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

/// A command's code and its name for people.
#[derive(Clone, Copy)]
struct Command(u32, &'static str);

impl Command {
    const fn nonsense(self, expected: &'static str) -> TpmError {
        TpmError::Nonsense { command: self.1, expected }
    }
}

const DEFINE: Command = Command(NV_DEFINE_SPACE, "TPM2_NV_DefineSpace");
const UNDEFINE: Command = Command(NV_UNDEFINE_SPACE, "TPM2_NV_UndefineSpace");
const WRITE: Command = Command(NV_WRITE, "TPM2_NV_Write");
const READ: Command = Command(NV_READ, "TPM2_NV_Read");
const VENDOR: Command = Command(ATTEST, "AWS's vendor command 0x20000001");
const CAPABILITY: Command = Command(GET_CAPABILITY, "TPM2_GetCapability");
const RANDOM: Command = Command(GET_RANDOM, "TPM2_GetRandom");
const READ_REGISTER: Command = Command(PCR_READ, "TPM2_PCR_Read");
const EXTEND: Command = Command(PCR_EXTEND, "TPM2_PCR_Extend");

/// A TPM with an index for requests.
pub(crate) struct Tpm<T> {
    transport: T,
    /// The index's password. It is as old as this value.
    password: Zeroizing<[u8; PASSWORD_LENGTH]>,
    /// The most bytes that one NV command carries.
    piece: u16,
}

impl<T: Transport> Tpm<T> {
    /// Defines the index anew. What an earlier start left there is gone.
    pub(crate) fn start(transport: T) -> Result<Self, TpmError> {
        let mut password = Zeroizing::new([0; PASSWORD_LENGTH]);
        aws_lc_rs::rand::fill(password.as_mut()).map_err(|_| TpmError::NoRandomness)?;
        let mut this = Self { transport, password, piece: PIECE_MIN };
        this.piece = this.nv_buffer()?;
        match this.authorised(UNDEFINE, &[OWNER, INDEX], &[], &[]) {
            // There is none, or it is not ours to take away: then the definition is refused, with its own code.
            Ok(_) | Err(TpmError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        let public = [
            &INDEX.to_be_bytes()[..],
            &SHA512.to_be_bytes(),
            &ATTRIBUTES.to_be_bytes(),
            &sized(&[]),
            &ATTEST_INDEX_LENGTH.to_be_bytes(),
        ]
        .concat();
        let parameters = Zeroizing::new([sized(this.password.as_ref()), sized(&public)].concat());
        this.authorised(DEFINE, &[OWNER], &[], &parameters)?;
        Ok(this)
    }

    /// Passes a request on to AWS's vendor command. Gives the whole index, whose beginning is the answer.
    pub(crate) fn attest(&mut self, request: &[u8]) -> Result<Vec<u8>, TpmError> {
        if request.len() > usize::from(ATTEST_INDEX_LENGTH) {
            return Err(TpmError::TooLong { actual: request.len() });
        }
        let mut offset: u16 = 0;
        for piece in request.chunks(usize::from(self.piece)) {
            self.on_index(WRITE, &[&sized(piece)[..], &offset.to_be_bytes()].concat())?;
            offset = offset.saturating_add(self.piece);
        }
        self.on_index(VENDOR, &[])?;
        let mut answer = Vec::with_capacity(usize::from(ATTEST_INDEX_LENGTH));
        let mut offset: u16 = 0;
        while offset < ATTEST_INDEX_LENGTH {
            let length = self.piece.min(ATTEST_INDEX_LENGTH - offset);
            let parameters = [length.to_be_bytes(), offset.to_be_bytes()].concat();
            let response = self.on_index(READ, &parameters)?;
            let piece =
                whole(&response, |fields| fields.sized().filter(|piece| piece.len() == usize::from(length)));
            answer.extend_from_slice(piece.ok_or(READ.nonsense("as many bytes as were asked for"))?);
            offset = offset.saturating_add(length);
        }
        Ok(answer)
    }

    /// The value of a register of the SHA-384 bank.
    pub(crate) fn register(&mut self, index: u8) -> Result<Sha384Digest, TpmError> {
        let [first, second, third, _] = 1_u32.checked_shl(u32::from(index)).unwrap_or(0).to_le_bytes();
        let [high, low] = SHA384.to_be_bytes();
        let selection = [0, 0, 0, 1, high, low, 3, first, second, third];
        let body = self.plain(READ_REGISTER, &selection)?;
        let value = whole(&body, |fields| {
            fields.u32()?;
            (fields.bytes(selection.len())? == selection && fields.u32()? == 1).then_some(())?;
            fields.sized()
        });
        let value = value.and_then(|value| Sha384Digest::try_from(value).ok());
        value.ok_or(READ_REGISTER.nonsense("the register that was asked for, of the SHA-384 bank"))
    }

    /// Extends a register of the SHA-384 bank.
    pub(crate) fn extend(&mut self, index: u8, data: &Sha384Digest) -> Result<(), TpmError> {
        let digests = [&[0, 0, 0, 1][..], &SHA384.to_be_bytes(), data.as_bytes()].concat();
        self.authorised(EXTEND, &[u32::from(index)], &[], &digests).map(|_| ())
    }

    /// So many random bytes.
    pub(crate) fn random(&mut self, length: usize) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let mut random = Zeroizing::new(Vec::with_capacity(length));
        while let Some(missing) = length.checked_sub(random.len()).filter(|missing| *missing > 0) {
            // It gives at most as many as its longest digest has, and at least one.
            let wanted = u16::try_from(missing).unwrap_or(u16::MAX);
            let body = Zeroizing::new(self.plain(RANDOM, &wanted.to_be_bytes())?);
            let some = whole(&body, Fields::sized);
            let some = some.filter(|some| (1..=missing).contains(&some.len()));
            random.extend_from_slice(some.ok_or(RANDOM.nonsense("at most as many bytes as were asked for"))?);
        }
        Ok(random)
    }

    /// How many bytes one NV command carries.
    fn nv_buffer(&mut self) -> Result<u16, TpmError> {
        let question = [PROPERTIES, NV_BUFFER_MAX, 1].map(u32::to_be_bytes).concat();
        let body = self.plain(CAPABILITY, &question)?;
        let value = whole(&body, |fields| {
            // Whether there are more properties, and which ones these are.
            fields.u8()?;
            (fields.u32()? == PROPERTIES && fields.u32()? == 1 && fields.u32()? == NV_BUFFER_MAX)
                .then_some(())?;
            fields.u32()
        });
        let value = value.filter(|value| *value >= u32::from(PIECE_MIN));
        let value = value.ok_or(CAPABILITY.nonsense("the length of its NV buffer, 64 bytes or more"))?;
        Ok(u16::try_from(value).map_or(PIECE_MAX, |value| value.min(PIECE_MAX)))
    }

    /// A command on the index, authorised by its password.
    fn on_index(&mut self, command: Command, parameters: &[u8]) -> Result<Vec<u8>, TpmError> {
        let password = self.password.clone();
        self.authorised(command, &[INDEX, INDEX], password.as_ref(), parameters)
    }

    /// A command that nothing authorises. Gives the response's parameters.
    fn plain(&mut self, command: Command, parameters: &[u8]) -> Result<Vec<u8>, TpmError> {
        let response = self.transact(command, &message(NO_SESSIONS, command.0, &[parameters]))?;
        match Message::parse(&response) {
            Some(response) if response.tag == NO_SESSIONS => Ok(response.body.to_vec()),
            _ => Err(command.nonsense("one whole response without an authorisation area")),
        }
    }

    /// A command with these handles, authorised by a password. Gives the response's parameters.
    fn authorised(
        &mut self,
        command: Command,
        handles: &[u32],
        password: &[u8],
        parameters: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let handles: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        // No nonce; the session continues, as every one of a password does.
        let session = [&PASSWORD_SESSION.to_be_bytes()[..], &sized(&[]), &[1], &sized(password)].concat();
        let session = Zeroizing::new(session);
        let length = u32::try_from(session.len()).unwrap_or(u32::MAX).to_be_bytes();
        let bytes = message(SESSIONS, command.0, &[&handles, &length, &session, parameters]);
        let response = self.transact(command, &Zeroizing::new(bytes))?;
        let nonsense = command.nonsense("one whole response with the authorisation area of a password");
        let Some(response) = Message::parse(&response).filter(|response| response.tag == SESSIONS) else {
            return Err(nonsense);
        };
        let parameters = whole(response.body, |fields| {
            let length = usize::try_from(fields.u32()?).ok()?;
            let parameters = fields.bytes(length)?;
            // No nonce and no HMAC, whatever the attributes are.
            let (nonce, _, hmac) = (fields.sized()?, fields.u8()?, fields.sized()?);
            (nonce.is_empty() && hmac.is_empty()).then_some(parameters)
        });
        parameters.map(<[u8]>::to_vec).ok_or(nonsense)
    }

    /// Sends a command until the TPM can begin with it. Gives a response that is no refusal.
    fn transact(&mut self, command: Command, bytes: &[u8]) -> Result<Vec<u8>, TpmError> {
        for attempt in 1.. {
            let response = self.transport.transact(bytes)?;
            match Message::parse(&response) {
                Some(Message { code: 0, .. }) => return Ok(response),
                // A refusal is a header alone.
                Some(Message { tag: NO_SESSIONS, code, body: [] }) => {
                    if !NOT_YET.contains(&code) || attempt == ATTEMPTS {
                        return Err(TpmError::Refused { command: command.1, code });
                    }
                    thread::sleep(PAUSE);
                }
                _ => return Err(command.nonsense("one whole response")),
            }
        }
        Err(command.nonsense("one whole response"))
    }
}

/// What `read` takes from the bytes, when nothing is left then.
fn whole<'a, R>(bytes: &'a [u8], read: impl FnOnce(&mut Fields<'a>) -> Option<R>) -> Option<R> {
    let mut fields = Fields(bytes);
    let result = read(&mut fields)?;
    fields.end()?;
    Some(result)
}

#[cfg(test)]
mod tests;
