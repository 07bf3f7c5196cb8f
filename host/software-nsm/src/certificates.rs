//! The chain of certificates: root, regional, zonal, instance and leaf, with the profile of AWS's Nitro
//! attestation PKI.
//!
//! | level | validity | basic constraints | key usage | key identifiers |
//! |---|---|---|---|---|
//! | root | 30 years | CA | signature, certificates, CRLs | own |
//! | regional | 20 days, from an hour ago | CA, at most 2 below | signature, certificates, CRLs | own, issuer's |
//! | zonal | 6 days, from an hour ago | CA, at most 1 below | signature, certificates, CRLs | own, issuer's |
//! | instance | 1 day, from a minute ago | CA, none below | certificates | own, issuer's |
//! | leaf | 3 hours, from 3 s ago | no CA | signature, non-repudiation; not critical | none |
//!
//! Two things differ on purpose: the subjects say that this is development and do not name Amazon, and there
//! are no CRL distribution points, because nobody serves lists for a root that lives as long as a process.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING};
use cleanroom_attestation::digest::Sha256Digest;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    IsCa, Issuer, KeyUsagePurpose, SerialNumber, string::PrintableString,
};

use crate::NsmError;
use crate::key::{Key, random};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// How long the root is valid, in seconds: 30 years.
const ROOT_LIFETIME: u64 = 30 * 365 * DAY;
const REGIONAL_LIFETIME: u64 = 20 * DAY;
const ZONAL_LIFETIME: u64 = 6 * DAY - 3 * HOUR;
const INSTANCE_LIFETIME: u64 = DAY;
const LEAF_LIFETIME: u64 = 3 * HOUR;

/// AWS's private CA dates what it issues an hour back, so that clocks may differ.
const BACKDATED: u64 = HOUR;
/// An instance's certificate is older than the enclaves on it.
const INSTANCE_BACKDATED: u64 = 60;
/// Leaves begin three seconds before they are first used.
const LEAF_BACKDATED: u64 = 3;

/// A leaf is replaced when less than this remains, in seconds, so that no document is signed by one about to
/// end.
const RENEW_BEFORE: u64 = 600;

/// Latest time that the encoding of certificates is asked to represent (year 5138), in seconds since 1970.
const LATEST: u64 = 100_000_000_000;

/// A root of trust for development: made on the spot, kept in memory, gone with the process.
///
/// A verifier trusts it only if its user passes its certificate as a trust anchor, by name.
pub struct DevelopmentRoot {
    key: Key,
    params: CertificateParams,
    certificate: Certificate,
    not_before_s: u64,
    not_after_s: u64,
}

impl DevelopmentRoot {
    /// Makes a new root, valid for 30 years from an hour before `now_ms` (milliseconds since the Unix epoch).
    ///
    /// # Errors
    /// When no key could be made, or when `now_ms` is before 1970-01-01 01:00 or after the year 5000.
    pub fn generate(now_ms: u64) -> Result<Self, NsmError> {
        const LEVEL: &str = "root";
        let now_s = now_ms / 1000;
        let out_of_range =
            NsmError::Time { now_s, not_before_s: BACKDATED, not_after_s: LATEST - ROOT_LIFETIME };
        if now_s > LATEST - ROOT_LIFETIME {
            return Err(out_of_range);
        }
        let not_before_s = now_s.checked_sub(BACKDATED).ok_or(out_of_range)?;
        let not_after_s = now_s + ROOT_LIFETIME;
        let key = Key::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)?;
        let mut params = authority(BasicConstraints::Unconstrained, not_before_s, not_after_s);
        params.serial_number = Some(SerialNumber::from_slice(&random::<16>()?));
        params.distinguished_name = name(LEVEL, "development.nitro-enclaves".to_owned(), None)?;
        let certificate = params.self_signed(&key).map_err(|error| encoding(LEVEL, &error))?;
        Ok(Self { key, params, certificate, not_before_s, not_after_s })
    }

    /// The root certificate, DER.
    #[must_use]
    pub fn root_certificate_der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// The root certificate, PEM (RFC 7468).
    #[must_use]
    pub fn root_certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// SHA-256 of the root certificate's DER: what a policy pins.
    #[must_use]
    pub fn fingerprint(&self) -> Sha256Digest {
        Sha256Digest::of(&[self.root_certificate_der()])
    }
}

/// Who the certificates are issued to.
pub(crate) struct Names {
    /// For instance `i-0123456789abcdef0`.
    pub(crate) instance_id: String,
    /// What the module is part of.
    pub(crate) kind: Kind,
    /// The module's 8 bytes in the module id.
    pub(crate) number: [u8; 8],
    /// For instance `development-1`.
    pub(crate) region: String,
}

/// What a security module is part of.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// An enclave.
    Enclave,
    /// An instance, as its TPM.
    Tpm,
}

