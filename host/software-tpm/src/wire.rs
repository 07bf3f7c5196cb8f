//! Commands and responses of a TPM 2.0 (TCG Trusted Platform Module Library, part 1, section 18, and part 3).

/// Tag of commands and responses without and with an authorisation area.
pub(crate) const NO_SESSIONS: u16 = 0x8001;
pub(crate) const SESSIONS: u16 = 0x8002;
/// Length of a command's or a response's header: tag, length, code.
pub(crate) const HEADER_LENGTH: usize = 10;
/// The handle of an authorisation by password (`TPM_RS_PW`).
const PASSWORD_SESSION: u32 = 0x4000_0009;

/// Takes big-endian fields off the front of a slice.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A `TPM2B`: a length of two bytes, and as many bytes.
    pub(crate) fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    /// Nothing, when nothing is left.
    pub(crate) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A command or a response: its header, and what follows.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) tag: u16,
    /// A command's code, or a response's.
    pub(crate) code: u32,
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// `None` when the bytes are not one whole message.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (tag, length, code) = (fields.u16()?, fields.u32()?, fields.u32()?);
        (usize::try_from(length).ok()? == bytes.len()).then_some(Self { tag, code, body: fields.0 })
    }
}

/// The length of a whole message, as its header announces it.
pub(crate) fn announced(header: &[u8; HEADER_LENGTH]) -> Option<usize> {
    let mut fields = Fields(header);
    fields.u16()?;
    usize::try_from(fields.u32()?).ok()
}

/// The message with this tag, code and body.
pub(crate) fn message(tag: u16, code: u32, parts: &[&[u8]]) -> Vec<u8> {
    let body: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(HEADER_LENGTH + body).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER_LENGTH + body);
    message.extend_from_slice(&tag.to_be_bytes());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&code.to_be_bytes());
    parts.iter().for_each(|part| message.extend_from_slice(part));
    message
}

/// A response that is nothing but its code.
pub(crate) fn refusal(code: u32) -> Vec<u8> {
    message(NO_SESSIONS, code, &[])
}

/// A `TPM2B`. Its callers have at most 65 535 bytes.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// The response to a command that was authorised by a password.
pub(crate) fn authorised(parameters: &[u8]) -> Vec<u8> {
    let length = u32::try_from(parameters.len()).unwrap_or(u32::MAX);
    // No nonce, the session continues, no HMAC.
    message(SESSIONS, 0, &[&length.to_be_bytes(), parameters, &[0, 0, 1, 0, 0]])
}

/// A command's handles, its authorisation area as it came, and its parameters.
pub(crate) struct Authorised<'a, const HANDLES: usize> {
    pub(crate) handles: [u32; HANDLES],
    /// With its length in front.
    pub(crate) area: &'a [u8],
    /// Whether the area is one password.
    pub(crate) by_password: bool,
    pub(crate) parameters: &'a [u8],
}

impl<'a, const HANDLES: usize> Authorised<'a, HANDLES> {
    /// `None` when the command has no authorisation area, or is cut off.
    pub(crate) fn parse(command: Message<'a>) -> Option<Self> {
        if command.tag != SESSIONS {
            return None;
        }
        let mut fields = Fields(command.body);
        let mut handles = [0; HANDLES];
        for handle in &mut handles {
            *handle = fields.u32()?;
        }
        let start = fields.0;
        let length = usize::try_from(fields.u32()?).ok()?;
        let sessions = fields.bytes(length)?;
        let area = start.get(..length + 4)?;
        Some(Self { handles, area, by_password: is_password(sessions).is_some(), parameters: fields.0 })
    }
}

/// Something, when the authorisations are exactly one password.
fn is_password(sessions: &[u8]) -> Option<()> {
    let mut fields = Fields(sessions);
    (fields.u32()? == PASSWORD_SESSION).then_some(())?;
    fields.sized()?;
    fields.u8()?;
    fields.sized()?;
    fields.end()
}
