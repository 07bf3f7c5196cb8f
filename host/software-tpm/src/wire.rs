//! What the front reads of a command, and writes of a response, beyond their frame.

use cleanroom_tpm::{Fields, Message, NO_SESSIONS, PASSWORD_SESSION, SESSIONS, message};

/// A response that is nothing but its code.
pub(crate) fn refusal(code: u32) -> Vec<u8> {
    message(NO_SESSIONS, code, &[])
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
