//! What AWS KMS answers to whoever shows it an attestation document: a secret, encrypted to the key in the
//! document.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};

use crate::der::{element, sequence};

/// The length of a block of AES in bytes.
const BLOCK: usize = 16;

/// A secret that is encrypted for one recipient.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The key of the content, encrypted to the recipient with RSAES-OAEP and SHA-256.
    pub encrypted_key: Vec<u8>,
    /// The initialisation vector of the content.
    pub initialisation_vector: [u8; BLOCK],
    /// The secret and its padding, encrypted with AES-256-CBC.
    pub content: Vec<u8>,
}

impl Envelope {
    /// Encrypts `secret` to the RSA key whose `SubjectPublicKeyInfo` has the DER `recipient`.
    #[must_use]
    pub fn seal(recipient: &[u8], secret: &[u8]) -> Self {
        let padding = BLOCK - secret.len() % BLOCK;
        let byte = u8::try_from(padding).expect("a block has 16 bytes");
        Self::seal_padded(recipient, &[secret, &vec![byte; padding]].concat())
    }

    /// Encrypts whole blocks, whatever their padding is.
    #[must_use]
    pub fn seal_padded(recipient: &[u8], blocks: &[u8]) -> Self {
        let (mut key, mut initialisation_vector) = ([0; 32], [0; BLOCK]);
        for bytes in [key.as_mut_slice(), &mut initialisation_vector] {
            rand::fill(bytes).expect("the system's random number generator works");
        }
        let mut content = blocks.to_vec();
        let cipher =
            UnboundCipherKey::new(&AES_256, &key).and_then(EncryptingKey::cbc).expect("32 bytes are a key");
        let context = EncryptionContext::Iv128(FixedLength::from(initialisation_vector));
        cipher.less_safe_encrypt(&mut content, context).expect("whole blocks can be encrypted");
        let recipient = PublicEncryptingKey::from_der(recipient).expect("the recipient's key is one");
        let recipient = OaepPublicEncryptingKey::new(recipient).expect("it is for RSA");
        let mut encrypted_key = vec![0; recipient.ciphertext_size()];
        recipient
            .encrypt(&OAEP_SHA256_MGF1SHA256, &key, &mut encrypted_key, None)
            .expect("a key of 32 bytes can be encrypted");
        Self { encrypted_key, initialisation_vector, content }
    }

    /// The three fields as a host hands them in.
    #[must_use]
    pub fn fields(&self) -> Vec<u8> {
        [self.encrypted_key.as_slice(), &self.initialisation_vector, &self.content].concat()
    }

    /// The CMS message as KMS writes it: BER with indefinite lengths, and the content in pieces of `piece`
    /// bytes.
    #[must_use]
    pub fn message(&self, piece: usize) -> Vec<u8> {
        let pieces: Vec<u8> = self.content.chunks(piece).flat_map(|piece| element(0x04, piece)).collect();
        self.arranged(unended, &unended(0xa0, &pieces))
    }

    /// The same in DER, as other implementations write it.
    #[must_use]
    pub fn der(&self) -> Vec<u8> {
        self.arranged(element, &element(0x80, &self.content))
    }

    fn arranged(&self, outer: fn(u8, &[u8]) -> Vec<u8>, content: &[u8]) -> Vec<u8> {
        let identifier = |bytes: &[u8]| element(0x06, bytes);
        let sha256 = sequence(&[&identifier(b"\x60\x86\x48\x01\x65\x03\x04\x02\x01"), &[5, 0]]);
        let mask = sequence(&[&identifier(b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"), &sha256]);
        let oaep = sequence(&[
            &identifier(b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07"),
            &sequence(&[&element(0xa0, &sha256), &element(0xa1, &mask)]),
        ]);
        let recipient =
            sequence(&[&[2, 1, 2], &element(0x80, &[7; 32]), &oaep, &element(0x04, &self.encrypted_key)]);
        let cipher = sequence(&[
            &identifier(b"\x60\x86\x48\x01\x65\x03\x04\x01\x2a"),
            &element(0x04, &self.initialisation_vector),
        ]);
        let data = identifier(b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01");
        let encrypted = outer(0x30, &[data, cipher, content.to_vec()].concat());
        let enveloped = outer(0x30, &[vec![2, 1, 2], element(0x31, &recipient), encrypted].concat());
        let kind = identifier(b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03");
        outer(0x30, &[kind, outer(0xa0, &enveloped)].concat())
    }
}

/// An element of indefinite length.
fn unended(tag: u8, contents: &[u8]) -> Vec<u8> {
    [&[tag, 0x80], contents, &[0, 0]].concat()
}
