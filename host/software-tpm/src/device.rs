//! The TPM commands that the front changes.

use std::collections::BTreeMap;
use std::io;

use aws_lc_rs::digest;
use cleanroom_software_nsm::{TPM_REGISTERS, TpmAttester, TpmRegisters};
use cleanroom_tpm::{
    ATTEST, ATTEST_INDEX_LENGTH, CLEAR, Fields, Message, NO_SESSIONS, NV_DEFINE_SPACE, NV_READ,
    NV_READ_PUBLIC, NV_UNDEFINE_SPACE, NV_UNDEFINE_SPACE_SPECIAL, NV_WRITE, PCR_READ, SESSIONS, SHA256,
    SHA384, SHA512, message, sized,
};

use crate::wire::{Authorised, authorised, refusal};

/// The longest NV index, in bytes: as long as AWS's programs define one.
pub const INDEX_MAX: usize = ATTEST_INDEX_LENGTH as usize;
/// The most bytes that one NV command carries (`TPM_PT_NV_BUFFER_MAX` of libtpms).
pub const NV_BUFFER_MAX: usize = 1024;

/// `TPM_RC_AUTH_TYPE`: the command is not authorised by one password.
pub const AUTH_TYPE: u32 = 0x124;
/// `TPM_RC_NV_RANGE`: reading or writing over the end of an index.
pub const NV_RANGE: u32 = 0x146;
/// `TPM_RC_HANDLE` for the second handle: not an index of the length that the vendor command needs.
pub const NOT_LARGE: u32 = 0x28b;
/// `TPM_RC_FAILURE`: swtpm answered something that a TPM does not answer.
pub const FAILURE: u32 = 0x101;
/// `TPM_RC_INSUFFICIENT`: the command is cut off.
pub const INSUFFICIENT: u32 = 0x09a;

/// The longest index of swtpm, in bytes. Longer ones are virtual.
const REAL_INDEX_MAX: usize = 2048;
/// How long swtpm's index is that stands for a large one.
const STAND_IN: u16 = 1;

/// Bits of an index's attributes that say of which kind it is; zero for plain data.
const KIND: u32 = 0xf0;

/// What takes TPM commands: swtpm, over its data channel.
pub trait Emulator {
    /// One command, one response.
    ///
    /// # Errors
    /// When there is no response.
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

/// A TPM with AWS's vendor command.
pub struct Device<E> {
    emulator: E,
    attester: TpmAttester,
    /// The contents of the large indexes, by handle.
    indexes: BTreeMap<u32, Vec<u8>>,
}

impl<E: Emulator> Device<E> {
    /// A device that signs with `attester` what the registers of `emulator` are.
    pub const fn new(emulator: E, attester: TpmAttester) -> Self {
        Self { emulator, attester, indexes: BTreeMap::new() }
    }

    /// Answers one command. `now_ms`, milliseconds since the Unix epoch, goes into documents.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub fn process(&mut self, command: &[u8], now_ms: u64) -> io::Result<Vec<u8>> {
        let Some(parsed) = Message::parse(command) else { return self.emulator.transact(command) };
        match parsed.code {
            NV_DEFINE_SPACE => self.define(command, parsed),
            NV_WRITE => self.write(command, parsed),
            NV_READ => self.read(command, parsed),
            NV_READ_PUBLIC => self.read_public(command, parsed),
            // The index is the second handle of the first one, and the first of the other.
            NV_UNDEFINE_SPACE => self.forget(command, parsed, 4),
            NV_UNDEFINE_SPACE_SPECIAL => self.forget(command, parsed, 0),
            CLEAR => {
                let response = self.emulator.transact(command)?;
                if succeeded(&response) {
                    self.indexes.clear();
                }
                Ok(response)
            }
            ATTEST => self.attest(parsed, now_ms),
            _ => self.emulator.transact(command),
        }
    }

    /// Defines an index. For a large one, swtpm gets one that stands for it.
    fn define(&mut self, command: &[u8], parsed: Message<'_>) -> io::Result<Vec<u8>> {
        let defined =
            Authorised::<1>::parse(parsed).and_then(|command| Some((Definition::parse(&command)?, command)));
        let Some((definition, authorisation)) = defined else { return self.emulator.transact(command) };
        let length = usize::from(definition.length);
        if !(REAL_INDEX_MAX + 1..=INDEX_MAX).contains(&length) || definition.attributes & KIND != 0 {
            return self.emulator.transact(command);
        }
        if !authorisation.by_password {
            return Ok(refusal(AUTH_TYPE));
        }
        let [hierarchy] = authorisation.handles;
        let stand_in = STAND_IN.to_be_bytes();
        let parameters = [definition.before_length, &stand_in].concat();
        let changed =
            message(SESSIONS, NV_DEFINE_SPACE, &[&hierarchy.to_be_bytes(), authorisation.area, &parameters]);
        let response = self.emulator.transact(&changed)?;
        if succeeded(&response) {
            self.indexes.insert(definition.index, vec![0; length]);
        }
        Ok(response)
    }

