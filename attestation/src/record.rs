//! Records: single exchanges that an enclave sealed and its host keeps.
//!
//! A record is a head and a body. The head says in plain words what the record is of, and has one sealed part of the record's
//! key for each broker. The body is the exchange, encrypted under that key. The head names the SHA-256 of the body, and the
//! SHA-256 of the head names the record. `docs/retention.md` is the specification. Who may open parts is no matter of this
//! module: it reads, writes, and does the arithmetic of the body.

use base64::Engine as _;
use zeroize::Zeroizing;

use crate::channel::{Fields, ModelId, length_prefixed};
use crate::crypto::backend::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use crate::digest::Sha256Digest;
use crate::receipt::ReceiptId;
use crate::release::{BROKERS_LIMIT, Day, Id, RecordFacts, TEXT_LIMIT};
use crate::safeguard::SafeguardVerdict;

/// The first field of a head.
const TAG: &[u8] = b"cleanroom/record/1";
/// What the encryption of a body is bound to, beside its key.
const BODY_AAD: &[u8] = b"cleanroom/record-body/1";
/// Bodies have a length that is a multiple of this many bytes, and their tag of 16 bytes.
const STEP: usize = 4096;
/// The tag at the end of a body, in bytes.
const TAG_BYTES: usize = 16;

/// The longest exchange that a record holds: request and response together, in bytes.
pub const MAX_EXCHANGE_BYTES: usize = 8 << 20;
/// The longest body, in bytes.
pub const MAX_BODY_BYTES: usize = MAX_EXCHANGE_BYTES + 4 * STEP;
/// The length of a broker's part of a record's key, sealed: a place, 32 bytes, and a tag of 16.
pub const PART_BYTES: usize = 1 + 32 + TAG_BYTES;
/// The longest head, in bytes.
pub const MAX_HEAD_BYTES: usize = 8 << 10;
/// The longest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 4 + MAX_HEAD_BYTES + MAX_BODY_BYTES;

/// The key of one record: 32 random bytes that are used for nothing else. Wiped when dropped.
pub type RecordKey = Zeroizing<[u8; 32]>;

/// What a record is of. Nothing in it is secret, and the sealed parts are bound to all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSubject {
    /// 32 random bytes, so that no two records are alike.
    pub serial: [u8; 32],
    /// The clean room.
    pub room: Id,
    /// The model.
    pub model: ModelId,
    /// The digest of its weights.
    pub model_sha256: Sha256Digest,
    /// The boot whose enclave sealed it.
    pub boot: Sha256Digest,
    /// The receipt of the request.
    pub receipt: ReceiptId,
    /// SHA-256 over the key of the partner.
    pub partner: Sha256Digest,
    /// The day whose secrets seal it.
    pub day: Day,
    /// The release in force.
    pub release: Sha256Digest,
    /// SHA-256 over the body.
    pub body: Sha256Digest,
}

/// A broker's part of a record's key, sealed under the broker's secret of the day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPart {
    /// The broker.
    pub broker: Id,
    /// The sealed part.
    pub bytes: [u8; PART_BYTES],
}

/// The head of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHead {
    /// What the record is of.
    pub subject: RecordSubject,
    /// How many parts make the key.
    pub needed: u8,
    /// The parts, each of another broker; at least as many as are needed.
    pub parts: Vec<SealedPart>,
}

/// Some bytes are no record, or no head of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a sealed record in the form of docs/retention.md")]
pub struct RecordError;

