//! `cleanroom-host image`: build images, look into them, compare them.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use cleanroom_attestation::measured_boot::BootMeasurement;
use cleanroom_attestation::measurement::{ApplicationPath, Measurement, Metadata, SigningCertificate};
use cleanroom_attestation::time::Timestamp;
use cleanroom_host::image::build::{ApplicationInput, BuildError, CONFIGURATION, Input, Inputs, PROGRAM};
use cleanroom_host::image::inspect::{Application, Ramdisk};
use cleanroom_host::image::summary::{summary, summary_unified};
use cleanroom_host::image::{self, ImageFileError, Inspection, Signer, SigningError};
use cleanroom_program::file::{self, FileError};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};

/// The exit status of `diff` for images that differ.
pub(crate) const DIFFERENT: u8 = 5;

#[derive(Subcommand)]
pub(crate) enum ImageCommand {
    /// Put an enclave image together: kernel, command line and two ramdisks, without a container runtime.
    #[command(after_help = BUILD_HELP)]
    Build(Box<BuildArguments>),

    /// Show the contents of an image: PCRs, sections, and every file of its ramdisks.
    #[command(after_help = "\
Examples:
  cleanroom-host image inspect cleanroom.eif
  cleanroom-host --json image inspect cleanroom.eif")]
    Inspect(InspectArguments),

    /// Show where two images differ, and which PCRs each difference changes.
    #[command(after_help = "\
Example:
  cleanroom-host image diff cleanroom.eif rebuilt.eif

Exit status: 0 the images are the same, 5 they differ, 1 one of them is none.")]
    Diff(DiffArguments),
}

const BUILD_HELP: &str = "\
The same inputs give the same image, bit for bit; a signed one has another
signature each time and the same PCRs. Beside the image comes a build summary
(in-toto statement with SLSA provenance) that has the digest of every input.

--sign-command is run by the shell. It gets the digest (raw: 48 bytes of
SHA-384 for a P-384 certificate) on standard input and gives the signature, DER
or r and s, on standard output:
  a PKCS#11 token  pkcs11-tool --module MODULE --sign --mechanism ECDSA --id 01 --signature-format openssl \\
                     --input-file /dev/stdin --output-file /dev/stdout
  AWS KMS          aws kms sign --key-id ALIAS --message-type DIGEST --signing-algorithm ECDSA_SHA_384 \\
                     --message fileb:///dev/stdin --query Signature --output text | base64 -d

Example:
  cleanroom-host image build --kernel target/image/kernel/bzImage --init target/image/cleanroom-init \\
      --enclave target/image/cleanroom-enclave --config enclave.toml --output cleanroom.eif

Example: for instances with a NitroTPM
  cleanroom-host image build --stub /usr/lib/systemd/boot/efi/linuxx64.efi.stub \\
      --kernel target/image/nitrotpm/kernel/bzImage --init target/image/nitrotpm/cleanroom-init \\
      --enclave target/image/nitrotpm/cleanroom-instance --config enclave.toml --output cleanroom.efi";

#[derive(Args)]
pub(crate) struct BuildArguments {
    /// Make a unified kernel image, for instances with a NitroTPM: systemd's stub, which is linuxx64.efi.stub in
    /// Debian's package systemd-boot-efi. Such an image is not signed, since nothing would check it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sign_certificate", "sign_key", "sign_command"])]
    stub: Option<PathBuf>,

    /// The kernel, a bzImage; image/kernel/build makes it.
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,

    /// The program that the kernel starts (cleanroom-init, static).
    #[arg(long, value_name = "FILE")]
    init: PathBuf,

    /// The program that serves: cleanroom-enclave or, in a unified kernel image, cleanroom-instance; static.
    #[arg(long, value_name = "FILE")]
    enclave: PathBuf,

    /// Its configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// A further file for the enclave, like /app/root.json=root.json. May be given several times.
    #[arg(long, value_name = "PATH=FILE", value_parser = further_file)]
    add: Vec<(ApplicationPath, PathBuf)>,

