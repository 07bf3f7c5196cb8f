//! One certificate, read in the fixed profile of Nitro's attestation PKI (RFC 5280 narrowed).
//!
//! `rustls-webpki` validates the path. This reader checks the fields that `rustls-webpki` leaves open (key
//! usage, key identifiers, time stamps for other purposes), and is a second opinion on the rest.

use super::der::{Malformed, Reader, tag};
use super::error::CertificateError;
use super::name;
use super::window::Window;
use crate::crypto::P384_POINT_LENGTH;
use crate::time::Timestamp;

/// `ecdsa-with-SHA384` (RFC 5758 section 3.2), as the contents of an `AlgorithmIdentifier` without parameters.
const ECDSA_WITH_SHA384: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
/// `id-ecPublicKey` with the named curve `secp384r1` (RFC 5480 section 2.1.1).
const EC_P384: &[u8] =
    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// `id-ce`, the arc of the standard extensions (RFC 5280 section 4.2.1), without its last number.
const STANDARD_EXTENSION: [u8; 2] = [0x55, 0x1d];
const SUBJECT_KEY_IDENTIFIER: u8 = 14;
const KEY_USAGE: u8 = 15;
const BASIC_CONSTRAINTS: u8 = 19;
const NAME_CONSTRAINTS: u8 = 30;
const AUTHORITY_KEY_IDENTIFIER: u8 = 35;
const EXTENDED_KEY_USAGE: u8 = 37;

/// A certificate in the fixed profile. Nothing about it is verified.
#[derive(Debug, Clone)]
pub(super) struct Certificate<'a> {
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    pub(super) window: Window,
    pub(super) public_key: &'a [u8; P384_POINT_LENGTH],
    pub(super) extensions: Extensions<'a>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Extensions<'a> {
    pub(super) basic_constraints: Option<BasicConstraints>,
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) subject_key_identifier: Option<&'a [u8]>,
    pub(super) authority_key_identifier: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BasicConstraints {
    pub(super) ca: bool,
    /// The most intermediate certificates that may follow below.
    pub(super) path_length: Option<u8>,
}

/// The first byte of the key usage bits, `digitalSignature` first. `decipherOnly`, alone in the second byte, is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyUsage(u8);

impl KeyUsage {
    pub(super) const fn digital_signature(self) -> bool {
        self.0 & 0x80 != 0
    }

    pub(super) const fn key_cert_sign(self) -> bool {
        self.0 & 0x04 != 0
    }
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        let mut outer = Reader::new(der);
        let mut certificate = outer.sequence().map_err(syntax("certificate"))?;
        outer.finish().map_err(syntax("end of the certificate"))?;

        let mut fields = certificate.sequence().map_err(syntax("tbsCertificate"))?;
        let outer_algorithm = certificate.expect(tag::SEQUENCE).map_err(syntax("signatureAlgorithm"))?;
        let signature = certificate.expect(tag::BIT_STRING).map_err(syntax("signatureValue"))?;
        certificate.finish().map_err(syntax("end of the certificate's fields"))?;
        // An ECDSA signature is a whole number of bytes, so no bits of the last one are unused.
        if signature.first() != Some(&0) {
            return Err(CertificateError::Syntax { item: "signatureValue" });
        }

        match fields.optional(tag::context(0)).map_err(syntax("version"))? {
            Some([tag::INTEGER, 1, 2]) => {}
            _ => return Err(CertificateError::Version),
        }
        fields.expect(tag::INTEGER).map_err(syntax("serialNumber"))?;
        let inner_algorithm = fields.expect(tag::SEQUENCE).map_err(syntax("signature"))?;
        if inner_algorithm != ECDSA_WITH_SHA384 || outer_algorithm != ECDSA_WITH_SHA384 {
            return Err(CertificateError::SignatureAlgorithm);
        }
        let issuer = fields.whole(tag::SEQUENCE).map_err(syntax("issuer"))?;
        let window = window(fields.sequence().map_err(syntax("validity"))?)?;
        let subject = fields.whole(tag::SEQUENCE).map_err(syntax("subject"))?;
        let public_key = public_key(fields.sequence().map_err(syntax("subjectPublicKeyInfo"))?)?;
        let extensions = fields.optional(tag::context(3)).map_err(syntax("extensions"))?;
        // What is left would be one of the unique identifiers of X.509 version 2, which the profile does not have.
        fields.finish().map_err(syntax("end of tbsCertificate"))?;
        let extensions = extensions.map(Extensions::read).transpose()?.unwrap_or_default();
        Ok(Self { issuer, subject, window, public_key, extensions })
    }

    /// The subject's common name, if it has exactly one.
    pub(super) fn common_name(&self) -> Option<&'a str> {
        name::common_name(self.subject)
    }
}

const fn syntax(item: &'static str) -> impl Fn(Malformed) -> CertificateError {
    move |_| CertificateError::Syntax { item }
}

