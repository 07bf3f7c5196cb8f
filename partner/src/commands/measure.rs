//! `cleanroom measure`: the PCRs of an image, of a certificate, of a role and of an instance.

pub(crate) mod boot_image;
mod deployment;
mod shared_source;
pub(crate) mod signer;

use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::measured_boot::BootMeasurement;
use cleanroom_attestation::measurement::{ImageError, Measurement, Measurer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use self::deployment::{Deployment, DeploymentArguments};
use self::shared_source::SharedSource;
use super::document_file;
use crate::clock::now;
use crate::outcome::{Failure, Outcome, usage};
use crate::output::{self, Listing, Terminal, printable};

/// Print the PCRs of an image: the values that whoever runs it can prove
///
/// An enclave image is read once, in constant memory. This command checks the layout, the CRC-32, and the
/// signature of a signed image. The values are those that `nitro-cli describe-eif` prints and that Nitro puts
/// into attestation documents. The registers of a deployment are computed from a certificate, a role and an
/// instance.
///
/// A unified kernel image, from which an instance with a NitroTPM boots, gives PCR 4, 7 and 12 of that
/// instance: started by the firmware itself, with Secure Boot off, and with nothing added beside it. The
/// values are those that AWS's `nitro-tpm-pcr-compute --image` prints.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Measure {
    /// The image file: an enclave image or a unified kernel image; `-` reads standard input
    #[arg(required_unless_present_any = ["certificate", "role", "instance"])]
    image: Option<PathBuf>,

    #[command(flatten)]
    deployment: DeploymentArguments,

    /// Print tables for your trust.toml instead of the report: an `[[image]]` or a `[[nitrotpm_image]]` of this name, and a
    /// `[deployment]` for a signer, a role and an instance
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    toml: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  cleanroom measure cleanroom.eif
  cleanroom measure cleanroom.eif --json
  cleanroom measure cleanroom.eif --toml \"cleanroom 0.1.0\" >> trust.toml
  cleanroom measure cleanroom.efi --toml \"cleanroom 0.1.0, NitroTPM\" >> trust.toml
  cleanroom measure --certificate signer.pem
  cleanroom measure --role arn:aws:iam::123456789012:role/cleanroom --instance i-0123456789abcdef0
  aws s3 cp s3://bucket/cleanroom.eif - | cleanroom measure -

Names of `nitro-cli describe-eif`, and ours:
  Measurements.PCR0, PCR1, PCR2, PCR8   PCR0, PCR1, PCR2, PCR8   (--json: pcr0, pcr1, pcr2, pcr8)
  EifVersion                            format                   (version)
  IsSigned                              signed                   (signing_certificate, or null)
  SigningCertificate                    signed                   (signing_certificate)
  SignatureCheck, CheckCRC              none: an image that fails either is refused
  ImageName, ImageVersion, Metadata     see `cleanroom explain`  (metadata)";

/// What `--json` prints: the image's members, and `deployment` for what was asked beside it.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    image: Option<&'a Measured>,
    #[serde(skip_serializing_if = "Deployment::is_empty")]
    deployment: &'a Deployment,
}

/// An image of either kind.
#[derive(Serialize)]
#[serde(untagged)]
enum Measured {
    Enclave(Box<Measurement>),
    Boot(Box<BootMeasurement>),
}

impl Measure {
    pub(crate) fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let deployment = self.deployment.measure()?;
        let image = self.image.as_deref().map(|path| Ok((path, Measured::of(path)?))).transpose()?;
        let measured = image.as_ref().map(|(_, measured)| measured);
        match measured {
            Some(Measured::Enclave(measurement))
                if deployment.pcr8.is_some() && measurement.pcr8 != deployment.pcr8 =>
            {
                return Err(Failure {
                    outcome: Outcome::Refused,
                    code: "image-signer",
                    message: "the image is not signed by the certificate that --certificate names".to_owned(),
                });
            }
            Some(Measured::Boot(_)) if !deployment.is_empty() => {
                let message = "--certificate, --role and --instance give registers of an enclave, and the image is for an \
                               instance with a NitroTPM, which has none of them: leave them out";
                return Err(usage("boot-image-deployment", message.to_owned()));
            }
            _ => {}
        }
        if let Some(name) = &self.toml {
            terminal.text(&policy_tables(name, measured, &deployment))?;
            return Ok(Outcome::Pass);
        }
        let mut listing = Listing::new();
        match &image {
            Some((path, Measured::Enclave(measurement))) => describe(&mut listing, path, measurement),
            Some((path, Measured::Boot(measurement))) => {
                boot_image::describe(&mut listing, path, measurement);
            }
            None => {}
        }
        deployment.add_to(&mut listing);
        terminal.report(&Report { image: measured, deployment: &deployment }, &listing)?;
        Ok(Outcome::Pass)
    }
}

