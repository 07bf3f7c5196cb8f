//! The validation of a chain.

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use super::anchor::TrustAnchor;
use super::cache::ChainCache;
use super::certificate::{Certificate, KeyUsage};
use super::error::{ChainError, Position};
use super::name;
use super::validated::{Authorities, Certificates, Chain};
use super::window::{Clock, Outside, Window};
use crate::crypto::{CERTIFICATE_ALGORITHM, Es384Key};
use crate::digest::Sha256Digest;
use crate::time::Timestamp;

/// Validates the chain from the leaf through the bundle (root first) to one of `anchors`, by the caller's clock.
///
/// The answer is the same with and without a cache: known certificates shorten the way to a yes, and every no comes from the
/// validation of everything.
pub(crate) fn validate<'p>(
    certificates: &Certificates<'_>,
    anchors: &'p [TrustAnchor],
    clock: Clock,
    cache: Option<&mut ChainCache>,
) -> Result<(Chain, &'p TrustAnchor), ChainError> {
    let Some(cache) = cache else {
        let (_, chain, anchor) = validate_all(certificates, anchors, clock)?;
        return Ok((chain, anchor));
    };
    if let Some(chain) = cache.chain(certificates, clock)
        && let Some(anchor) = trusted(anchors, &chain.root)
    {
        return Ok((chain.clone(), anchor));
    }
    if let Some(authorities) = cache.authorities(certificates, clock)
        && let Some(anchor) = trusted(anchors, &authorities.root)
        && let Ok(chain) = validate_leaf(certificates, authorities, clock)
    {
        cache.insert_chain(certificates, chain.clone());
        return Ok((chain, anchor));
    }
    let (authorities, chain, anchor) = validate_all(certificates, anchors, clock)?;
    cache.insert_authorities(certificates, authorities);
    cache.insert_chain(certificates, chain.clone());
    Ok((chain, anchor))
}

fn trusted<'p>(anchors: &'p [TrustAnchor], root: &Sha256Digest) -> Option<&'p TrustAnchor> {
    anchors.iter().find(|anchor| anchor.sha256() == root)
}

/// Validates everything: four signatures for a bundle of four.
fn validate_all<'p>(
    certificates: &Certificates<'_>,
    anchors: &'p [TrustAnchor],
    clock: Clock,
) -> Result<(Authorities, Chain, &'p TrustAnchor), ChainError> {
    let (root_der, intermediates) =
        certificates.bundle.split_first().ok_or_else(|| untrusted(anchors, "(none)".to_owned()))?;
    let root = Sha256Digest::of(&[root_der]);
    let anchor = trusted(anchors, &root).ok_or_else(|| untrusted(anchors, root.to_string()))?;

    let mut issuer = read(root_der, Position::Bundle(0))?;
    let mut windows = Windows::of(&issuer, Position::Bundle(0));
    check_authority(&issuer, 0, intermediates.len())?;
    check_issued_by(&issuer, &issuer, Position::Bundle(0))?;
    check_window(&issuer, Position::Bundle(0), clock)?;
    for (below, (index, der)) in (0..intermediates.len()).rev().zip((1..).zip(intermediates)) {
        let position = Position::Bundle(index);
        let certificate = read(der, position)?;
        check_authority(&certificate, index, below)?;
        check_issued_by(&certificate, &issuer, position)?;
        check_not_self_issued(&certificate, position)?;
        check_window(&certificate, position, clock)?;
        windows.add(&certificate, position);
        issuer = certificate;
    }
    let authorities = Authorities { root, window: windows.all };
    let leaf = read(certificates.leaf, Position::Leaf)?;
    check_leaf(&leaf, &issuer, clock)?;
    windows.add(&leaf, Position::Leaf);
    let judged = windows.judged(clock)?;
    check_path(root_der, intermediates, certificates.leaf, judged)?;
    Ok((authorities.clone(), chain(certificates.leaf, &leaf, &authorities), anchor))
}

/// Validates a leaf under authorities that were validated before: one signature.
fn validate_leaf(
    certificates: &Certificates<'_>,
    authorities: &Authorities,
    clock: Clock,
) -> Result<Chain, ChainError> {
    let Some((issuer_der, above)) = certificates.bundle.split_last() else {
        return Err(untrusted(&[], "(none)".to_owned()));
    };
    let issuer = read(issuer_der, Position::Bundle(above.len()))?;
    let leaf = read(certificates.leaf, Position::Leaf)?;
    check_leaf(&leaf, &issuer, clock)?;
    let mut windows = Windows { all: authorities.window, first_to_end: Position::Bundle(above.len()) };
    windows.add(&leaf, Position::Leaf);
    check_path(issuer_der, &[], certificates.leaf, windows.judged(clock)?)?;
    Ok(chain(certificates.leaf, &leaf, authorities))
}

/// When all certificates so far are valid, and which of them ends first.
struct Windows {
    all: Window,
    first_to_end: Position,
}

impl Windows {
    const fn of(certificate: &Certificate<'_>, position: Position) -> Self {
        Self { all: certificate.window, first_to_end: position }
    }

    fn add(&mut self, certificate: &Certificate<'_>, position: Position) {
        if certificate.window.not_after < self.all.not_after {
            self.first_to_end = position;
        }
        self.all = self.all.intersection(certificate.window);
    }

    /// The one time at which all of them are judged. A tolerance for the start of one certificate must not outlive the end of
    /// another.
    fn judged(&self, clock: Clock) -> Result<Timestamp, ChainError> {
        clock.within(self.all).map_err(|_| ChainError::Expired {
            position: self.first_to_end,
            not_after: self.all.not_after,
            at: clock.at.max(self.all.not_before),
        })
    }
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

fn check_not_self_issued(certificate: &Certificate<'_>, position: Position) -> Result<(), ChainError> {
    if certificate.subject == certificate.issuer {
        return Err(ChainError::SelfIssued { position });
    }
    Ok(())
}

fn check_window(certificate: &Certificate<'_>, position: Position, clock: Clock) -> Result<(), ChainError> {
    let Window { not_before, not_after } = certificate.window;
    let Clock { at, max_skew } = clock;
    match clock.within(certificate.window) {
        Ok(_) => Ok(()),
        Err(Outside::Early) => Err(ChainError::NotYetValid { position, not_before, at, max_skew }),
        Err(Outside::Late) => Err(ChainError::Expired { position, not_after, at: at.max(not_before) }),
    }
}

/// What a leaf must be.
fn check_leaf(leaf: &Certificate<'_>, issuer: &Certificate<'_>, clock: Clock) -> Result<(), ChainError> {
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
    check_issued_by(leaf, issuer, Position::Leaf)?;
    check_not_self_issued(leaf, Position::Leaf)?;
    check_window(leaf, Position::Leaf, clock)
}

/// What the appraisal needs of a chain whose leaf was validated under `authorities`.
fn chain(der: &[u8], leaf: &Certificate<'_>, authorities: &Authorities) -> Chain {
    Chain {
        root: authorities.root,
        leaf: Sha256Digest::of(&[der]),
        window: authorities.window.intersection(leaf.window),
        leaf_window: leaf.window,
        key: Es384Key::new(leaf.public_key),
        common_name: leaf.common_name().map(str::to_owned),
    }
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