    fn write(&mut self, command: &[u8], parsed: Message<'_>) -> io::Result<Vec<u8>> {
        let Some((authorisation, length)) = self.large(parsed) else {
            return self.emulator.transact(command);
        };
        if !authorisation.by_password {
            return Ok(refusal(AUTH_TYPE));
        }
        let mut fields = Fields(authorisation.parameters);
        let written = fields.sized().and_then(|data| Some((data, usize::from(fields.u16()?))));
        let Some((data, offset)) = written.filter(|_| fields.0.is_empty()) else {
            return Ok(refusal(INSUFFICIENT));
        };
        if data.len() > NV_BUFFER_MAX || offset + data.len() > length {
            return Ok(refusal(NV_RANGE));
        }
        // One byte at offset 0.
        let response = self.authorise(&authorisation, NV_WRITE, &[0, 1, 0, 0, 0])?;
        if succeeded(&response) {
            let [_, index] = authorisation.handles;
            let place =
                self.indexes.get_mut(&index).and_then(|index| index.get_mut(offset..offset + data.len()));
            if let Some(place) = place {
                place.copy_from_slice(data);
            }
        }
        Ok(response)
    }

    fn read(&mut self, command: &[u8], parsed: Message<'_>) -> io::Result<Vec<u8>> {
        let Some((authorisation, _)) = self.large(parsed) else { return self.emulator.transact(command) };
        if !authorisation.by_password {
            return Ok(refusal(AUTH_TYPE));
        }
        let mut fields = Fields(authorisation.parameters);
        let wanted = fields.u16().and_then(|length| Some((usize::from(length), usize::from(fields.u16()?))));
        let Some((length, offset)) = wanted.filter(|_| fields.0.is_empty()) else {
            return Ok(refusal(INSUFFICIENT));
        };
        let [_, index] = authorisation.handles;
        let contents = self.indexes.get(&index).and_then(|index| index.get(offset..offset + length));
        let Some(contents) = contents.filter(|_| length <= NV_BUFFER_MAX).map(sized) else {
            return Ok(refusal(NV_RANGE));
        };
        let response = self.authorise(&authorisation, NV_READ, &READ_STAND_IN)?;
        Ok(if succeeded(&response) { authorised(&contents) } else { response })
    }

    /// The public area of an index, with the length that its caller gave it.
    fn read_public(&mut self, command: &[u8], parsed: Message<'_>) -> io::Result<Vec<u8>> {
        let response = self.emulator.transact(command)?;
        let length = Fields(parsed.body).u32().and_then(|index| self.indexes.get(&index)).map(Vec::len);
        let (Some(length), NO_SESSIONS) = (length, parsed.tag) else { return Ok(response) };
        if !succeeded(&response) {
            return Ok(response);
        }
        Ok(public_of_length(&response, length).unwrap_or_else(|| refusal(FAILURE)))
    }

    /// Passes a command on that takes an index away; its handle is at `place` in the command's body.
    fn forget(&mut self, command: &[u8], parsed: Message<'_>, place: usize) -> io::Result<Vec<u8>> {
        let response = self.emulator.transact(command)?;
        let index = parsed.body.get(place..).and_then(|rest| Fields(rest).u32());
        if let (Some(index), true) = (index, succeeded(&response)) {
            self.indexes.remove(&index);
        }
        Ok(response)
    }

    /// AWS's vendor command: the request in the index gives way to its answer.
    fn attest(&mut self, parsed: Message<'_>, now_ms: u64) -> io::Result<Vec<u8>> {
        let Some(authorisation) = Authorised::<2>::parse(parsed) else { return Ok(refusal(AUTH_TYPE)) };
        let [_, index] = authorisation.handles;
        let Some(request) = self.indexes.get(&index) else { return Ok(refusal(NOT_LARGE)) };
        if !authorisation.by_password {
            return Ok(refusal(AUTH_TYPE));
        }
        if !authorisation.parameters.is_empty() {
            return Ok(refusal(INSUFFICIENT));
        }
        let (request, length) = (request.clone(), request.len());
        let response = self.authorise(&authorisation, NV_READ, &READ_STAND_IN)?;
        if !succeeded(&response) {
            return Ok(response);
        }
        let Some(registers) = self.registers()? else { return Ok(refusal(FAILURE)) };
        let mut answer = self.attester.process_within(&request, &registers, now_ms, length);
        answer.resize(length, 0);
        self.indexes.insert(index, answer);
        Ok(authorised(&[]))
    }