impl Measured {
    fn of(path: &Path) -> Result<Self, Failure> {
        let mut source = document_file::open(path)?;
        let start = document_file::start_of(path, &mut source)?;
        if start.starts_with(boot_image::MAGIC) {
            let measurement = boot_image::measure(path, Cursor::new(start).chain(source))?;
            return Ok(Self::Boot(Box::new(measurement)));
        }
        let measurement = if path == Path::new("-") {
            measure_source(path, &mut Cursor::new(start).chain(source), None)?
        } else {
            // Opened again, because its length makes a progress bar possible.
            measure_path(path)?
        };
        Ok(Self::Enclave(Box::new(measurement)))
    }
}

/// Measures the enclave image at `path`, with a progress bar for large files on a terminal.
pub(crate) fn measure_path(path: &Path) -> Result<Measurement, Failure> {
    let unreadable = |error: &io::Error| Failure::unreadable(path, error);
    let mut file = File::open(path).map_err(|error| unreadable(&error))?;
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    if metadata.is_dir() {
        return Err(unreadable(&io::ErrorKind::IsADirectory.into()));
    }
    measure_source(path, &mut file, metadata.is_file().then_some(metadata.len()))
}

/// Measures what `source` gives, which is called `path` in messages, with a progress bar if it is long and on a terminal.
pub(crate) fn measure_source(
    path: &Path,
    source: &mut (impl Read + Send),
    length: Option<u64>,
) -> Result<Measurement, Failure> {
    let progress = progress_bar(length);
    let result = measure(source, |position| progress.set_position(position));
    progress.finish_and_clear();
    result.map_err(|error| match error {
        MeasureError::Read(error) => Failure::unreadable(path, &error),
        MeasureError::Image(error) => Failure {
            outcome: Outcome::Refused,
            code: error.code(),
            message: format!("{} is refused: {error} [{}]", path.display(), error.code()),
        },
    })
}

