//! Templates of certificates.

use crate::der::{bit_string, element, sequence};
use crate::key::Key;

/// Object identifiers, DER with tag and length.
pub mod oid {
    /// `ecdsa-with-SHA384`.
    pub const ECDSA_WITH_SHA384: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03";
    /// `ecdsa-with-SHA256`.
    pub const ECDSA_WITH_SHA256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
    /// `id-ecPublicKey`.
    pub const EC_PUBLIC_KEY: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
    /// `secp384r1`.
    pub const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
    /// `prime256v1`.
    pub const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    /// The standard extension `id-ce` with this last number.
    #[must_use]
    pub fn standard_extension(number: u8) -> Vec<u8> {
        vec![0x06, 0x03, 0x55, 0x1d, number]
    }
}

/// What goes into a certificate. Every part is the bytes that are written, so every part can be wrong.
#[derive(Clone)]
pub struct Certificate {
    /// `[0] { INTEGER }`; empty for version 1.
    pub version: Vec<u8>,
    /// `INTEGER`.
    pub serial: Vec<u8>,
    /// The algorithm inside the signed part: the contents of the `AlgorithmIdentifier`.
    pub inner_algorithm: Vec<u8>,
    /// The algorithm beside the signature: the contents of the `AlgorithmIdentifier`.
    pub outer_algorithm: Vec<u8>,
    /// Who issued it.
    pub issuer: Name,
    /// From when it is valid.
    pub not_before: Time,
    /// Until when it is valid.
    pub not_after: Time,
    /// Whom it is for.
    pub subject: Name,
    /// The key's algorithm: the contents of the `AlgorithmIdentifier`.
    pub key_algorithm: Vec<u8>,
    /// The key.
    pub public_key: Vec<u8>,
    /// Between the key and the extensions: the unique identifiers of version 2 would go here.
    pub identifiers: Vec<u8>,
    /// The extensions; none at all are left out.
    pub extensions: Vec<Extension>,
    /// After the certificate's last field, inside its sequence.
    pub inner_trailing: Vec<u8>,
    /// After the certificate.
    pub trailing: Vec<u8>,
}

impl Certificate {
    /// A certificate of version 3 without extensions.
    #[must_use]
    pub fn new(issuer: Name, subject: Name, key: &Key, not_before: Time, not_after: Time) -> Self {
        Self {
            version: vec![0xa0, 0x03, 0x02, 0x01, 0x02],
            serial: element(
                0x02,
                &key.identifier()[..8].iter().map(|byte| byte & 0x7f | 1).collect::<Vec<_>>(),
            ),
            inner_algorithm: oid::ECDSA_WITH_SHA384.to_vec(),
            outer_algorithm: oid::ECDSA_WITH_SHA384.to_vec(),
            issuer,
            not_before,
            not_after,
            subject,
            key_algorithm: [oid::EC_PUBLIC_KEY, oid::P384].concat(),
            public_key: key.point().to_vec(),
            identifiers: Vec::new(),
            extensions: Vec::new(),
            inner_trailing: Vec::new(),
            trailing: Vec::new(),
        }
    }

    /// Removes the extensions with this last number of `id-ce`.
    pub fn remove_extension(&mut self, number: u8) {
        let id = oid::standard_extension(number);
        self.extensions.retain(|extension| extension.id != id);
    }

    /// Puts an extension in the place of those with its identifier, or at the end.
    pub fn set_extension(&mut self, extension: Extension) {
        self.extensions.retain(|other| other.id != extension.id);
        self.extensions.push(extension);
    }

    /// The certificate's DER.
    #[must_use]
    pub fn sign(&self, issuer: &Key) -> Vec<u8> {
        let validity = sequence(&[&self.not_before.0, &self.not_after.0]);
        let key = sequence(&[&sequence(&[&self.key_algorithm]), &bit_string(&self.public_key)]);
        let extensions = match self.extensions.as_slice() {
            [] => Vec::new(),
            list => {
                let list: Vec<u8> = list.iter().flat_map(Extension::encode).collect();
                element(0xa3, &sequence(&[&list]))
            }
        };
        let signed = sequence(&[
            &self.version,
            &self.serial,
            &sequence(&[&self.inner_algorithm]),
            &self.issuer.0,
            &validity,
            &self.subject.0,
            &key,
            &self.identifiers,
            &extensions,
        ]);
        let signature = bit_string(&issuer.sign_der(&signed));
        let certificate =
            sequence(&[&signed, &sequence(&[&self.outer_algorithm]), &signature, &self.inner_trailing]);
        [certificate, self.trailing.clone()].concat()
    }
}