impl RecordSubject {
    /// The subject's bytes: `LP` of each field, with the day in 4 bytes, big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Destructured, so that a new field cannot be forgotten here.
        let Self { serial, room, model, model_sha256, boot, receipt, partner, day, release, body } = self;
        length_prefixed(&[
            TAG,
            serial,
            room.as_str().as_bytes(),
            model.as_str().as_bytes(),
            model_sha256.as_bytes(),
            boot.as_bytes(),
            receipt.as_str().as_bytes(),
            partner.as_bytes(),
            &day.0.to_be_bytes(),
            release.as_bytes(),
            body.as_bytes(),
        ])
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let tag = fields.next(TAG.len())?;
        let subject = Self {
            serial: fields.next(32)?.try_into().ok()?,
            room: text(&mut fields, TEXT_LIMIT)?.parse().ok()?,
            model: text(&mut fields, ModelId::MAX_BYTES)?.parse().ok()?,
            model_sha256: digest(&mut fields)?,
            boot: digest(&mut fields)?,
            receipt: text(&mut fields, ReceiptId::MAX_BYTES)?.parse().ok()?,
            partner: digest(&mut fields)?,
            day: Day(u32::from_be_bytes(fields.next(4)?.try_into().ok()?)),
            release: digest(&mut fields)?,
            body: digest(&mut fields)?,
        };
        (tag == TAG && fields.is_at_end()).then_some(subject)
    }
}

fn text<'a>(fields: &mut Fields<'a>, limit: usize) -> Option<&'a str> {
    core::str::from_utf8(fields.next(limit)?).ok()
}

fn digest(fields: &mut Fields<'_>) -> Option<Sha256Digest> {
    Some(Sha256Digest::from_bytes(fields.next(Sha256Digest::LENGTH)?.try_into().ok()?))
}

impl RecordHead {
    /// The head's bytes: `LP(subject) LP(needed, 1 byte)`, then `LP(broker) LP(part)` for each part.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { subject, needed, parts } = self;
        let (subject, needed) = (subject.to_bytes(), [*needed]);
        let mut fields: Vec<&[u8]> = vec![&subject, &needed];
        for SealedPart { broker, bytes } in parts {
            fields.extend([broker.as_str().as_bytes(), bytes.as_slice()]);
        }
        length_prefixed(&fields)
    }

    /// Reads a head, **unverified**: that its parts open shows that an enclave wrote it.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_HEAD_BYTES {
            return Err(RecordError);
        }
        Self::read(bytes).ok_or(RecordError)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let subject = RecordSubject::read(fields.next(MAX_HEAD_BYTES)?)?;
        let [needed] = fields.next(1)?.try_into().ok()?;
        let mut parts: Vec<SealedPart> = Vec::new();
        while !fields.is_at_end() {
            let broker: Id = text(&mut fields, TEXT_LIMIT)?.parse().ok()?;
            let bytes = fields.next(PART_BYTES)?.try_into().ok()?;
            if parts.len() == BROKERS_LIMIT || parts.iter().any(|part| part.broker == broker) {
                return None;
            }
            parts.push(SealedPart { broker, bytes });
        }
        (1..=parts.len()).contains(&usize::from(needed)).then_some(Self { subject, needed, parts })
    }

    /// The record's name: SHA-256 over the head's bytes.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.to_bytes()])
    }

    /// What an opening has to say about the record.
    #[must_use]
    pub fn facts(&self) -> RecordFacts {
        RecordFacts { record: self.digest(), day: self.subject.day, partner: self.subject.partner }
    }

    /// The whole record: `LP(head)`, then the body.
    #[must_use]
    pub fn record(&self, body: &[u8]) -> Vec<u8> {
        let mut record = length_prefixed(&[&self.to_bytes()]);
        record.extend_from_slice(body);
        record
    }

    /// Takes a record apart into its head and its body, which is the one that the head names.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn split(record: &[u8]) -> Result<(Self, &[u8]), RecordError> {
        if record.len() > MAX_RECORD_BYTES {
            return Err(RecordError);
        }
        let head = Fields::new(record).next(MAX_HEAD_BYTES).ok_or(RecordError)?;
        let body = record.get(head.len().saturating_add(4)..).ok_or(RecordError)?;
        let head = Self::parse(head)?;
        if Sha256Digest::of(&[body]) == head.subject.body { Ok((head, body)) } else { Err(RecordError) }
    }
}

/// An exchange. It has no `Debug`, and is wiped when dropped.
#[derive(PartialEq, Eq)]
pub struct RecordedExchange {
    /// The body of the request, as it came.
    pub request: Zeroizing<Vec<u8>>,
    /// The body of the response, as it left.
    pub response: Zeroizing<Vec<u8>>,
    /// How the safeguards judged it, if they did.
    pub verdict: Option<SafeguardVerdict>,
}