impl Names {
    /// `<instance id>-enc<number>` or `<instance id>-tpm<number>`.
    pub(crate) fn module_id(&self) -> String {
        let kind = match self.kind {
            Kind::Enclave => "enc",
            Kind::Tpm => "tpm",
        };
        format!("{}-{kind}{}", self.instance_id, hex::encode(self.number))
    }
}

/// The certificates below the root and their keys. Each is renewed in time, and never outlives its issuer.
pub(crate) struct Chain {
    root: Arc<DevelopmentRoot>,
    names: Names,
    regional: Issued,
    zonal: Issued,
    instance: Issued,
    leaf: Issued,
}

impl Chain {
    /// Issues all certificates, as of `now_s` seconds since the Unix epoch.
    pub(crate) fn issue(root: Arc<DevelopmentRoot>, names: Names, now_s: u64) -> Result<Self, NsmError> {
        let regional = regional(&root, &names, now_s)?;
        let zonal = zonal(&regional, &names, now_s)?;
        let instance = instance(&zonal, &names, now_s)?;
        let leaf = leaf(&instance, &names, now_s)?;
        Ok(Self { root, names, regional, zonal, instance, leaf })
    }

    /// Makes sure that the leaf is valid at `now_s` and for [`RENEW_BEFORE`] seconds more. A certificate that
    /// would end before the one to be issued below it is replaced first. On an error nothing that was valid
    /// is lost.
    pub(crate) fn renew(&mut self, now_s: u64) -> Result<(), NsmError> {
        if self.leaf.covers(now_s, RENEW_BEFORE) {
            return Ok(());
        }
        if !self.instance.covers(now_s, LEAF_LIFETIME) {
            if !self.zonal.covers(now_s, INSTANCE_LIFETIME) {
                if !self.regional.covers(now_s, ZONAL_LIFETIME) {
                    self.regional = regional(&self.root, &self.names, now_s)?;
                }
                self.zonal = zonal(&self.regional, &self.names, now_s)?;
            }
            self.instance = instance(&self.zonal, &self.names, now_s)?;
        }
        self.leaf = leaf(&self.instance, &self.names, now_s)?;
        Ok(())
    }

    pub(crate) fn module_id(&self) -> String {
        self.names.module_id()
    }

    /// The certificate that signs documents, DER.
    pub(crate) fn leaf_der(&self) -> Vec<u8> {
        self.leaf.der.clone()
    }

    /// The key of that certificate.
    pub(crate) fn leaf_key(&self) -> &Key {
        &self.leaf.key
    }

    /// The certificates above the leaf, DER, root first.
    pub(crate) fn bundle(&self) -> Vec<Vec<u8>> {
        let below = [&self.regional, &self.zonal, &self.instance].map(|issued| issued.der.clone());
        std::iter::once(self.root.root_certificate_der().to_vec()).chain(below).collect()
    }
}

/// One certificate below the root, with its key.
struct Issued {
    key: Key,
    params: CertificateParams,
    der: Vec<u8>,
    not_before_s: u64,
    not_after_s: u64,
}

impl Issued {
    /// Whether the certificate is valid from `now_s` until `for_s` seconds later.
    fn covers(&self, now_s: u64, for_s: u64) -> bool {
        self.not_before_s <= now_s && now_s.saturating_add(for_s) <= self.not_after_s
    }

    fn issuer(&self) -> Issuer<'_, &Key> {
        Issuer::from_params(&self.params, &self.key)
    }
}

fn regional(root: &DevelopmentRoot, names: &Names, now_s: u64) -> Result<Issued, NsmError> {
    const LEVEL: &str = "regional";
    let not_before_s = now_s.saturating_sub(BACKDATED).max(root.not_before_s);
    let not_after_s = now_s.saturating_add(REGIONAL_LIFETIME);
    if now_s < root.not_before_s || not_after_s > root.not_after_s {
        return Err(NsmError::Time { now_s, not_before_s: root.not_before_s, not_after_s: root.not_after_s });
    }
    let mut params = authority(BasicConstraints::Constrained(2), not_before_s, not_after_s);
    let common = format!("{}.{}.development.nitro-enclaves", hex::encode(random::<8>()?), names.region);
    params.distinguished_name = name(LEVEL, common, None)?;
    let issuer = Issuer::from_params(&root.params, &root.key);
    below(LEVEL, &issuer, params, not_before_s, not_after_s)
}

fn zonal(regional: &Issued, names: &Names, now_s: u64) -> Result<Issued, NsmError> {
    const LEVEL: &str = "zonal";
    let not_before_s = now_s.saturating_sub(BACKDATED).max(regional.not_before_s);
    let not_after_s = now_s.saturating_add(ZONAL_LIFETIME);
    let mut params = authority(BasicConstraints::Constrained(1), not_before_s, not_after_s);
    let common = format!("{}.zonal.{}.development.nitro-enclaves", hex::encode(random::<8>()?), names.region);
    params.distinguished_name = name(LEVEL, common, Some("Development"))?;
    below(LEVEL, &regional.issuer(), params, not_before_s, not_after_s)
}

