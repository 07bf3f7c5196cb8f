//! Images that are signed.

use super::*;
use crate::crypto::backend::{rand::SystemRandom, signature as ecdsa};
use crate::digest::Sha256Digest;
use ecdsa::KeyPair as _;

#[test]
fn every_curve_signs() {
    for key in [Key::p256(), Key::p384()] {
        let image = signed(key);
        let measurement = measure(&image.build()).unwrap();
        let certificate = measurement.signing_certificate.unwrap();
        assert_eq!(measurement.pcr0, image.pcr0());
        assert_eq!(measurement.pcr8, Some(pcr(&[certificate.der()])));
        assert_eq!(certificate.pcr8(), pcr(&[certificate.der()]));
        assert_eq!(SigningCertificate::from_der(certificate.der()).as_ref(), Ok(&certificate));
        assert_eq!(certificate.sha384, Sha384Digest::of(&[certificate.der()]));
        assert_eq!(certificate.sha256, Sha256Digest::of(&[certificate.der()]));
    }
    #[cfg(feature = "aws-lc-rs")]
    assert_eq!(
        measure(&signed(Key::p521()).build()).unwrap().signing_certificate.unwrap().curve.to_string(),
        "P-521"
    );
}

#[test]
fn a_request_becomes_a_section() {
    for key in [Key::p256(), Key::p384()] {
        let pem = pem("CERTIFICATE", &key.certificate);
        let request = SignatureRequest::new(&pem, Image::small().pcr0()).unwrap();
        let signature = key.pair.sign(&SystemRandom::new(), &request.to_be_signed()).unwrap();
        let section = request.section(signature.as_ref()).unwrap();
        let image = Image::small().with(SIGNATURE, &section).build();
        let certificate = measure(&image).unwrap().signing_certificate;
        assert_eq!(certificate.as_ref(), Some(request.certificate()));

        let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
        let integer = |number: &[u8]| {
            let first = number.iter().position(|byte| *byte != 0).unwrap();
            let sign: &[u8] = if number[first] & 0x80 == 0 { &[] } else { &[0] };
            der(0x02, &[sign, &number[first..]].concat())
        };
        let numbers = [integer(r), integer(s)].concat();
        assert_eq!(request.section(&der(0x30, &numbers)).as_ref(), Ok(&section));
        assert!(request.section(&der(0x30, &[numbers, vec![5, 0]].concat())).is_err());

        let other = SignatureRequest::new(&pem, Sha384Digest::of(&[b"another image"])).unwrap();
        assert_eq!(other.section(signature.as_ref()), Err(SignatureError::Forged));
        assert_eq!(request.section(&signature.as_ref()[1..]), Err(SignatureError::Forged));
        assert_eq!(request.section(&[]), Err(SignatureError::Forged));
    }
    assert_eq!(
        SignatureRequest::new(b"no certificate", Image::small().pcr0()).unwrap_err().code(),
        "image-signature-certificate"
    );
}

#[test]
fn the_signature_is_for_this_image() {
    let mut image = signed(Key::p384());
    image.sections[0].1 = b"another kernel".to_vec();
    let error = measure(&image.build()).unwrap_err();
    assert_eq!(error.code(), "image-signature-pcr0");
    assert!(error.to_string().contains(&image.pcr0().to_string()));
}

#[test]
fn the_signature_is_verified() {
    let signer = Key::p384();
    // Signed by another key than the certificate's.
    let forged = SignatureParts { certificate: Key::p384().certificate, ..SignatureParts::new(signer) };
    assert_eq!(refused(&forged.image().build()), "image-signature-forged");
    // The signature's last byte differs.
    let mut parts = SignatureParts::new(Key::p384());
    parts.alter_signature = true;
    assert_eq!(refused(&parts.image().build()), "image-signature-forged");
}

#[test]
fn the_signed_register_is_the_first() {
    let parts = SignatureParts { register: 1, ..SignatureParts::new(Key::p384()) };
    assert_eq!(refused(&parts.image().build()), "image-signature-register");
}

#[test]
fn the_algorithm_is_the_keys() {
    for algorithm in [-7, -36, -8, -1] {
        let parts = SignatureParts { algorithm, ..SignatureParts::new(Key::p384()) };
        assert_eq!(refused(&parts.image().build()), "image-signature-algorithm");
    }
}