impl RecordedExchange {
    /// The encrypted body of a record: AES-256-GCM over `LP(request) LP(response) LP(verdict) LP(zeros)`, where the zeros make
    /// the length a multiple of 4096. The nonce is zero, because the key is used once.
    ///
    /// # Errors
    /// [`RecordError`] when request and response together have more than [`MAX_EXCHANGE_BYTES`], or the library fails.
    pub fn seal(&self, key: &RecordKey) -> Result<Vec<u8>, RecordError> {
        let Self { request, response, verdict } = self;
        if request.len().saturating_add(response.len()) > MAX_EXCHANGE_BYTES {
            return Err(RecordError);
        }
        // A type of names and digests serialises always.
        let verdict = verdict.as_ref().map(|verdict| serde_json::to_vec(verdict).unwrap_or_default());
        let verdict = verdict.unwrap_or_default();
        // Four fields, each with its length before it.
        let plain = request.len() + response.len() + verdict.len() + 4 * 4;
        let zeros = plain.next_multiple_of(STEP) - plain;
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(plain + zeros + TAG_BYTES));
        for field in [request.as_slice(), response.as_slice(), &verdict, &vec![0; zeros]] {
            let length = u32::try_from(field.len()).map_err(|_| RecordError)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(field);
        }
        let (cipher, nonce) = cipher(key).ok_or(RecordError)?;
        let tag = cipher.seal_in_place_separate_tag(nonce, Aad::from(BODY_AAD), &mut bytes);
        bytes.extend_from_slice(tag.map_err(|_| RecordError)?.as_ref());
        Ok(std::mem::take(&mut *bytes))
    }

    /// Decrypts the body of a record.
    ///
    /// # Errors
    /// [`RecordError`] when it was encrypted under another key, or is no body.
    pub fn open(body: &[u8], key: &RecordKey) -> Result<Self, RecordError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(RecordError);
        }
        let mut bytes = Zeroizing::new(body.to_vec());
        let (cipher, nonce) = cipher(key).ok_or(RecordError)?;
        let plain = cipher.open_in_place(nonce, Aad::from(BODY_AAD), &mut bytes);
        Self::read(plain.map_err(|_| RecordError)?).ok_or(RecordError)
    }

    fn read(plain: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(plain);
        let mut part = || Some(Zeroizing::new(fields.next(MAX_EXCHANGE_BYTES)?.to_vec()));
        let (request, response) = (part()?, part()?);
        let verdict = match fields.next(STEP)? {
            [] => None,
            json => Some(serde_json::from_slice(json).ok().filter(SafeguardVerdict::is_sound)?),
        };
        let zeros = fields.next(STEP)?;
        let is_whole = fields.is_at_end() && zeros.iter().all(|byte| *byte == 0);
        is_whole.then_some(Self { request, response, verdict })
    }

    /// The exchange as JSON, for the receiver: texts where they are UTF-8, and base64 where they are not.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let text = |bytes: &[u8]| match core::str::from_utf8(bytes) {
            Ok(text) => serde_json::json!(text),
            Err(_) => {
                serde_json::json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) })
            }
        };
        serde_json::json!({
            "request": text(&self.request), "response": text(&self.response), "verdict": self.verdict,
        })
    }
}