    /// A command on a large index, and that index's length. Whatever else it is, swtpm judges it.
    fn large<'a>(&self, command: Message<'a>) -> Option<(Authorised<'a, 2>, usize)> {
        let authorisation = Authorised::<2>::parse(command)?;
        let [_, index] = authorisation.handles;
        let length = self.indexes.get(&index)?.len();
        Some((authorisation, length))
    }

    /// Does the command on the stand-in, with the caller's own handles and authorisation.
    fn authorise(
        &mut self,
        authorisation: &Authorised<'_, 2>,
        code: u32,
        parameters: &[u8],
    ) -> io::Result<Vec<u8>> {
        let [by, index] = authorisation.handles.map(u32::to_be_bytes);
        self.emulator.transact(&message(SESSIONS, code, &[&by, &index, authorisation.area, parameters]))
    }

    /// The registers of the SHA-384 bank, all of them. `None` when swtpm does not have that bank.
    fn registers(&mut self) -> io::Result<Option<TpmRegisters>> {
        let mut registers: [Option<[u8; 48]>; TPM_REGISTERS] = [None; TPM_REGISTERS];
        // A TPM gives at most eight at a time, so three questions are enough.
        for _ in 0..TPM_REGISTERS {
            let missing = registers.iter().zip(0_u32..).filter(|(value, _)| value.is_none());
            let wanted = missing.fold(0_u32, |wanted, (_, index)| wanted | 1 << index);
            if wanted == 0 {
                break;
            }
            let [first, second, third, _] = wanted.to_le_bytes();
            let selection = [0, 0, 0, 1, 0, 0x0c, 3, first, second, third];
            let response = self.emulator.transact(&message(NO_SESSIONS, PCR_READ, &[&selection]))?;
            if read_registers(&response, &mut registers).is_none() {
                return Ok(None);
            }
        }
        let mut all = [[0; 48]; TPM_REGISTERS];
        for (value, read) in all.iter_mut().zip(registers) {
            let Some(read) = read else { return Ok(None) };
            *value = read;
        }
        Ok(Some(all))
    }
}

/// One byte from offset 0.
const READ_STAND_IN: [u8; 4] = [0, 1, 0, 0];

/// What a command defines an index as.
struct Definition<'a> {
    index: u32,
    attributes: u32,
    length: u16,
    /// The command's parameters without the length, which is their end.
    before_length: &'a [u8],
}

impl<'a> Definition<'a> {
    fn parse(command: &Authorised<'a, 1>) -> Option<Self> {
        let mut fields = Fields(command.parameters);
        fields.sized()?;
        let mut public = Fields(fields.sized()?);
        fields.end()?;
        let (index, _, attributes) = (public.u32()?, public.u16()?, public.u32()?);
        public.sized()?;
        let length = public.u16()?;
        public.end()?;
        let before_length = command.parameters.get(..command.parameters.len().checked_sub(2)?)?;
        Some(Self { index, attributes, length, before_length })
    }
}

fn succeeded(response: &[u8]) -> bool {
    Message::parse(response).is_some_and(|response| response.code == 0)
}

/// The response to `NV_ReadPublic` with another length, and with the name that belongs to it.
fn public_of_length(response: &[u8], length: usize) -> Option<Vec<u8>> {
    let response = Message::parse(response)?;
    let mut fields = Fields(response.body);
    let public = fields.sized()?;
    let algorithm = {
        let mut public = Fields(public);
        public.u32()?;
        public.u16()?
    };
    let length = u16::try_from(length).ok()?.to_be_bytes();
    let public = [public.get(..public.len().checked_sub(2)?)?, &length].concat();
    let digest = match algorithm {
        SHA256 => &digest::SHA256,
        SHA384 => &digest::SHA384,
        SHA512 => &digest::SHA512,
        _ => return None,
    };
    let name = [&algorithm.to_be_bytes(), digest::digest(digest, &public).as_ref()].concat();
    Some(message(NO_SESSIONS, 0, &[&sized(&public), &sized(&name)]))
}

/// Takes the registers out of a response to `PCR_Read`. `None` when it has none of them.
fn read_registers(response: &[u8], registers: &mut [Option<[u8; 48]>; TPM_REGISTERS]) -> Option<()> {
    let response = Message::parse(response).filter(|response| response.code == 0)?;
    let mut fields = Fields(response.body);
    fields.u32()?;
    (fields.u32()? == 1 && fields.u16()? == SHA384 && fields.u8()? == 3).then_some(())?;
    let mut selected = [0; 4];
    selected.get_mut(..3)?.copy_from_slice(fields.bytes(3)?);
    let selected = u32::from_le_bytes(selected);
    (fields.u32()? == selected.count_ones() && selected != 0).then_some(())?;
    for (register, index) in registers.iter_mut().zip(0_u32..) {
        if selected & 1 << index != 0 {
            *register = Some(fields.sized()?.try_into().ok()?);
        }
    }
    fields.end()
}