    /// The file to write the image to.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// The file to write the build summary to. Default: beside the image, with `.summary.json` added to its
    /// name.
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,

    /// A JSON file to copy into the build summary under this name, like
    /// kernel=target/image/kernel/bzImage.json.
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    record: Vec<(String, PathBuf)>,

    /// The image's name (not measured).
    #[arg(long, default_value = "cleanroom")]
    name: String,

    /// The image's version (not measured).
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    image_version: String,

    /// The build time that the image states, as RFC 3339 (not measured). By default it is the same for every
    /// build.
    #[arg(long, value_name = "TIME", default_value = "1970-01-01T00:00:00Z", value_parser = Timestamp::from_rfc3339)]
    time: Timestamp,

    /// Sign the image with this private key: PEM, on P-256, P-384 or P-521.
    #[arg(long, value_name = "FILE", requires = "sign_certificate", conflicts_with = "sign_command")]
    sign_key: Option<PathBuf>,

    /// Sign the image with the signature that this command prints; see below.
    #[arg(long, value_name = "COMMAND", requires = "sign_certificate")]
    sign_command: Option<String>,

    /// The certificate of the signing key, in PEM. PCR 8 measures it.
    #[arg(long, value_name = "FILE")]
    sign_certificate: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct InspectArguments {
    /// The image.
    image: PathBuf,
}

#[derive(Args)]
pub(crate) struct DiffArguments {
    /// An image.
    first: PathBuf,

