//! The validation of a chain.

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use super::cache::{ChainCache, Keys};
use super::certificate::{Certificate, KeyUsage, PUBLIC_KEY_LENGTH, Window};
use super::error::{ChainError, Position};
use super::{TrustAnchor, name};
use crate::crypto::CERTIFICATE_ALGORITHM;
use crate::digest::Sha256Digest;
use crate::time::Timestamp;

/// The certificates above a leaf, validated together.
#[derive(Debug, Clone)]
pub(super) struct Authorities {
    pub(super) root: Sha256Digest,
    /// When all of them are valid.
    pub(super) window: Window,
}

/// A validated chain: what of it the appraisal needs.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    /// The SHA-256 of the root certificate.
    pub(crate) root: Sha256Digest,
    /// The SHA-256 of the leaf certificate.
    pub(crate) leaf: Sha256Digest,
    /// When all certificates are valid.
    pub(super) window: Window,
    pub(super) leaf_window: Window,
    /// The leaf's key, an uncompressed point of P-384.
    pub(crate) public_key: [u8; PUBLIC_KEY_LENGTH],
    /// The leaf subject's common name, if it has exactly one.
    pub(crate) common_name: Option<String>,
}

impl Chain {
    /// The first and last second in which the leaf is valid.
    pub(crate) const fn leaf_window(&self) -> (Timestamp, Timestamp) {
        (self.leaf_window.not_before, self.leaf_window.not_after)
    }

    /// Whether the leaf is valid at a time.
    pub(crate) const fn leaf_is_valid_at(&self, at: Timestamp) -> bool {
        self.leaf_window.contains(at)
    }

    /// The last second in which every certificate is valid.
    pub(crate) const fn not_after(&self) -> Timestamp {
        self.window.not_after
    }
}

/// Validates the chain from `leaf` through `bundle` (root first) to one of `anchors`, at the caller's time.
pub(crate) fn validate<'p>(
    bundle: &[&[u8]],
    leaf: &[u8],
    anchors: &'p [TrustAnchor],
    at: Timestamp,
    cache: Option<&mut ChainCache>,
) -> Result<(Chain, &'p TrustAnchor), ChainError> {
    let Some(cache) = cache else {
        let (_, chain, anchor) = validate_all(bundle, leaf, anchors, at)?;
        return Ok((chain, anchor));
    };
    let keys = Keys::of(bundle, leaf);
    if let Some(chain) = cache.chain(&keys, at)
        && let Some(anchor) = trusted(anchors, &chain.root)
    {
        return Ok((chain.clone(), anchor));
    }
    let known = cache.authorities(&keys, at);
    if let Some(authorities) = known
        && let Some(anchor) = trusted(anchors, &authorities.root)
    {
        let chain = validate_leaf(bundle, leaf, authorities, at)?;
        cache.insert_chain(&keys, chain.clone());
        return Ok((chain, anchor));
    }
    let (authorities, chain, anchor) = validate_all(bundle, leaf, anchors, at)?;
    cache.insert_authorities(&keys, authorities);
    cache.insert_chain(&keys, chain.clone());
    Ok((chain, anchor))
}

fn trusted<'p>(anchors: &'p [TrustAnchor], root: &Sha256Digest) -> Option<&'p TrustAnchor> {
    anchors.iter().find(|anchor| anchor.sha256() == root)
}

/// Validates everything: four signatures for a bundle of four.
fn validate_all<'p>(
    bundle: &[&[u8]],
    leaf: &[u8],
    anchors: &'p [TrustAnchor],
    at: Timestamp,
) -> Result<(Authorities, Chain, &'p TrustAnchor), ChainError> {
    let (root_der, intermediates) =
        bundle.split_first().ok_or_else(|| untrusted(anchors, "(none)".to_owned()))?;
    let root = Sha256Digest::of(&[root_der]);
    let anchor = trusted(anchors, &root).ok_or_else(|| untrusted(anchors, root.to_string()))?;

    let mut issuer = read(root_der, Position::Bundle(0))?;
    let mut window = issuer.window;
    check_authority(&issuer, 0, intermediates.len())?;
    check_issued_by(&issuer, &issuer, Position::Bundle(0))?;
    check_window(&issuer, Position::Bundle(0), at)?;
    for (below, (index, der)) in (0..intermediates.len()).rev().zip((1..).zip(intermediates)) {
        let position = Position::Bundle(index);
        let certificate = read(der, position)?;
        check_authority(&certificate, index, below)?;
        check_issued_by(&certificate, &issuer, position)?;
        if certificate.subject == certificate.issuer {
            return Err(ChainError::SelfIssued { position });
        }
        check_window(&certificate, position, at)?;
        window = window.intersection(certificate.window);
        issuer = certificate;
    }
    let authorities = Authorities { root, window };
    let chain = check_leaf(leaf, &issuer, &authorities, at)?;
    check_path(root_der, intermediates, leaf, at)?;
    Ok((authorities, chain, anchor))
}

/// Validates a leaf under authorities that were validated before: one signature.
fn validate_leaf(
    bundle: &[&[u8]],
    leaf: &[u8],
    authorities: &Authorities,
    at: Timestamp,
) -> Result<Chain, ChainError> {
    let Some((issuer_der, above)) = bundle.split_last() else {
        return Err(untrusted(&[], "(none)".to_owned()));
    };
    let issuer = read(issuer_der, Position::Bundle(above.len()))?;
    let chain = check_leaf(leaf, &issuer, authorities, at)?;
    check_path(issuer_der, &[], leaf, at)?;
    Ok(chain)
}

