//! `CiphertextForRecipient`: a CMS message of the type enveloped-data (RFC 5652, section 6) for one recipient, in BER.
//!
//! KMS writes indefinite lengths, and the encrypted content in pieces. Readers of DER refuse both: the crate
//! `cms` cannot read an answer of KMS. `rasn-cms` can, with a whole ASN.1 compiler's runtime beneath it. This
//! reader takes the one message that KMS writes, in either form of lengths, and nothing else.
//!
//! ```text
//! SEQUENCE { OID enveloped-data, [0] {
//!   SEQUENCE { INTEGER 2,
//!     SET { SEQUENCE { INTEGER 2, [0] key identifier, SEQUENCE { OID RSAES-OAEP, … }, OCTET STRING encrypted key } },
//!     SEQUENCE { OID data, SEQUENCE { OID AES-256-CBC, OCTET STRING vector }, [0] { OCTET STRING … } or [0] octets } } } }
//! ```

/// The longest message, in bytes. One with a share has less than 600.
pub const ENVELOPE_LIMIT: usize = 8 << 10;
/// The longest encrypted content, in bytes. A share's has 48.
pub const CONTENT_LIMIT: usize = 1 << 10;

/// The length of an encrypted key in bytes: the recipient's RSA key has 2048 bits.
const KEY_BYTES: usize = 256;
/// The length of an initialisation vector in bytes.
const VECTOR_BYTES: usize = 16;

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, of one piece.
const CONTEXT_0: u8 = 0x80;
/// `[0]`, made of other elements.
const CONTEXT_0_CONSTRUCTED: u8 = 0xa0;

/// The length byte of an element whose end is marked.
const INDEFINITE: u8 = 0x80;

/// 1.2.840.113549.1.7.3
const ENVELOPED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03";
/// 1.2.840.113549.1.7.1
const DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
/// 1.2.840.113549.1.1.7
const RSAES_OAEP: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07";
/// 2.16.840.1.101.3.4.1.42
const AES_256_CBC: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x01\x2a";

/// What an enclave needs of a message. All of it is ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The key of the content, encrypted to the recipient.
    pub encrypted_key: [u8; KEY_BYTES],
    /// The initialisation vector of the content.
    pub initialisation_vector: [u8; VECTOR_BYTES],
    /// The content, encrypted.
    pub content: Vec<u8>,
}

/// Why bytes are not the message that KMS writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Too long; nothing of it was read.
    #[error("expected a CMS message of at most {ENVELOPE_LIMIT} bytes, got {0}")]
    TooLong(usize),
    /// An element is missing, is another one, or is cut.
    #[error("expected a CMS message as KMS writes it: {0}")]
    Structure(&'static str),
    /// Something stands where the message should end.
    #[error("expected the CMS message to end, more follows")]
    Trailing,
}

impl Envelope {
    /// Reads a message.
    ///
    /// # Errors
    /// [`EnvelopeError`] says what was expected.
    pub fn read(message: &[u8]) -> Result<Self, EnvelopeError> {
        if message.len() > ENVELOPE_LIMIT {
            return Err(EnvelopeError::TooLong(message.len()));
        }
        let mut reader = Reader { rest: message };
        let envelope = reader.within(SEQUENCE, "ContentInfo", |info| {
            info.exactly(OBJECT_IDENTIFIER, ENVELOPED_DATA, "the content type enveloped-data")?;
            info.within(CONTEXT_0_CONSTRUCTED, "its content", |content| {
                content.within(SEQUENCE, "EnvelopedData", enveloped_data)
            })
        })?;
        if reader.rest.is_empty() { Ok(envelope) } else { Err(EnvelopeError::Trailing) }
    }

    /// The fields in the order in which a host hands them in: the encrypted key, the vector, the content.
    #[must_use]
    pub fn fields(&self) -> Vec<u8> {
        let Self { encrypted_key, initialisation_vector, content } = self;
        [encrypted_key.as_slice(), initialisation_vector, content].concat()
    }
}