pub(crate) fn window(mut validity: Reader<'_>) -> Result<Window, CertificateError> {
    let mut next = || {
        let (form, text) = validity.any().ok()?;
        time(form, text)
    };
    let (not_before, not_after) = (next(), next());
    let (Some(not_before), Some(not_after), Ok(())) = (not_before, not_after, validity.finish()) else {
        return Err(CertificateError::Time);
    };
    Ok(Window { not_before, not_after })
}

/// `UTCTime` as `YYMMDDhhmmssZ`, years 1950 to 2049, or `GeneralizedTime` as `YYYYMMDDhhmmssZ` (RFC 5280 section 4.1.2.5);
/// nothing before 1970.
fn time(form: u8, text: &[u8]) -> Option<Timestamp> {
    let (digits, zone) = text.split_last_chunk::<1>()?;
    if zone != b"Z" || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let two = |[tens, ones]: &[u8; 2]| u64::from(tens - b'0') * 10 + u64::from(ones - b'0');
    let (pairs, odd) = digits.as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    let (year, rest) = match (form, pairs) {
        (tag::UTC_TIME, [year, rest @ ..]) => match two(year) {
            year @ 0..=49 => (2000 + year, rest),
            year => (1900 + year, rest),
        },
        (tag::GENERALIZED_TIME, [century, year, rest @ ..]) => (two(century) * 100 + two(year), rest),
        _ => return None,
    };
    let [month, day, hour, minute, second] = rest else { return None };
    let (month, day, hour, minute, second) = (two(month), two(day), two(hour), two(minute), two(second));
    let days = days_since_epoch(year, month, day)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(Timestamp::from_seconds(days * 86_400 + hour * 3600 + minute * 60 + second))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; `None` for dates before it or that do not exist.
fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *months.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    if year < 1970 || day == 0 || day > length {
        return None;
    }
    // Leap days of all complete years since year 1.
    let leap_days = |years: u64| years / 4 - years / 100 + years / 400;
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let before: u64 = months.iter().zip(1..month).map(|(length, _)| *length).sum();
    Some(years + before + day - 1)
}

fn public_key(mut info: Reader<'_>) -> Result<&[u8; P384_POINT_LENGTH], CertificateError> {
    let algorithm = info.expect(tag::SEQUENCE).map_err(syntax("algorithm of the public key"))?;
    let key = info.expect(tag::BIT_STRING).map_err(syntax("subjectPublicKey"))?;
    info.finish().map_err(syntax("end of subjectPublicKeyInfo"))?;
    if algorithm != EC_P384 {
        return Err(CertificateError::PublicKey);
    }
    // A bit string begins with its number of unused bits.
    match key.split_first() {
        Some((0, point)) if point.first() == Some(&0x04) => {
            point.try_into().map_err(|_| CertificateError::PublicKey)
        }
        _ => Err(CertificateError::PublicKey),
    }
}

impl<'a> Extensions<'a> {
    fn read(explicit: &'a [u8]) -> Result<Self, CertificateError> {
        let mut outer = Reader::new(explicit);
        let mut list = outer.sequence().map_err(syntax("extensions"))?;
        outer.finish().map_err(syntax("end of extensions"))?;
        let mut extensions = Self::default();
        while !list.is_empty() {
            extensions.read_one(list.sequence().map_err(syntax("extension"))?)?;
        }
        Ok(extensions)
    }

    fn read_one(&mut self, mut extension: Reader<'a>) -> Result<(), CertificateError> {
        let id = extension.expect(tag::OBJECT_IDENTIFIER).map_err(syntax("extnID"))?;
        let critical = extension.default_false().map_err(syntax("critical"))?;
        let value = extension.expect(tag::OCTET_STRING).map_err(syntax("extnValue"))?;
        extension.finish().map_err(syntax("end of the extension"))?;
        let standard = id.strip_prefix(&STANDARD_EXTENSION);
        match standard {
            Some([BASIC_CONSTRAINTS]) => {
                once(&mut self.basic_constraints, "basicConstraints", basic_constraints(value))
            }
            Some([KEY_USAGE]) => once(&mut self.key_usage, "keyUsage", key_usage(value)),
            Some([SUBJECT_KEY_IDENTIFIER]) => {
                let mut reader = Reader::new(value);
                let identifier = reader.expect(tag::OCTET_STRING);
                let identifier = identifier.and_then(|identifier| reader.finish().map(|()| identifier));
                once(&mut self.subject_key_identifier, "subjectKeyIdentifier", identifier)
            }
            Some([AUTHORITY_KEY_IDENTIFIER]) => {
                let identifier = authority_key_identifier(value);
                once(&mut self.authority_key_identifier, "authorityKeyIdentifier", identifier)
            }
            Some([EXTENDED_KEY_USAGE]) => Err(CertificateError::ExtendedKeyUsage),
            // What a name constraint says depends on certificates further up, so it would have to be asked about again
            // under authorities that are known already. AWS writes none.
            Some([NAME_CONSTRAINTS]) => Err(CertificateError::NameConstraints),
            // Where to ask for revocations is one of those that are left: AWS's leaves live three hours, and the library has no network.
            _ if critical => Err(CertificateError::CriticalExtension { actual: name::dotted(id) }),
            _ => Ok(()),
        }
    }
}