    /// Another image.
    second: PathBuf,
}

fn further_file(text: &str) -> Result<(ApplicationPath, PathBuf), String> {
    let (path, file) = text.split_once('=').ok_or("expected PATH=FILE, like /app/root.json=root.json")?;
    Ok((path.parse().map_err(|error| format!("{error}"))?, file.into()))
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE")?;
    Ok((name.to_owned(), file.into()))
}

/// Does what was asked. `say` puts text on standard output.
pub(crate) fn execute(
    command: &ImageCommand,
    json: bool,
    say: impl Fn(&str) -> io::Result<()>,
) -> Result<ExitCode, ImageFailure> {
    match command {
        ImageCommand::Build(arguments) => {
            let (report, page) = build(arguments)?;
            let text = if json { report.to_string() } else { page };
            say(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        ImageCommand::Inspect(arguments) => {
            let inspection = inspect(&arguments.image)?;
            let text = if json { json!(inspection).to_string() } else { page(&inspection) };
            say(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        ImageCommand::Diff(arguments) => {
            let (first, second) = (inspect(&arguments.first)?, inspect(&arguments.second)?);
            let differences = image::diff(&first, &second);
            if json {
                say(&json!({ "same": differences.is_empty(), "differences": differences }).to_string())?;
            } else if differences.is_empty() {
                say("the images are the same")?;
            }
            for difference in differences.iter().filter(|_| !json) {
                say(&difference_page(difference))?;
            }
            Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
        }
    }
}

/// Builds an image, and gives its summary and a page about it.
fn build(arguments: &BuildArguments) -> Result<(Value, String), ImageFailure> {
    let progress = progress();
    progress.set_message("reading the inputs");
    let executable = |path: &ApplicationPath| path.as_str() == PROGRAM;
    let mut application = Vec::new();
    let fixed = [(PROGRAM, &arguments.enclave), (CONFIGURATION, &arguments.config)];
    let fixed = fixed.into_iter().filter_map(|(path, file)| Some((path.parse().ok()?, file.clone())));
    for (path, file) in fixed.chain(arguments.add.iter().cloned()) {
        let executable = executable(&path);
        application.push(ApplicationInput { path, executable, input: input(&file)? });
    }
    let inputs = Inputs {
        kernel: input(&arguments.kernel)?,
        init: input(&arguments.init)?,
        application,
        name: arguments.name.clone(),
        version: arguments.image_version.clone(),
        time: arguments.time,
    };
    let mut materials = Map::new();
    for (name, file) in &arguments.record {
        let record = image::read(file)?;
        let record = serde_json::from_slice(&record).map_err(|_| ImageFailure::Record(file.clone()))?;
        materials.insert(name.clone(), record);
    }
    let name = file_name(&arguments.output);
    if let Some(stub) = &arguments.stub {
        let stub = input(stub)?;
        progress.set_message("building and measuring");
        let built = image::build_unified(&inputs, &stub.contents)?;
        let report = summary_unified(&name, &inputs, &stub, &built, &materials);
        write(arguments, &built.image, &report)?;
        progress.finish_and_clear();
        let BootMeasurement { file_length, pcr4, pcr7, pcr12, .. } = built.measurement;
        let registers = format!("\n  PCR 4: {pcr4}\n  PCR 7: {pcr7}\n  PCR 12: {pcr12}");
        return Ok((report, built_page(arguments, file_length, &registers)));
    }
    let signer = match (&arguments.sign_certificate, &arguments.sign_key, &arguments.sign_command) {
        (Some(certificate), Some(key), _) => Some(Signer::with_key(certificate, key)?),
        (Some(certificate), None, Some(command)) => Some(Signer::with_command(certificate, command)?),
        (Some(_), None, None) => return Err(ImageFailure::NoKey),
        (None, ..) => None,
    };
    progress.set_message(if signer.is_some() {
        "building, measuring and signing"
    } else {
        "building and measuring"
    });
    let built = image::build(&inputs, signer.as_ref(), now())?;
    progress.set_message("writing");
    let report = summary(&name, &inputs, &built, &materials);
    write(arguments, &built.image, &report)?;
    progress.finish_and_clear();
    for warning in &built.warnings {
        tracing::warn!("{warning}");
    }
    Ok((report, built_page(arguments, built.measurement.file_length, &registers(&built.measurement))))
}

/// Writes an image, and its summary beside it or where it was asked for.
fn write(arguments: &BuildArguments, image: &[u8], report: &Value) -> Result<(), ImageFailure> {
    let beside = format!("{}.summary.json", file_name(&arguments.output));
    let beside = arguments.output.with_file_name(beside);
    replace(&arguments.output, image)?;
    replace(arguments.summary.as_ref().unwrap_or(&beside), format!("{report:#}\n").as_bytes())
}

fn input(path: &Path) -> Result<Input, ImageFileError> {
    Ok(Input { name: file_name(path), contents: image::read(path)? })
}

fn file_name(path: &Path) -> String {
    path.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into_owned()
}

/// Writes a file whole or not at all, so that a file which is there can be relied on.
fn replace(path: &Path, contents: &[u8]) -> Result<(), ImageFailure> {
    file::replace(path, contents, file::PUBLIC)
        .map_err(|FileError { path, source, .. }| ImageFailure::Write { path, source })
}

fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_seconds(elapsed.as_secs())
}

fn inspect(path: &Path) -> Result<Inspection, ImageFileError> {
    let progress = progress();
    progress.set_message(format!("reading {}", path.display()));
    let contents = image::read(path)?;
    let inspection = image::inspect(&contents);
    progress.finish_and_clear();
    inspection.map_err(|source| ImageFileError::Image { path: path.to_owned(), source: Box::new(source) })
}

/// Shows on a terminal that something is going on.
fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn registers(measurement: &Measurement) -> String {
    let mut text = String::new();
    for (name, value) in
        [("PCR 0", measurement.pcr0), ("PCR 1", measurement.pcr1), ("PCR 2", measurement.pcr2)]
    {
        text.push_str(&format!("\n  {name}: {value}"));
    }
    match measurement.pcr8 {
        Some(pcr8) => text.push_str(&format!("\n  PCR 8: {pcr8}")),
        None => text.push_str("\n  PCR 8: zero, the image is not signed"),
    }
    text
}

fn built_page(arguments: &BuildArguments, length: u64, registers: &str) -> String {
    format!("{}: {length} bytes{registers}", arguments.output.display())
}

fn page(inspection: &Inspection) -> String {
    let measurement = &inspection.measurement;
    let mut text = format!(
        "format version {}, {}, {} bytes{}",
        measurement.version,
        measurement.architecture,
        measurement.file_length,
        registers(measurement)
    );
    text.push_str(&format!("\ncommand line: {}", printable(&measurement.command_line)));
    if let Some(metadata) = &measurement.metadata {
        text.push_str(&metadata_line(metadata));
    }
    if let Some(certificate) = &measurement.signing_certificate {
        text.push_str(&certificate_line(certificate));
    }
    text.push_str(&application_line(&inspection.application));
    text.push_str("\nsections:");
    for (section, digest) in measurement.sections.iter().zip(&inspection.section_digests) {
        text.push_str(&format!("\n  {:>12}  {:>12}  {digest}", section.kind, section.length));
    }
    for (index, ramdisk) in inspection.ramdisks.iter().enumerate() {
        text.push_str(&format!("\nramdisk {index}:{}", ramdisk_lines(ramdisk)));
    }
    text
}

fn metadata_line(metadata: &Metadata) -> String {
    let build = &metadata.build;
    format!(
        "\nby its own account (not measured): {} {}, built with {} {} at {}, kernel {}",
        printable(&metadata.image_name),
        printable(&metadata.image_version),
        printable(&build.tool),
        printable(&build.tool_version),
        printable(&build.time),
        printable(&build.kernel_version)
    )
}

fn certificate_line(certificate: &SigningCertificate) -> String {
    let validity = certificate.validity.map_or(String::new(), |(not_before, not_after)| {
        format!(", in force from {not_before} to {not_after}")
    });
    format!("\nsigned: {} certificate with SHA-256 {}{validity}", certificate.curve, certificate.sha256)
}

fn application_line(application: &Application) -> String {
    match application {
        Application::Whole { files, bytes } => {
            format!("\napplication: {files} files of {bytes} bytes, as the manifest lists them")
        }
        Application::NoManifest => {
            "\napplication: the first ramdisk has no manifest; another tool built this image".to_owned()
        }
        Application::Different(why) => {
            format!(
                "\napplication: NOT what the manifest lists, the enclave would not start: {}",
                printable(why)
            )
        }
    }
}

fn ramdisk_lines(ramdisk: &Ramdisk) -> String {
    match ramdisk {
        Ramdisk::Unreadable(why) => format!("\n  {}", printable(why)),
        Ramdisk::Entries(entries) => entries
            .iter()
            .map(|entry| {
                let path = printable(&entry.path);
                format!(
                    "\n  {:>12}  {}  {:>12}  {}  {path}",
                    entry.kind, entry.permissions, entry.size, entry.sha384
                )
            })
            .collect(),
    }
}

fn difference_page(difference: &image::Difference) -> String {
    let pcrs = match difference.pcrs.as_slice() {
        [] => "in no PCR".to_owned(),
        pcrs => format!("PCR {}", pcrs.iter().map(u8::to_string).collect::<Vec<_>>().join(" and ")),
    };
    let side = |side: &Option<String>| side.as_deref().map_or("-".to_owned(), printable);
    let place = printable(&difference.place);
    format!("{place} ({pcrs})\n  first   {}\n  second  {}", side(&difference.first), side(&difference.second))
}

/// Text from an image, which a stranger may have made, for a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// Why there is no image, or nothing to say about one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageFailure {
    #[error(transparent)]
    File(#[from] ImageFileError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error("--sign-certificate needs --sign-key or --sign-command: the image would not be signed")]
    NoKey,
    #[error("expected JSON in `{}`", .0.display())]
    Record(PathBuf),
    #[error("could not write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
}