fn untrusted(anchors: &[TrustAnchor], actual: String) -> ChainError {
    let names: Vec<_> = anchors.iter().map(TrustAnchor::name).collect();
    ChainError::RootNotTrusted { expected: names.join(", "), actual }
}

fn read(der: &[u8], position: Position) -> Result<Certificate<'_>, ChainError> {
    Certificate::parse(der).map_err(|error| ChainError::Certificate { position, error })
}

/// What every certificate above the leaf must be. `below` counts the intermediate certificates under it.
fn check_authority(certificate: &Certificate<'_>, index: usize, below: usize) -> Result<(), ChainError> {
    let position = Position::Bundle(index);
    let constraints = certificate.extensions.basic_constraints.filter(|constraints| constraints.ca);
    let constraints = constraints.ok_or(ChainError::NotCa { position })?;
    if let Some(expected) = constraints.path_length
        && below > usize::from(expected)
    {
        return Err(ChainError::PathLength { position, expected, actual: below });
    }
    if !certificate.extensions.key_usage.is_some_and(KeyUsage::key_cert_sign) {
        return Err(ChainError::MayNotSignCertificates { position });
    }
    Ok(())
}

/// Names and, where the certificate gives one, the key identifier. Names are compared byte by byte: Nitro's PKI copies
/// them unchanged, and the folding of RFC 5280 section 7.1 would only add ways to be mistaken.
fn check_issued_by(
    certificate: &Certificate<'_>,
    issuer: &Certificate<'_>,
    position: Position,
) -> Result<(), ChainError> {
    if certificate.issuer != issuer.subject {
        let (expected, actual) = (name::text(issuer.subject), name::text(certificate.issuer));
        return Err(ChainError::IssuerName { position, expected, actual });
    }
    if let Some(actual) = certificate.extensions.authority_key_identifier
        && issuer.extensions.subject_key_identifier != Some(actual)
    {
        let expected = issuer.extensions.subject_key_identifier.map_or("(none)".to_owned(), hex::encode);
        return Err(ChainError::AuthorityKey { position, expected, actual: hex::encode(actual) });
    }
    Ok(())
}

fn check_window(certificate: &Certificate<'_>, position: Position, at: Timestamp) -> Result<(), ChainError> {
    let Window { not_before, not_after } = certificate.window;
    if at.as_seconds() < not_before.as_seconds() {
        return Err(ChainError::NotYetValid { position, not_before, at });
    }
    if at.as_seconds() > not_after.as_seconds() {
        return Err(ChainError::Expired { position, not_after, at });
    }
    Ok(())
}

fn check_leaf(
    der: &[u8],
    issuer: &Certificate<'_>,
    authorities: &Authorities,
    at: Timestamp,
) -> Result<Chain, ChainError> {
    let leaf = read(der, Position::Leaf)?;
    if leaf.extensions.basic_constraints.is_some_and(|constraints| constraints.ca) {
        return Err(ChainError::LeafIsCa);
    }
    let usage = leaf.extensions.key_usage.ok_or(ChainError::LeafMayNotSign)?;
    if !usage.digital_signature() {
        return Err(ChainError::LeafMayNotSign);
    }
    if usage.key_cert_sign() {
        return Err(ChainError::LeafMaySignCertificates);
    }
    check_issued_by(&leaf, issuer, Position::Leaf)?;
    check_window(&leaf, Position::Leaf, at)?;
    Ok(Chain {
        root: authorities.root,
        leaf: Sha256Digest::of(&[der]),
        window: authorities.window.intersection(leaf.window),
        leaf_window: leaf.window,
        public_key: *leaf.public_key,
        common_name: leaf.common_name().map(str::to_owned),
    })
}

/// The second opinion, and the only place where signatures of certificates are verified: `rustls-webpki`, which must find
/// a path, and the path must be exactly these certificates in this order.
fn check_path(anchor: &[u8], intermediates: &[&[u8]], leaf: &[u8], at: Timestamp) -> Result<(), ChainError> {
    let anchor = CertificateDer::from(anchor);
    let anchors = [webpki::anchor_from_trusted_cert(&anchor).map_err(path_error)?];
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(path_error)?;
    let certificates: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(*der)).collect();
    // The pass before this one has refused every extended key usage, so that the one named here is never looked for.
    let usage = webpki::KeyUsage::client_auth();
    let time = UnixTime::since_unix_epoch(core::time::Duration::from_secs(at.as_seconds()));
    let path = leaf
        .verify_for_usage(&[CERTIFICATE_ALGORITHM], &anchors, &certificates, time, usage, None, None)
        .map_err(path_error)?;
    // webpki counts from the leaf upwards.
    if path.intermediate_certificates().rev().map(webpki::Cert::der).eq(certificates.iter().cloned()) {
        Ok(())
    } else {
        Err(ChainError::OtherPath)
    }
}

fn path_error(error: webpki::Error) -> ChainError {
    match error {
        webpki::Error::InvalidSignatureForPublicKey => ChainError::Signature,
        error => ChainError::Path { reason: error.to_string() },
    }
}