fn cipher(key: &RecordKey) -> Option<(LessSafeKey, Nonce)> {
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).ok()?;
    Some((LessSafeKey::new(key), Nonce::assume_unique_for_key([0; 12])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::safeguard::SafeguardAction;

    fn sha256(text: &str) -> Sha256Digest {
        Sha256Digest::of(&[text.as_bytes()])
    }

    fn head(body: &[u8], brokers: &[&str], needed: u8) -> RecordHead {
        let part = |broker: &&str| SealedPart { broker: broker.parse().unwrap(), bytes: [7; PART_BYTES] };
        RecordHead {
            subject: RecordSubject {
                serial: [9; 32],
                room: "room".parse().unwrap(),
                model: ModelId::new("demo").unwrap(),
                model_sha256: sha256("model"),
                boot: sha256("boot"),
                receipt: "chatcmpl-1".parse().unwrap(),
                partner: sha256("partner"),
                day: "2026-11-29".parse().unwrap(),
                release: sha256("release"),
                body: Sha256Digest::of(&[body]),
            },
            needed,
            parts: brokers.iter().map(part).collect(),
        }
    }

    fn exchange(request: &[u8], response: &[u8]) -> RecordedExchange {
        RecordedExchange {
            request: Zeroizing::new(request.to_vec()),
            response: Zeroizing::new(response.to_vec()),
            verdict: Some(SafeguardVerdict {
                policies_sha256: vec![sha256("policy")],
                action: SafeguardAction::Flag,
                rules: vec!["rule".to_owned()],
            }),
        }
    }

    #[test]
    fn a_record_is_read_back_and_everything_else_is_refused() {
        let whole = head(b"body", &["bank", "utility"], 2);
        let record = whole.record(b"body");
        assert_eq!(RecordHead::split(&record), Ok((whole.clone(), &b"body"[..])));
        for cut in 0..record.len() {
            assert_eq!(RecordHead::split(&record[..cut]), Err(RecordError), "cut at {cut}");
        }
        assert_eq!(RecordHead::split(&[record.as_slice(), &[0]].concat()), Err(RecordError));
        let bytes = whole.to_bytes();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let named = RecordHead::parse(&changed).map(|head| head.digest());
            assert_ne!(named, Ok(whole.digest()), "changed at {at}");
        }
        let no_broker = head(b"body", &[], 1);
        let twice = head(b"body", &["bank", "bank"], 1);
        let too_many = head(b"body", &["bank"], 2);
        let none_needed = head(b"body", &["bank"], 0);
        for bad in [no_broker, twice, too_many, none_needed] {
            assert_eq!(RecordHead::parse(&bad.to_bytes()), Err(RecordError));
        }
        let names: Vec<String> = (0..17).map(|number| format!("b{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(RecordHead::parse(&head(b"", &names[..16], 16).to_bytes()).is_ok());
        assert_eq!(RecordHead::parse(&head(b"", &names, 16).to_bytes()), Err(RecordError));
    }

    #[test]
    fn the_longest_head_has_room() {
        let long = "x".repeat(TEXT_LIMIT);
        let names: Vec<String> = (10..26).map(|number| format!("{number}{}", &long[2..])).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut longest = head(b"", &names, 16);
        longest.subject.room = long.parse().unwrap();
        longest.subject.receipt = "x".repeat(ReceiptId::MAX_BYTES).parse().unwrap();
        longest.subject.model = ModelId::new(&"x".repeat(ModelId::MAX_BYTES)).unwrap();
        assert_eq!(RecordHead::parse(&longest.to_bytes()), Ok(longest));
    }

    #[test]
    fn a_body_opens_under_its_own_key_alone_and_its_length_says_little() {
        let (key, other) = (Zeroizing::new([1; 32]), Zeroizing::new([2; 32]));
        let body = exchange(b"a question", b"an answer").seal(&key).unwrap();
        assert_eq!(body.len(), exchange(b"", b"").seal(&key).unwrap().len());
        assert!(!body.windows(8).any(|window| window == b"question"));
        assert!(RecordedExchange::open(&body, &key).unwrap() == exchange(b"a question", b"an answer"));
        assert!(RecordedExchange::open(&body, &other).is_err());
        for at in (0..body.len()).step_by(97) {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert!(RecordedExchange::open(&changed, &key).is_err());
        }
        let most = vec![b'x'; MAX_EXCHANGE_BYTES];
        let body = exchange(&most, b"").seal(&key).unwrap();
        assert!(body.len() <= MAX_BODY_BYTES && RecordedExchange::open(&body, &key).is_ok());
        assert!(exchange(&most, b"x").seal(&key).is_err());
    }

    proptest! {
        #[test]
        fn every_exchange_comes_back(request: Vec<u8>, response: Vec<u8>, key: [u8; 32]) {
            let key = Zeroizing::new(key);
            let body = exchange(&request, &response).seal(&key).unwrap();
            prop_assert!(RecordedExchange::open(&body, &key).unwrap() == exchange(&request, &response));
        }
    }
}