fn once<T>(
    field: &mut Option<T>,
    item: &'static str,
    value: Result<T, Malformed>,
) -> Result<(), CertificateError> {
    match field.replace(value.map_err(syntax(item))?) {
        None => Ok(()),
        Some(_) => Err(CertificateError::DuplicateExtension { item }),
    }
}

fn basic_constraints(value: &[u8]) -> Result<BasicConstraints, Malformed> {
    let mut outer = Reader::new(value);
    let mut fields = outer.sequence()?;
    outer.finish()?;
    let ca = fields.default_false()?;
    let path_length = match fields.optional(tag::INTEGER)? {
        None => None,
        // One byte below 128: no chain is longer, and a longer INTEGER would have to be.
        Some([length @ 0..=0x7f]) if ca => Some(*length),
        Some(_) => return Err(Malformed),
    };
    fields.finish()?;
    Ok(BasicConstraints { ca, path_length })
}

fn key_usage(value: &[u8]) -> Result<KeyUsage, Malformed> {
    let mut reader = Reader::new(value);
    let bits = reader.expect(tag::BIT_STRING)?;
    reader.finish()?;
    match bits {
        // DER leaves out trailing zero bits, so the unused ones are exactly the trailing zeros of the last byte.
        [unused, first] | [unused, first, _] => {
            let last = bits.last().copied().unwrap_or_default();
            if last == 0 || u32::from(*unused) != last.trailing_zeros() {
                return Err(Malformed);
            }
            Ok(KeyUsage(*first))
        }
        _ => Err(Malformed),
    }
}

/// The key identifier. The other form, issuer and serial number, does not occur in the profile and is refused rather
/// than ignored.
fn authority_key_identifier(value: &[u8]) -> Result<&[u8], Malformed> {
    let mut outer = Reader::new(value);
    let mut fields = outer.sequence()?;
    outer.finish()?;
    let identifier = fields.expect(tag::context_primitive(0))?;
    fields.finish()?;
    Ok(identifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_time() {
        let seconds = |form, text: &str| time(form, text.as_bytes()).map(Timestamp::as_seconds);
        assert_eq!(seconds(tag::UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(tag::UTC_TIME, "191028132805Z"), Some(1_572_269_285));
        assert_eq!(seconds(tag::UTC_TIME, "491028142805Z"), Some(2_519_044_085));
        assert_eq!(seconds(tag::GENERALIZED_TIME, "20191028132805Z"), Some(1_572_269_285));
        assert_eq!(seconds(tag::GENERALIZED_TIME, "20000229235959Z"), Some(951_868_799));
        assert_eq!(seconds(tag::GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = 0;
        for year in 1970..2420 {
            for month in 1..=12 {
                for day in 1..=31 {
                    if let Some(days) = days_since_epoch(year, month, day) {
                        assert_eq!(days, expected, "{year}-{month}-{day}");
                        expected += 1;
                    }
                }
            }
        }
        // 450 years with 109 leap days: 1972 to 2416 without 2100, 2200 and 2300.
        assert_eq!(expected, 450 * 365 + 109);
    }

    #[test]
    fn what_is_not_a_time() {
        for (form, text) in [
            (tag::UTC_TIME, "19102813280Z"),
            (tag::UTC_TIME, "1910281328055Z"),
            (tag::UTC_TIME, "191028132805"),
            (tag::UTC_TIME, "191028132805z"),
            (tag::UTC_TIME, "1910281328Z"),
            (tag::UTC_TIME, "191028132805+0000"),
            (tag::UTC_TIME, "191328132805Z"),
            (tag::UTC_TIME, "190028132805Z"),
            (tag::UTC_TIME, "191000132805Z"),
            (tag::UTC_TIME, "191032132805Z"),
            (tag::UTC_TIME, "190229132805Z"),
            (tag::UTC_TIME, "191028242805Z"),
            (tag::UTC_TIME, "191028136005Z"),
            (tag::UTC_TIME, "191028132860Z"),
            (tag::UTC_TIME, "500101000000Z"),
            (tag::UTC_TIME, "691231235959Z"),
            (tag::UTC_TIME, "20191028132805Z"),
            (tag::GENERALIZED_TIME, "191028132805Z"),
            (tag::GENERALIZED_TIME, "20191028132805.5Z"),
            (tag::GENERALIZED_TIME, "21000229000000Z"),
            (tag::INTEGER, "191028132805Z"),
            (tag::UTC_TIME, ""),
            (tag::UTC_TIME, "Z"),
        ] {
            assert_eq!(time(form, text.as_bytes()), None, "{text}");
        }
    }
}
