use std::fs;

use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::measurement::extended_once;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
    PKCS_ED25519, SignatureAlgorithm,
};
use tempfile::TempDir;

use super::super::testing::{NOW, inputs};
use super::*;
use crate::image::{BuildError, build};

/// A folder with `key.pem` and `certificate.pem`.
struct Identity {
    folder: TempDir,
    der: Vec<u8>,
}

impl Identity {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2025, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let certificate = parameters.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        fs::write(folder.path().join("certificate.pem"), certificate.pem()).unwrap();
        Self { folder, der: certificate.der().to_vec() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn signer(&self) -> Signer {
        Signer::with_key(&self.path("certificate.pem"), &self.path("key.pem")).unwrap()
    }

    fn commanded(&self, command: &str) -> Signer {
        Signer::with_command(&self.path("certificate.pem"), command).unwrap()
    }
}

fn refused(signer: &Signer, now: Timestamp) -> SigningError {
    match build(&inputs(), Some(signer), now) {
        Err(BuildError::Signing(error)) => error,
        other => panic!("expected a refusal to sign, got {other:?}"),
    }
}

/// Whether the signature, or its certificate, was refused for this reason.
fn is(error: &SigningError, reason: &SignatureError) -> bool {
    matches!(error, SigningError::Signature { source } if **source == *reason)
}

#[test]
fn every_curve_signs_and_pcr_8_names_the_certificate() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512] {
        let identity = Identity::new(algorithm);
        let signed = build(&inputs(), Some(&identity.signer()), NOW).unwrap();
        let unsigned = build(&inputs(), None, NOW).unwrap();
        // SHA-384 over the certificate's own SHA-384, as for the other registers.
        let expected = extended_once(Sha384Digest::of(&[&identity.der]).as_bytes());
        assert_eq!(signed.measurement.pcr8, Some(expected));
        assert_eq!(signed.measurement.pcr0, unsigned.measurement.pcr0);
        assert_eq!(signed.warnings, [""; 0]);
    }
}

#[test]
fn another_key_than_the_certificates_is_refused() {
    let (identity, other) = (Identity::new(&PKCS_ECDSA_P384_SHA384), Identity::new(&PKCS_ECDSA_P384_SHA384));
    let signer = Signer::with_key(&identity.path("certificate.pem"), &other.path("key.pem")).unwrap();
    let error = refused(&signer, NOW);
    assert!(is(&error, &SignatureError::Forged), "{error}");

    let other = Identity::new(&PKCS_ECDSA_P256_SHA256);
    let signer = Signer::with_key(&identity.path("certificate.pem"), &other.path("key.pem")).unwrap();
    assert!(matches!(refused(&signer, NOW), SigningError::Key { .. }));
    fs::write(identity.path("key.pem"), "nothing").unwrap();
    assert!(matches!(refused(&identity.signer(), NOW), SigningError::Key { .. }));
    let ed25519 = Identity::new(&PKCS_ED25519);
    let error = refused(&ed25519.signer(), NOW);
    assert!(is(&error, &SignatureError::KeyType), "{error}");
}

#[test]
fn a_certificate_must_be_in_force() {
    let identity = Identity::new(&PKCS_ECDSA_P384_SHA384);
    let at = |text: &str| Timestamp::from_rfc3339(text).unwrap();
    for time in ["2024-12-31T23:59:59Z", "2027-01-01T00:00:01Z"] {
        assert!(matches!(refused(&identity.signer(), at(time)), SigningError::NotInForce { .. }), "{time}");
    }
    let built = build(&inputs(), Some(&identity.signer()), at("2026-12-20T00:00:00Z")).unwrap();
    assert!(
        matches!(&built.warnings[..], [warning] if warning.contains("2027-01-01")),
        "{:?}",
        built.warnings
    );
}

#[test]
fn a_command_that_does_not_sign_is_an_error() {
    let identity = Identity::new(&PKCS_ECDSA_P384_SHA384);
    assert!(matches!(refused(&identity.commanded("cat > /dev/null"), NOW), SigningError::NoOutput));
    assert!(matches!(refused(&identity.commanded("exit 3"), NOW), SigningError::CommandStatus { .. }));
    // The digest itself is no signature, whole or doubled to the length of one.
    for command in ["cat", "cat > a; cat a a", "head -c 96 /dev/zero"] {
        let command = format!("cd '{}' && {command}", identity.folder.path().display());
        let error = refused(&identity.commanded(&command), NOW);
        assert!(is(&error, &SignatureError::Forged), "{error}");
    }
}

#[test]
fn a_program_signs() {
    let identity = Identity::new(&PKCS_ECDSA_P384_SHA384);
    let openssl = format!(
        "test $CLEANROOM_SIGN_HASH = SHA384 && openssl pkeyutl -sign -inkey '{}'",
        identity.path("key.pem").display()
    );
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("not tested: there is no openssl on this machine");
        return;
    }
    let built = build(&inputs(), Some(&identity.commanded(&openssl)), NOW).unwrap();
    assert!(built.measurement.pcr8.is_some());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = Path::new("/nonexistent/certificate.pem");
    assert!(Signer::with_key(missing, missing).unwrap_err().to_string().contains("/nonexistent"));
    assert!(Signer::with_command(missing, "true").is_err());
}