/// Why a stream has no measurement.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// It could not be read to its end.
    #[error("the image could not be read: {0}")]
    Read(#[from] io::Error),
    /// It is not an acceptable image.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Measures what `source` gives, on two threads: one hashes the whole image, the other the application, and whichever is ahead
/// reads. With two processors this takes as long as hashing every byte once. `progress` is told how many bytes are done.
///
/// # Errors
///
/// [`MeasureError`] when the source fails or the image is refused.
pub fn measure(source: &mut (impl Read + Send), progress: impl Fn(u64)) -> Result<Measurement, MeasureError> {
    let (mut image, mut application) = Measurer::new().split();
    let shared = SharedSource::new(source);
    let [for_image, for_application] = shared.sides();
    let measured = thread::scope(|scope| {
        // The measurer keeps its error for its end, and the other half meets the same one.
        let other = scope.spawn(|| for_application.each(|piece| application.update(&piece.bytes)));
        let mut position = 0;
        let measured: Result<(), ImageError> = for_image.each(|piece| {
            image.update_with(&piece.bytes, &piece.checksum)?;
            position += piece.bytes.len() as u64;
            progress(position);
            Ok(())
        });
        let _ = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        measured
    });
    // Both halves walk the same bytes. What the image's half says comes first, since it saw them with their checksum.
    measured?;
    if let Some(error) = shared.failure() {
        return Err(error.into());
    }
    Ok(image.finish(application.finish()?)?)
}

/// Files from this length on take long enough to show progress.
const WORTH_A_BAR: u64 = 64 << 20;

fn progress_bar(length: Option<u64>) -> ProgressBar {
    let shown = io::stderr().is_terminal() && length.is_none_or(|length| length >= WORTH_A_BAR);
    if !shown {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(10));
    let template = match length {
        Some(_) => {
            "measuring  {bar:32}  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left"
        }
        None => "measuring  {binary_bytes}  {binary_bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn describe(listing: &mut Listing, path: &Path, measurement: &Measurement) {
    listing.field("image", printable(&path.display().to_string()));
    listing.field("length", output::bytes(measurement.file_length));
    listing.field("format", format!("version {}, {}", measurement.version, measurement.architecture));
    listing.field(
        "signed",
        match &measurement.signing_certificate {
            Some(certificate) => format!(
                "yes, by {}, issued by {}\n{} certificate with SHA-256 {}\n{}",
                printable(&certificate.subject),
                printable(&certificate.issuer),
                certificate.curve,
                certificate.sha256,
                signer::validity(certificate, now())
            ),
            None => "no: PCR8 will be zero".into(),
        },
    );
    listing.heading("");
    for (name, value, _) in pcrs(measurement) {
        listing.field(name, value.to_string());
    }
}

/// Name, value and meaning of each PCR that an image determines.
pub(crate) fn pcrs(measurement: &Measurement) -> [(&'static str, Sha384Digest, &'static str); 4] {
    let unsigned = Sha384Digest::from_bytes([0; Sha384Digest::LENGTH]);
    [
        ("PCR0", measurement.pcr0, "the whole image"),
        ("PCR1", measurement.pcr1, "kernel, command line and first ramdisk"),
        ("PCR2", measurement.pcr2, "the application: every ramdisk but the first"),
        ("PCR8", measurement.pcr8.unwrap_or(unsigned), "the certificate that signed the image"),
    ]
}

/// Tables of a policy. What binds the deployment goes into one table, because a policy has one.
fn policy_tables(name: &str, image: Option<&Measured>, deployment: &Deployment) -> String {
    // Without control characters, a JSON string is a TOML basic string.
    let name = serde_json::Value::from(printable(name)).to_string();
    let (mut text, signer) = match image {
        Some(Measured::Enclave(measurement)) => {
            let Measurement { pcr0, pcr1, pcr2, pcr8, .. } = &**measurement;
            let table = format!(
                "[[image]]\nname = {name}\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n"
            );
            (table, *pcr8)
        }
        Some(Measured::Boot(measurement)) => (boot_image::policy_table(&name, measurement), None),
        None => (String::new(), None),
    };
    let pcr8 = deployment.pcr8.or(signer);
    if deployment.is_empty() && pcr8.is_none() {
        return text;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text += "[deployment]\n";
    for (register, value) in [("pcr3", deployment.pcr3), ("pcr4", deployment.pcr4), ("pcr8", pcr8)] {
        if let Some(value) = value {
            text += &format!("{register} = [\"{value}\"]\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::shared_source::{BUFFERS, PIECE};
    use super::*;
    use cleanroom_forge::image::small_image;

    /// Gives `pieces` one by one, then fails or ends.
    struct Scripted {
        pieces: Vec<io::Result<Vec<u8>>>,
    }

    impl Read for Scripted {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.pieces.is_empty() {
                return Ok(0);
            }
            let piece = self.pieces.remove(0)?;
            assert!(piece.len() <= buffer.len(), "the script gives small pieces");
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    fn at_once(image: &[u8]) -> Measurement {
        let mut measurer = Measurer::new();
        measurer.update(image).unwrap();
        measurer.finish().unwrap()
    }

    #[test]
    fn two_threads_measure_like_one() {
        // Long enough that every buffer goes round several times, and not a multiple of a piece.
        let image = small_image(&vec![7; 3 * BUFFERS * PIECE + 12_345]);
        let positions = std::cell::RefCell::new(Vec::new());
        let measurement =
            measure(&mut image.as_slice(), |position| positions.borrow_mut().push(position)).unwrap();
        assert_eq!(measurement, at_once(&image));
        assert!(positions.borrow().is_sorted());
        assert_eq!(positions.borrow().last(), Some(&(image.len() as u64)));
    }

    #[test]
    fn reads_short_and_interrupted_are_normal() {
        let image = small_image(b"application");
        let mut pieces: Vec<_> = image.chunks(100).map(|piece| Ok(piece.to_vec())).collect();
        pieces.insert(3, Err(io::ErrorKind::Interrupted.into()));
        assert_eq!(measure(&mut Scripted { pieces }, |_| ()).unwrap(), at_once(&image));
    }

    #[test]
    fn a_failing_source_is_no_measurement() {
        let image = small_image(b"application");
        let pieces = vec![Ok(image[..600].to_vec()), Err(io::ErrorKind::TimedOut.into())];
        let error = measure(&mut Scripted { pieces }, |_| ()).unwrap_err();
        assert!(matches!(error, MeasureError::Read(error) if error.kind() == io::ErrorKind::TimedOut));
    }

    #[test]
    fn a_refused_image_ends_the_reading() {
        // Refused in its first piece, while many more are waiting.
        let mut image = small_image(&vec![7; 4 * BUFFERS * PIECE]);
        image[0] = b'x';
        let error = measure(&mut image.as_slice(), |_| ()).unwrap_err();
        assert!(matches!(error, MeasureError::Image(error) if error.code() == "image-magic"));
    }

    #[test]
    fn a_source_that_fails_at_the_end_of_a_whole_image_is_no_measurement() {
        let image = small_image(b"application");
        let pieces = vec![Ok(image), Err(io::ErrorKind::TimedOut.into())];
        let error = measure(&mut Scripted { pieces }, |_| ()).unwrap_err();
        assert!(matches!(error, MeasureError::Read(_)), "{error}");
    }

    #[test]
    fn the_table_of_a_boot_image_is_a_policy() {
        let file = cleanroom_forge::boot_image::unified_kernel("252.4").bytes();
        let measurement = BootMeasurement::of(&file).unwrap();
        let table =
            policy_tables("a", Some(&Measured::Boot(Box::new(measurement.clone()))), &Deployment::default());
        let text = format!("version = 1\n[[trust_anchor]]\nname = \"aws\"\n{table}");
        let policy = cleanroom_attestation::policy::Policy::from_toml(&text).unwrap();
        let pinned = policy.tpm_images()[0].pcrs();
        let expected =
            [(4, measurement.pcr4), (7, measurement.pcr7), (12, Sha384Digest::from_bytes([0; 48]))];
        assert_eq!(pinned, &expected.into_iter().collect());
    }

    #[test]
    fn the_table_is_for_the_policy() {
        let measurement = at_once(&small_image(b"application"));
        let expected = format!(
            "[[image]]\nname = \"a \\\"b\\\"\"\npcr0 = \"{}\"\npcr1 = \"{}\"\npcr2 = \"{}\"\n",
            measurement.pcr0, measurement.pcr1, measurement.pcr2
        );
        let nothing = Deployment::default();
        let image = |measurement: &Measurement| Measured::Enclave(Box::new(measurement.clone()));
        assert_eq!(policy_tables("a \"b\"", Some(&image(&measurement)), &nothing), expected);
        let pcr4 = Some(Sha384Digest::from_bytes([4; 48]));
        let instance = Deployment::of_registers(None, pcr4, None);
        let table = format!("[deployment]\npcr4 = [\"{}\"]\n", "04".repeat(48));
        assert_eq!(policy_tables("a", None, &instance), table);
        // The signer of a signed image is kept, beside the rest of the deployment.
        let mut signed = measurement;
        signed.pcr8 = Some(Sha384Digest::from_bytes([8; 48]));
        let both = policy_tables("a \"b\"", Some(&image(&signed)), &instance);
        assert_eq!(both, format!("{expected}\n{table}pcr8 = [\"{}\"]\n", "08".repeat(48)));
    }
}