fn enveloped_data(reader: &mut Reader<'_>) -> Result<Envelope, EnvelopeError> {
    reader.exactly(INTEGER, &[2], "version 2 of EnvelopedData")?;
    let encrypted_key = reader.within(SET, "the recipients", |recipients| {
        recipients.within(SEQUENCE, "a recipient", |recipient| {
            recipient.exactly(INTEGER, &[2], "version 2 of the recipient")?;
            recipient.element(CONTEXT_0, "the identifier of the recipient's key")?;
            recipient.within(SEQUENCE, "the algorithm of the key", |algorithm| {
                algorithm.exactly(OBJECT_IDENTIFIER, RSAES_OAEP, "RSAES-OAEP")?;
                // Its parameters. With others than SHA-256 the enclave decrypts nothing.
                algorithm.element(SEQUENCE, "the parameters of RSAES-OAEP")
            })?;
            recipient.array(OCTET_STRING, "an encrypted key of 256 bytes")
        })
    })?;
    reader.within(SEQUENCE, "EncryptedContentInfo", |info| {
        info.exactly(OBJECT_IDENTIFIER, DATA, "the content type data")?;
        let initialisation_vector = info.within(SEQUENCE, "the algorithm of the content", |algorithm| {
            algorithm.exactly(OBJECT_IDENTIFIER, AES_256_CBC, "AES-256-CBC")?;
            algorithm.array(OCTET_STRING, "an initialisation vector of 16 bytes")
        })?;
        Ok(Envelope { encrypted_key, initialisation_vector, content: encrypted_content(info)? })
    })
}

/// The encrypted content: one piece, or several.
fn encrypted_content(reader: &mut Reader<'_>) -> Result<Vec<u8>, EnvelopeError> {
    let too_long = EnvelopeError::Structure("an encrypted content of at most 1024 bytes");
    if reader.rest.first() == Some(&CONTEXT_0) {
        let content = reader.element(CONTEXT_0, "the encrypted content")?;
        return if content.len() <= CONTENT_LIMIT { Ok(content.to_vec()) } else { Err(too_long) };
    }
    reader.within(CONTEXT_0_CONSTRUCTED, "the encrypted content", |pieces| {
        let mut content = Vec::new();
        while pieces.rest.first() == Some(&OCTET_STRING) {
            let piece = pieces.element(OCTET_STRING, "a piece of the encrypted content")?;
            if content.len() + piece.len() > CONTENT_LIMIT {
                return Err(too_long);
            }
            content.extend_from_slice(piece);
        }
        Ok(content)
    })
}

/// Reads one element after another.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// The length of an element: `None` within when its end is marked.
    fn length(&mut self) -> Option<Option<usize>> {
        match self.byte()? {
            INDEFINITE => Some(None),
            short @ 0..INDEFINITE => Some(Some(short.into())),
            // The message has a limit far below 64 KiB, so longer lengths of lengths are never needed.
            0x81 => Some(Some(self.byte()?.into())),
            0x82 => Some(Some(u16::from_be_bytes([self.byte()?, self.byte()?]).into())),
            _ => None,
        }
    }

    /// The contents of the next element, which has to have this tag and a length.
    fn element(&mut self, tag: u8, expected: &'static str) -> Result<&'a [u8], EnvelopeError> {
        let read = |reader: &mut Self| {
            let length = reader.byte().filter(|actual| *actual == tag).and_then(|_| reader.length())??;
            let (contents, rest) = reader.rest.split_at_checked(length)?;
            reader.rest = rest;
            Some(contents)
        };
        read(self).ok_or(EnvelopeError::Structure(expected))
    }

    /// The next element, which has to be this one.
    fn exactly(&mut self, tag: u8, contents: &[u8], expected: &'static str) -> Result<(), EnvelopeError> {
        match self.element(tag, expected)? == contents {
            true => Ok(()),
            false => Err(EnvelopeError::Structure(expected)),
        }
    }

    /// The contents of the next element, which has to have this length.
    fn array<const LENGTH: usize>(
        &mut self,
        tag: u8,
        expected: &'static str,
    ) -> Result<[u8; LENGTH], EnvelopeError> {
        self.element(tag, expected)?.try_into().map_err(|_| EnvelopeError::Structure(expected))
    }

    /// Reads what the next element is made of, to its end.
    fn within<T>(
        &mut self,
        tag: u8,
        expected: &'static str,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, EnvelopeError>,
    ) -> Result<T, EnvelopeError> {
        let wrong = EnvelopeError::Structure(expected);
        let length = self.byte().filter(|actual| *actual == tag).and_then(|_| self.length()).ok_or(wrong)?;
        match length {
            Some(length) => {
                let (contents, rest) = self.rest.split_at_checked(length).ok_or(wrong)?;
                let mut inner = Reader { rest: contents };
                let value = read(&mut inner)?;
                self.rest = rest;
                if inner.rest.is_empty() { Ok(value) } else { Err(EnvelopeError::Trailing) }
            }
            None => {
                let mut inner = Reader { rest: self.rest };
                let value = read(&mut inner)?;
                // Two zero bytes mark the end.
                self.rest = inner.rest.strip_prefix(&[0, 0]).ok_or(EnvelopeError::Trailing)?;
                Ok(value)
            }
        }
    }
}
