//! Commands and responses of a TPM 2.0 as bytes (TCG Trusted Platform Module Library, part 1, section 18, and part 3).
//!
//! An instance asks its TPM with them, and the software TPM of the development tiers reads them. What is in a command is the
//! affair of those two; this crate has the frame, and readers that never read over an end.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

use std::io::{self, Read};

/// Tag of commands and responses without an authorisation area.
pub const NO_SESSIONS: u16 = 0x8001;
/// Tag of commands and responses with an authorisation area.
pub const SESSIONS: u16 = 0x8002;
/// Length of a command's or a response's header: tag, length, code.
pub const HEADER_LENGTH: usize = 10;
/// The longest command or response, in bytes: as long as swtpm's and the Linux kernel's.
pub const MESSAGE_MAX: usize = 4096;
/// The handle of an authorisation by password (`TPM_RS_PW`).
pub const PASSWORD_SESSION: u32 = 0x4000_0009;

/// `TPM2_NV_UndefineSpaceSpecial`.
pub const NV_UNDEFINE_SPACE_SPECIAL: u32 = 0x11f;
/// `TPM2_NV_UndefineSpace`.
pub const NV_UNDEFINE_SPACE: u32 = 0x122;
/// `TPM2_Clear`.
pub const CLEAR: u32 = 0x126;
/// `TPM2_NV_DefineSpace`.
pub const NV_DEFINE_SPACE: u32 = 0x12a;
/// `TPM2_NV_Write`.
pub const NV_WRITE: u32 = 0x137;
/// `TPM2_Startup`.
pub const STARTUP: u32 = 0x144;
/// `TPM2_NV_Read`.
pub const NV_READ: u32 = 0x14e;
/// `TPM2_NV_ReadPublic`.
pub const NV_READ_PUBLIC: u32 = 0x169;
/// `TPM2_GetCapability`.
pub const GET_CAPABILITY: u32 = 0x17a;
/// `TPM2_GetRandom`.
pub const GET_RANDOM: u32 = 0x17b;
/// `TPM2_PCR_Read`.
pub const PCR_READ: u32 = 0x17e;
/// `TPM2_PCR_Extend`.
pub const PCR_EXTEND: u32 = 0x182;
/// The vendor command of AWS's `NitroTPM`, which answers a request for an attestation document
/// (<https://github.com/aws/NitroTPM-Tools>).
pub const ATTEST: u32 = 0x2000_0001;

/// `TPM_ALG_SHA256`.
pub const SHA256: u16 = 0x0b;
/// `TPM_ALG_SHA384`.
pub const SHA384: u16 = 0x0c;
/// `TPM_ALG_SHA512`.
pub const SHA512: u16 = 0x0d;

/// The length of the NV index in which AWS's vendor command finds its request and leaves its answer, in bytes.
pub const ATTEST_INDEX_LENGTH: u16 = 8192;

/// Takes big-endian fields off the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// So many bytes. `None`, here and below, when fewer are left.
    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// A `UINT8`.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// A `UINT16`.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A `UINT32`.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A `TPM2B`: a length of two bytes, and as many bytes.
    pub fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    /// Nothing, when nothing is left.
    #[must_use]
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A command or a response: its header, and what follows.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// [`NO_SESSIONS`], [`SESSIONS`], or another one.
    pub tag: u16,
    /// A command's code, or a response's.
    pub code: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// `None` when the bytes are not one whole message.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (tag, length, code) = (fields.u16()?, fields.u32()?, fields.u32()?);
        (usize::try_from(length).ok()? == bytes.len()).then_some(Self { tag, code, body: fields.0 })
    }
}

/// The message with this tag, code and body.
#[must_use]
pub fn message(tag: u16, code: u32, parts: &[&[u8]]) -> Vec<u8> {
    let body: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(HEADER_LENGTH + body).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER_LENGTH + body);
    message.extend_from_slice(&tag.to_be_bytes());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&code.to_be_bytes());
    parts.iter().for_each(|part| message.extend_from_slice(part));
    message
}

/// A `TPM2B`. Its callers have at most 65 535 bytes.
#[must_use]
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// One message from a stream.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when it announces another length than [`HEADER_LENGTH`] to [`MESSAGE_MAX`]; what the
/// stream's own errors are.
pub fn read_message(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER_LENGTH];
    stream.read_exact(&mut header)?;
    let mut fields = Fields(&header);
    let announced = fields.u16().and_then(|_| usize::try_from(fields.u32()?).ok());
    let length = announced.filter(|length| (HEADER_LENGTH..=MESSAGE_MAX).contains(length));
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    let mut message = header.to_vec();
    message.resize(length, 0);
    stream.read_exact(message.get_mut(HEADER_LENGTH..).unwrap_or_default())?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_or_none() {
        let bytes = message(NO_SESSIONS, GET_RANDOM, &[&[0, 8]]);
        let parsed = Message::parse(&bytes).unwrap();
        assert_eq!((parsed.tag, parsed.code, parsed.body), (NO_SESSIONS, GET_RANDOM, &[0, 8][..]));
        for end in 0..bytes.len() {
            assert!(Message::parse(&bytes[..end]).is_none(), "{end}");
        }
        assert!(Message::parse(&[&bytes[..], &[0]].concat()).is_none());
    }

    #[test]
    fn a_stream_gives_messages_one_by_one_and_none_that_is_too_long() {
        let bytes = message(NO_SESSIONS, GET_RANDOM, &[&[0, 8]]);
        let twice = [&bytes[..], &bytes].concat();
        let mut stream = &twice[..];
        assert_eq!(read_message(&mut stream).unwrap(), bytes);
        assert_eq!(read_message(&mut stream).unwrap(), bytes);
        assert!(read_message(&mut stream).is_err());
        for length in [0_u32, 9, 4097, u32::MAX] {
            let header = [&[0x80, 1][..], &length.to_be_bytes(), &[0; 4], &[0; 8192]].concat();
            assert_eq!(read_message(&mut &header[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn fields_end_where_their_bytes_end() {
        let bytes = [1, 0, 2, 0, 0, 0, 3, 0, 2, 8, 9];
        let mut fields = Fields(&bytes);
        assert_eq!((fields.u8(), fields.u16(), fields.u32()), (Some(1), Some(2), Some(3)));
        assert_eq!(fields.sized(), Some(&[8, 9][..]));
        assert_eq!((fields.u8(), fields.end()), (None, Some(())));
        assert_eq!(Fields(&[0, 3, 1, 2]).sized(), None);
    }
}