fn instance(zonal: &Issued, names: &Names, now_s: u64) -> Result<Issued, NsmError> {
    const LEVEL: &str = "instance";
    let not_before_s = now_s.saturating_sub(INSTANCE_BACKDATED).max(zonal.not_before_s);
    let not_after_s = not_before_s.saturating_add(INSTANCE_LIFETIME);
    let mut params = authority(BasicConstraints::Constrained(0), not_before_s, not_after_s);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let common = format!("{}.{}.development.nitro-enclaves", names.instance_id, names.region);
    params.distinguished_name = name(LEVEL, common, Some("Development"))?;
    below(LEVEL, &zonal.issuer(), params, not_before_s, not_after_s)
}

fn leaf(instance: &Issued, names: &Names, now_s: u64) -> Result<Issued, NsmError> {
    const LEVEL: &str = "leaf";
    /// `SEQUENCE {}`: not a CA.
    const NOT_A_CA: [u8; 2] = [0x30, 0x00];
    /// `BIT STRING` with the bits digitalSignature and nonRepudiation.
    const SIGNS_DOCUMENTS: [u8; 4] = [0x03, 0x02, 0x06, 0xc0];

    let not_before_s = now_s.saturating_sub(LEAF_BACKDATED).max(instance.not_before_s);
    let not_after_s = now_s.saturating_add(LEAF_LIFETIME);
    let mut params = validity(not_before_s, not_after_s);
    // As AWS does it: the enclave's id, then the time of issue.
    let mut serial = names.number.to_vec();
    serial.extend_from_slice(&not_before_s.to_be_bytes());
    params.serial_number = Some(SerialNumber::from(serial));
    params.distinguished_name =
        name(LEVEL, format!("{}.{}.aws", names.module_id(), names.region), Some("Development"))?;
    // rcgen would add a key identifier and mark the key usage critical; AWS's leaves have neither.
    let mut basic_constraints = CustomExtension::from_oid_content(&[2, 5, 29, 19], NOT_A_CA.to_vec());
    basic_constraints.set_criticality(true);
    let key_usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], SIGNS_DOCUMENTS.to_vec());
    params.custom_extensions = vec![basic_constraints, key_usage];

    let key = Key::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?;
    let certificate = params.signed_by(&key, &instance.issuer()).map_err(|error| encoding(LEVEL, &error))?;
    Ok(Issued { key, params, der: certificate.der().to_vec(), not_before_s, not_after_s })
}

/// Issues an intermediate authority below `issuer`.
fn below(
    level: &'static str,
    issuer: &Issuer<'_, &Key>,
    mut params: CertificateParams,
    not_before_s: u64,
    not_after_s: u64,
) -> Result<Issued, NsmError> {
    params.serial_number = Some(SerialNumber::from_slice(&random::<16>()?));
    params.use_authority_key_identifier_extension = true;
    let key = Key::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)?;
    let certificate = params.signed_by(&key, issuer).map_err(|error| encoding(level, &error))?;
    Ok(Issued { key, params, der: certificate.der().to_vec(), not_before_s, not_after_s })
}

/// What the authorities of the chain have in common.
fn authority(constraints: BasicConstraints, not_before_s: u64, not_after_s: u64) -> CertificateParams {
    let mut params = validity(not_before_s, not_after_s);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn validity(not_before_s: u64, not_after_s: u64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    // Every caller is under a root that was checked against LATEST; the limit keeps the addition from
    // overflowing anyway.
    params.not_before = epoch + Duration::from_secs(not_before_s.min(LATEST));
    params.not_after = epoch + Duration::from_secs(not_after_s.min(LATEST));
    params
}

/// A subject of AWS's shape. The country is ZZ, which ISO 3166 leaves to users.
fn name(level: &'static str, common: String, place: Option<&str>) -> Result<DistinguishedName, NsmError> {
    let mut name = DistinguishedName::new();
    let country = PrintableString::try_from("ZZ").map_err(|error| encoding(level, &error))?;
    name.push(DnType::CountryName, DnValue::PrintableString(country));
    if let Some(place) = place {
        name.push(DnType::StateOrProvinceName, place);
        name.push(DnType::LocalityName, place);
    }
    name.push(DnType::OrganizationName, "Cleanroom");
    name.push(DnType::OrganizationalUnitName, "Development");
    name.push(DnType::CommonName, common);
    Ok(name)
}

fn encoding(level: &'static str, error: &rcgen::Error) -> NsmError {
    NsmError::Certificate { level, reason: error.to_string() }
}