#[test]
fn the_certificate_is_pem_of_der() {
    let key = Key::p384();
    let good = pem("CERTIFICATE", &key.certificate);
    let section = |pem: &[u8]| SignatureParts { pem: Some(pem.to_vec()), ..SignatureParts::new(Key::p384()) };
    let refused_as = |pem: &[u8]| refused(&section(pem).image().build());
    assert_eq!(refused_as(&good), "image-signature-forged", "the form is right, the key another");
    // Text in front, and further certificates behind, are what AWS's tools allow.
    assert_eq!(
        refused_as(&[b"Subject: somebody\n", good.as_slice(), &good].concat()),
        "image-signature-forged"
    );

    let bad = "image-signature-certificate";
    assert_eq!(refused_as(b""), bad);
    assert_eq!(refused_as(&key.certificate), bad);
    assert_eq!(refused_as(&pem("CERTIFICATE", b"")), bad);
    assert_eq!(refused_as(&pem("CERTIFICATE", &key.certificate[..100])), bad);
    assert_eq!(refused_as(&pem("CERTIFICATE", &[key.certificate.as_slice(), &[0]].concat())), bad);
    let older = pem("X509 CERTIFICATE", &key.certificate);
    assert_eq!(refused_as(&[older, good.clone()].concat()), bad);
    let text = String::from_utf8(good).unwrap();
    assert_eq!(refused_as(text.replace("-----END", "----END").as_bytes()), bad);
}

#[test]
fn a_certificate_in_ber_is_refused() {
    // The outermost length written longer than needed: other programs would write it anew before they hash it.
    let key = Key::p256();
    let (length, body) = (key.certificate[1], &key.certificate[2..]);
    assert_eq!(usize::from(length), body.len());
    for longer in [&[0x30, 0x81, length][..], &[0x30, 0x82, 0, length]] {
        let pem = pem("CERTIFICATE", &[longer, body].concat());
        let parts = SignatureParts { pem: Some(pem), ..SignatureParts::new(Key::p256()) };
        assert_eq!(refused(&parts.image().build()), "image-signature-certificate");
    }
}

#[test]
fn other_keys_are_refused() {
    let key = Key::p384();
    let mut certificate = key.certificate.clone();
    let oid = certificate.windows(5).position(|window| window == [0x2b, 0x81, 0x04, 0x00, 0x22]).unwrap();
    certificate[oid + 4] = 0x0a;
    let parts = SignatureParts { certificate, ..SignatureParts::new(key) };
    assert_eq!(refused(&parts.image().build()), "image-signature-key-type");
}

#[test]
fn the_section_has_one_encoding() {
    let parts = SignatureParts::new(Key::p384());
    let good = parts.section();
    let with = |section: &[u8]| Image::small().with(SIGNATURE, section).build();
    assert!(measure(&with(&good)).is_ok());
    // Every cut, and every single changed bit up to the certificate's text, is an encoding error.
    for length in 0..good.len() {
        let code = refused(&with(&good[..length]));
        assert_eq!(code, "image-signature-encoding", "cut after {length}");
    }
    for bit in 0..25 * 8 {
        let mut section = good.clone();
        section[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(refused(&with(&section)), "image-signature-encoding", "bit {bit}");
    }
    let encoding = |section: &[u8]| assert_eq!(refused(&with(section)), "image-signature-encoding");
    encoding(&[good.as_slice(), &[0]].concat());
    // Two entries; an indefinite array; a longer head than needed; a claimed length of 2^32.
    encoding(&[&[0x82][..], &good[1..], &good[1..]].concat());
    encoding(&[&[0x9f][..], &good[1..], &[0xff]].concat());
    encoding(&[&[0x98, 1][..], &good[1..]].concat());
    encoding(&[&good[..22], &[0x9b, 0, 0, 0, 1, 0, 0, 0, 0]].concat());
}

#[test]
fn the_signed_structure_has_one_encoding() {
    let valid = || SignatureParts::new(Key::p384());
    let tagged = SignatureParts { tag: true, ..valid() };
    assert!(measure(&tagged.image().build()).is_ok());
    let encoding =
        |parts: SignatureParts| assert_eq!(refused(&parts.image().build()), "image-signature-encoding");
    encoding(SignatureParts { unprotected: vec![0xa1, 1, 1], ..valid() });
    encoding(SignatureParts { protected_extra: vec![0], ..valid() });
    encoding(SignatureParts { payload_extra: vec![0], ..valid() });
    encoding(SignatureParts { cose_extra: vec![0], ..valid() });
    encoding(SignatureParts { value_length: 47, ..valid() });
    encoding(SignatureParts { value_length: 49, ..valid() });
}

/// A signing key and a certificate for it.
pub(super) struct Key {
    pair: ecdsa::EcdsaKeyPair,
    certificate: Vec<u8>,
    algorithm: i64,
}

impl Key {
    pub(super) fn p256() -> Self {
        Self::new(&ecdsa::ECDSA_P256_SHA256_FIXED_SIGNING, Curve::P256)
    }

    pub(super) fn p384() -> Self {
        Self::new(&ecdsa::ECDSA_P384_SHA384_FIXED_SIGNING, Curve::P384)
    }

    #[cfg(feature = "aws-lc-rs")]
    fn p521() -> Self {
        Self::new(&ecdsa::ECDSA_P521_SHA512_FIXED_SIGNING, Curve::P521)
    }

    fn new(signing: &'static ecdsa::EcdsaSigningAlgorithm, curve: Curve) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = ecdsa::EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        #[cfg(feature = "aws-lc-rs")]
        let pair = ecdsa::EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref()).unwrap();
        #[cfg(not(feature = "aws-lc-rs"))]
        let pair = ecdsa::EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref(), &random).unwrap();
        let certificate = certificate(curve, pair.public_key().as_ref());
        Self { pair, certificate, algorithm: curve.cose_algorithm() }
    }
}

