//! A folder of receipts, one file each, as `cleanroom connect --receipts` keeps them.
//!
//! ```text
//! FOLDER/BOOT/key            the receipt key of that boot, base64 of the DER of its SubjectPublicKeyInfo
//! FOLDER/BOOT/00000017.json  the receipt at place 17 of that boot's log, with its salt
//! ```
//!
//! BOOT is SHA-256 of the receipt key in hexadecimal, so the key proves itself. The proxy has verified each receipt against its
//! session before it keeps it. Nothing that is read here is believed before it is verified again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::boot_of;
use cleanroom_attestation::receipt::{Delivered, MAX_DELIVERED_BYTES, ReceiptError, Salt, SignedReceipt};

/// The name of the file with a boot's key.
const KEY: &str = "key";
/// The longest key file, in bytes.
const MAX_KEY_BYTES: u64 = 1024;

/// A folder of receipts.
#[derive(Debug, Clone)]
pub struct ReceiptFolder(PathBuf);

/// A receipt of the folder, which the key of its boot signed.
pub struct KeptReceipt {
    /// The receipt.
    pub signed: SignedReceipt,
    /// Its salt, a secret of the partner.
    pub salt: Salt,
    /// The key that signed it, DER of its `SubjectPublicKeyInfo`.
    pub receipt_key: Vec<u8>,
    /// Its file.
    pub path: PathBuf,
}

/// A file of the folder is not the receipt that its name promises.
#[derive(Debug)]
pub struct BadFile {
    /// The file.
    pub path: PathBuf,
    /// A stable word for what is wrong.
    pub code: &'static str,
    /// What is wrong.
    pub problem: String,
}

impl ReceiptFolder {
    /// The folder at `path`.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads every receipt, boot by boot in the order of their places, and what is wrong with the rest.
    ///
    /// # Errors
    /// The folder itself cannot be read.
    pub fn read(&self) -> io::Result<(Vec<KeptReceipt>, Vec<BadFile>)> {
        let (mut receipts, mut bad) = (Vec::new(), Vec::new());
        for folder in sorted(&self.0)? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(boot) = name.parse::<Sha256Digest>() else { continue };
            match key(&folder, &boot) {
                Ok(key) => {
                    for path in sorted(&folder)? {
                        if path.extension().is_some_and(|extension| extension == "json") {
                            match receipt(&path, &key) {
                                Ok(receipt) => receipts.push(receipt),
                                Err(problem) => bad.push(problem),
                            }
                        }
                    }
                }
                Err(problem) => bad.push(problem),
            }
        }
        Ok((receipts, bad))
    }

    /// Keeps a receipt that was verified. It returns when file and folder are on the disk.
    ///
    /// # Errors
    /// The system refuses.
    #[cfg(feature = "online")]
    pub fn keep(
        &self,
        signed: &SignedReceipt,
        salt: &Salt,
        receipt_key: &[u8],
    ) -> Result<PathBuf, cleanroom_program::file::FileError> {
        use cleanroom_program::file::{PRIVATE, create_folder, replace, replace_if_changed};
        let folder = self.0.join(signed.receipt().boot.to_string());
        create_folder(&folder, 0o700)?;
        replace_if_changed(
            &folder.join(KEY),
            format!("{}\n", STANDARD.encode(receipt_key)).as_bytes(),
            PRIVATE,
        )?;
        let path = folder.join(format!("{:08}.json", signed.receipt().index));
        let delivered = Delivered { envelope: signed.to_json(), salt: salt.clone() };
        replace(&path, format!("{}\n", delivered.to_json()).as_bytes(), PRIVATE)?;
        Ok(path)
    }
}

/// What the numbers of the receipts say about those that are not there. Within a boot, a partner's receipts are numbered from 1,
/// and each names the digest of the one before it.
#[must_use]
pub fn gaps(receipts: &[KeptReceipt]) -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    let mut last: Option<&KeptReceipt> = None;
    for kept in receipts {
        let receipt = kept.signed.receipt();
        let before = last.filter(|last| {
            last.signed.receipt().boot == receipt.boot && last.signed.receipt().partner == receipt.partner
        });
        let expected = before.map_or(1, |last| last.signed.receipt().number.saturating_add(1));
        let place = format!("boot {}, number {}", receipt.boot, receipt.number);
        if receipt.number > expected {
            let missing = receipt.number.saturating_sub(expected);
            let problem = format!("{missing} of this partner's receipts before it are not in the folder");
            found.push((place, "receipt-gap", problem));
        } else if receipt.number < expected {
            found.push((
                place,
                "receipt-number",
                "the number was given before: the enclave's log was forked".to_owned(),
            ));
        } else if receipt.previous_sha256 != before.map(|last| last.signed.digest()) {
            let problem =
                "it names another receipt as the one before it: the enclave's log was forked".to_owned();
            found.push((place, "receipt-chain", problem));
        }
        last = Some(kept);
    }
    found
}

fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// Reads a file of at most `limit` bytes.
fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is longer than any of its kind"));
    }
    Ok(bytes)
}

fn key(folder: &Path, boot: &Sha256Digest) -> Result<Vec<u8>, BadFile> {
    let path = folder.join(KEY);
    let bad = |code, problem: String| BadFile { path: path.clone(), code, problem };
    let text = read(&path, MAX_KEY_BYTES).map_err(|error| bad("unreadable", error.to_string()))?;
    let key = STANDARD.decode(text.trim_ascii());
    let key = key.map_err(|_| bad("receipt-key", "expected the base64 of a receipt key".to_owned()))?;
    if boot_of(&key) == *boot {
        Ok(key)
    } else {
        Err(bad("receipt-key", "the key is not the one that the folder is named after".to_owned()))
    }
}

fn receipt(path: &Path, key: &[u8]) -> Result<KeptReceipt, BadFile> {
    let bad = |code, problem: String| BadFile { path: path.to_owned(), code, problem };
    let limit = u64::try_from(MAX_DELIVERED_BYTES).unwrap_or(u64::MAX);
    let bytes = read(path, limit).map_err(|error| bad("unreadable", error.to_string()))?;
    let wrong = |error: ReceiptError| bad(error.code(), error.to_string());
    let Delivered { envelope, salt } = Delivered::parse(&bytes).map_err(wrong)?;
    let signed = SignedReceipt::verify(&envelope, key).map_err(wrong)?;
    let name = format!("{:08}.json", signed.receipt().index);
    if path.file_name().is_some_and(|actual| actual == name.as_str()) {
        Ok(KeptReceipt { signed, salt, receipt_key: key.to_vec(), path: path.to_owned() })
    } else {
        Err(bad("receipt-name", format!("the receipt belongs into {name}")))
    }
}