/// A distinguished name, encoded.
#[derive(Clone)]
pub struct Name(pub Vec<u8>);

impl Name {
    /// `C=US, O=Amazon, OU=AWS, CN=…`, the way AWS writes it.
    #[must_use]
    pub fn of(common_name: &str) -> Self {
        Self::with_common_names(&[common_name])
    }

    /// As [`Self::of`], with any number of common names.
    #[must_use]
    pub fn with_common_names(common_names: &[&str]) -> Self {
        let mut attributes = vec![(6, 0x13, "US"), (10, 0x0c, "Amazon"), (11, 0x0c, "AWS")];
        attributes.extend(common_names.iter().map(|name| (3, 0x0c, *name)));
        let sets: Vec<u8> = attributes
            .into_iter()
            .flat_map(|(attribute, form, text)| {
                let id = [0x06, 0x03, 0x55, 0x04, attribute];
                element(0x31, &sequence(&[&id, &element(form, text.as_bytes())]))
            })
            .collect();
        Self(sequence(&[&sets]))
    }
}

/// A time, encoded.
#[derive(Clone)]
pub struct Time(pub Vec<u8>);

impl Time {
    /// `UTCTime` with this text, `YYMMDDhhmmssZ` when it is right.
    #[must_use]
    pub fn utc(text: &str) -> Self {
        Self(element(0x17, text.as_bytes()))
    }

    /// `GeneralizedTime` with this text, `YYYYMMDDhhmmssZ` when it is right.
    #[must_use]
    pub fn generalized(text: &str) -> Self {
        Self(element(0x18, text.as_bytes()))
    }
}

/// An extension.
#[derive(Clone)]
pub struct Extension {
    /// The object identifier, DER with tag and length.
    pub id: Vec<u8>,
    /// The encoded `critical`: empty for false, as DER has it.
    pub critical: Vec<u8>,
    /// What is inside the octet string.
    pub value: Vec<u8>,
}

impl Extension {
    /// The standard extension `id-ce` with this last number.
    #[must_use]
    pub fn standard(number: u8, critical: bool, value: Vec<u8>) -> Self {
        let critical = if critical { vec![0x01, 0x01, 0xff] } else { Vec::new() };
        Self { id: oid::standard_extension(number), critical, value }
    }

    /// Critical basic constraints.
    #[must_use]
    pub fn basic_constraints(ca: bool, path_length: Option<u8>) -> Self {
        let ca: &[u8] = if ca { &[0x01, 0x01, 0xff] } else { &[] };
        let path_length = path_length.map(|length| vec![0x02, 0x01, length]).unwrap_or_default();
        Self::standard(19, true, sequence(&[ca, &path_length]))
    }

    /// Critical key usage with these bits, `digitalSignature` being 0x80 and `keyCertSign` 0x04. Not 0.
    #[must_use]
    pub fn key_usage(bits: u8) -> Self {
        let unused = u8::try_from(bits.trailing_zeros()).unwrap_or_default();
        Self::standard(15, true, element(0x03, &[unused, bits]))
    }

    /// The leaf's key usage as AWS has it: `digitalSignature` and `nonRepudiation`, not critical.
    #[must_use]
    pub fn signs_documents() -> Self {
        let mut usage = Self::key_usage(0xc0);
        usage.critical.clear();
        usage
    }

    /// The subject's key identifier.
    #[must_use]
    pub fn subject_key_identifier(identifier: &[u8]) -> Self {
        Self::standard(14, false, element(0x04, identifier))
    }

    /// The issuer's key identifier.
    #[must_use]
    pub fn authority_key_identifier(identifier: &[u8]) -> Self {
        Self::standard(35, false, sequence(&[&element(0x80, identifier)]))
    }

    fn encode(&self) -> Vec<u8> {
        sequence(&[&self.id, &self.critical, &element(0x04, &self.value)])
    }
}