/// A certificate of version 1, as `openssl x509 -req` writes it, with an empty signature, which nobody reads.
fn certificate(curve: Curve, point: &[u8]) -> Vec<u8> {
    let algorithm = der(0x30, &[]);
    let point = [&[0], point].concat();
    let key_info = [der(0x30, curve.algorithm_identifier()), der(0x03, &point)].concat();
    let names = [der(0x02, &[1]), algorithm.clone(), der(0x30, &[]), der(0x30, &[]), der(0x30, &[])].concat();
    let to_be_signed = der(0x30, &[names, der(0x30, &key_info)].concat());
    der(0x30, &[to_be_signed, algorithm, der(0x03, &[0])].concat())
}

fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head.as_slice(), contents].concat()
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n").into_bytes();
    for group in der.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let character = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { character } else { b'=' });
        }
    }
    text.extend_from_slice(format!("\n-----END {label}-----\n").as_bytes());
    text
}

/// [`Image::small`], signed.
pub(super) fn signed(key: Key) -> Image {
    SignatureParts::new(key).image()
}

/// A signature section whose parts can be made wrong before it is signed.
struct SignatureParts {
    pair: ecdsa::EcdsaKeyPair,
    certificate: Vec<u8>,
    pem: Option<Vec<u8>>,
    algorithm: i64,
    register: u8,
    value_length: usize,
    tag: bool,
    unprotected: Vec<u8>,
    protected_extra: Vec<u8>,
    payload_extra: Vec<u8>,
    cose_extra: Vec<u8>,
    alter_signature: bool,
}

impl SignatureParts {
    fn new(key: Key) -> Self {
        Self {
            pair: key.pair,
            certificate: key.certificate,
            pem: None,
            algorithm: key.algorithm,
            register: 0,
            value_length: 48,
            tag: false,
            unprotected: vec![0xa0],
            protected_extra: vec![],
            payload_extra: vec![],
            cose_extra: vec![],
            alter_signature: false,
        }
    }

    fn image(&self) -> Image {
        Image::small().with(SIGNATURE, &self.section())
    }

    fn section(&self) -> Vec<u8> {
        let mut value = Image::small().pcr0().as_bytes().to_vec();
        value.resize(self.value_length, 0);
        let payload = [
            &[0xa2, 0x6e],
            b"register_index".as_slice(),
            &[self.register, 0x6e],
            b"register_value",
            &integers(&value),
            &self.payload_extra,
        ]
        .concat();
        let algorithm = head(0x20, usize::try_from(-1 - self.algorithm).unwrap());
        let protected = [&[0xa1, 1], algorithm.as_slice(), &self.protected_extra].concat();
        let signed =
            [b"\x84\x6aSignature1".as_slice(), &bytes(&protected), &bytes(&[]), &bytes(&payload)].concat();
        let mut signature = self.pair.sign(&SystemRandom::new(), &signed).unwrap().as_ref().to_vec();
        *signature.last_mut().unwrap() ^= u8::from(self.alter_signature);
        let cose = [
            if self.tag { &[0xd2, 0x84][..] } else { &[0x84] },
            &bytes(&protected),
            &self.unprotected,
            &bytes(&payload),
            &bytes(&signature),
            &self.cose_extra,
        ]
        .concat();
        let pem = self.pem.clone().unwrap_or_else(|| pem("CERTIFICATE", &self.certificate));
        [
            &[0x81, 0xa2, 0x73],
            b"signing_certificate".as_slice(),
            &integers(&pem),
            &[0x69],
            b"signature",
            &integers(&cose),
        ]
        .concat()
    }
}

fn head(major: u8, argument: usize) -> Vec<u8> {
    match argument {
        0..24 => vec![major | argument as u8],
        24..0x100 => vec![major | 24, argument as u8],
        _ => vec![major | 25, (argument >> 8) as u8, argument as u8],
    }
}

fn bytes(contents: &[u8]) -> Vec<u8> {
    [head(0x40, contents.len()).as_slice(), contents].concat()
}

fn integers(contents: &[u8]) -> Vec<u8> {
    let mut array = head(0x80, contents.len());
    contents.iter().for_each(|byte| array.extend(head(0, usize::from(*byte))));
    array
}

proptest::proptest! {
    #[test]
    fn no_input_panics(mut image in proptest::collection::vec(proptest::num::u8::ANY, 0..2000), frame: bool) {
        if frame {
            let small = Image::small().build();
            let length = small.len().min(image.len()).min(600);
            image[..length].copy_from_slice(&small[..length]);
        }
        let _ = measure(&image);
    }
}
