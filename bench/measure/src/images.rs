//! Images that AWS's own crate builds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use aws_nitro_enclaves_image_format::defs::{EifBuildInfo, EifIdentityInfo};
use aws_nitro_enclaves_image_format::utils::eif_reader::EifReader;
use aws_nitro_enclaves_image_format::utils::{EifBuilder, SignKeyData};
use cleanroom_attestation::measurement::{Measurement, Measurer, SectionKind, SignatureRequest};
use cleanroom_host::image::writer;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509NameBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha384};

use crate::Outcome;

/// The PCRs of a measurement as `nitro-cli` names them.
pub fn pcrs(measurement: &Measurement) -> Value {
    let mut pcrs = json!({
        "PCR0": measurement.pcr0,
        "PCR1": measurement.pcr1,
        "PCR2": measurement.pcr2,
    });
    if let Some(pcr8) = measurement.pcr8 {
        pcrs["PCR8"] = json!(pcr8);
    }
    pcrs
}

pub fn aws_pcrs(measurements: &BTreeMap<String, String>) -> Value {
    measurements
        .iter()
        .filter(|(name, _)| name.starts_with("PCR"))
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect()
}

/// Builds small images of every kind with AWS's crate and measures each with both; the number compared.
pub fn compare_small(directory: &Path) -> Outcome<usize> {
    let mut compared = 0;
    let curves = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];
    let signers = [None].into_iter().chain(curves.map(Some));
    for curve in signers {
        for ramdisks in 1..=3 {
            for version in [0, 2] {
                let path = directory.join("small.eif");
                let signer = curve.map(|curve| signing_key(directory, curve, version)).transpose()?;
                let sizes: Vec<u64> = (0..ramdisks).map(|index| 1000 + 333 * index).collect();
                build(directory, &path, 5000, &sizes, signer)?;
                let image = fs::read(&path)?;
                let mut measurer = Measurer::new();
                measurer.update(&image)?;
                let ours = measurer.finish()?;
                if written(directory, &image, &ours)? != image {
                    return Err("the writers differ".into());
                }
                let mut reader = EifReader::from_eif(path.to_string_lossy().into_owned())?;
                let measurements = reader.get_measurements()?;
                let theirs = aws_pcrs(&measurements);
                if pcrs(&ours) != theirs || !reader.check_crc() {
                    return Err(format!("different PCRs:\n{}\n{theirs}", pcrs(&ours)).into());
                }
                if curve.is_some() {
                    reader.get_certificate_info(measurements)?;
                    if reader.sign_check != Some(true) || ours.signing_certificate.is_none() {
                        return Err("different opinions of a signature".into());
                    }
                }
                compared += 1;
            }
        }
    }
    Ok(compared)
}

/// The image that cleanroom writes from the parts of an image: its kernel, command line and ramdisks, metadata with the same
/// values, and the same signature number around which it makes the whole signature section.
fn written(directory: &Path, image: &[u8], measurement: &Measurement) -> Outcome<Vec<u8>> {
    let build = &measurement.metadata.as_ref().ok_or("no metadata")?.build;
    let metadata = build.section("bench", "1", &Value::Null);
    let mut sections: Vec<(SectionKind, Vec<u8>)> = Vec::new();
    for section in &measurement.sections {
        let contents = &image[section.offset as usize..(section.offset + section.length) as usize];
        let contents = match section.kind {
            SectionKind::Metadata => metadata.clone(),
            SectionKind::Signature => {
                let pem = fs::read(directory.join("certificate.pem"))?;
                SignatureRequest::new(&pem, measurement.pcr0)?.section(&signature(contents)?)?
            }
            _ => contents.to_vec(),
        };
        sections.push((section.kind, contents));
    }
    let sections: Vec<(SectionKind, &[u8])> =
        sections.iter().map(|(kind, contents)| (*kind, contents.as_slice())).collect();
    Ok(writer::write(measurement.architecture, &sections)?)
}

/// r and s in a signature section: the last of the four parts of its `COSE_Sign1`.
fn signature(section: &[u8]) -> Outcome<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Entry {
        signature: Vec<u8>,
    }
    let entries: Vec<Entry> = serde_cbor::from_slice(section)?;
    let cose: Vec<serde_cbor::Value> = serde_cbor::from_slice(&entries.first().ok_or("no entry")?.signature)?;
    match cose.into_iter().next_back() {
        Some(serde_cbor::Value::Bytes(signature)) => Ok(signature),
        _ => Err("no signature".into()),
    }
}

/// An unsigned image of `mib` MiB: a kernel of 8, a first ramdisk of 16, and the application.
pub fn large(directory: &Path, mib: u64) -> Outcome<PathBuf> {
    let path = directory.join("large.eif");
    let rest = mib.checked_sub(24).filter(|rest| *rest > 0).ok_or("the image must have more than 24 MiB")?;
    build(directory, &path, 8 << 20, &[16 << 20, rest << 20], None)?;
    Ok(path)
}

fn build(
    directory: &Path,
    path: &Path,
    kernel: u64,
    ramdisks: &[u64],
    signer: Option<SignKeyData>,
) -> Outcome<()> {
    let kernel = write(directory, "kernel", kernel)?;
    let identity = EifIdentityInfo {
        img_name: "bench".into(),
        img_version: "1".into(),
        build_info: EifBuildInfo {
            build_time: "2026-01-01T00:00:00+00:00".into(),
            build_tool: "bench".into(),
            build_tool_version: "1".into(),
            img_os: "Linux".into(),
            img_kernel: "6.12".into(),
        },
        docker_info: json!({}),
        custom_info: Value::Null,
    };
    let command_line = "reboot=k panic=30 pci=off console=ttyS0".into();
    let mut builder = EifBuilder::new(&kernel, command_line, signer, Sha384::new(), 0, identity);
    for (index, length) in ramdisks.iter().enumerate() {
        builder.add_ramdisk(&write(directory, &format!("ramdisk{index}"), *length)?);
    }
    builder.write_to(&mut File::create(path)?);
    Ok(())
}

/// A file of bytes that do not repeat within any buffer.
fn write(directory: &Path, name: &str, length: u64) -> Outcome<PathBuf> {
    let path = directory.join(name);
    let mut file = File::create(&path)?;
    let mut state = length | 1;
    let mut left = length;
    let mut block = vec![0_u8; 1 << 20];
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let count = left.min(block.len() as u64);
        file.write_all(&block[..count as usize])?;
        left -= count;
    }
    Ok(path)
}

/// A key on `curve` with a self-signed certificate of X.509 version `version + 1`.
fn signing_key(directory: &Path, curve: Nid, version: i32) -> Outcome<SignKeyData> {
    let group = EcGroup::from_curve_name(curve)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "bench")?;
    let name = name.build();
    let mut certificate = X509::builder()?;
    certificate.set_version(version)?;
    certificate.set_subject_name(&name)?;
    certificate.set_issuer_name(&name)?;
    certificate.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    certificate.set_not_after(&*Asn1Time::days_from_now(20)?)?;
    certificate.set_pubkey(&key)?;
    certificate.sign(&key, MessageDigest::sha384())?;
    let (key_path, certificate_path) = (directory.join("key.pem"), directory.join("certificate.pem"));
    fs::write(&key_path, key.private_key_to_pem_pkcs8()?)?;
    fs::write(&certificate_path, certificate.build().to_pem()?)?;
    Ok(SignKeyData::new(&key_path.to_string_lossy(), &certificate_path)?)
}
