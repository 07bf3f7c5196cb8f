//! Values that an authority measures by itself: images, models, deployments.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use cleanroom_attestation::digest::{Sha256, Sha256Digest, Sha384Digest};
use cleanroom_attestation::engine::identity_under;
use cleanroom_attestation::measured_boot::{BootMeasurement, MAX_BOOT_IMAGE};
use cleanroom_attestation::measurement::{Measurer, of_name, of_program};
use cleanroom_attestation::model::ModelDigester;

use crate::failure::Failure;
use crate::files;

/// The largest program and configuration of the simulated tier that are read, in bytes.
const MAX_PROGRAM_BYTES: usize = 1 << 30;
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// What a unified kernel image begins with, and no enclave image.
const EXECUTABLE: &[u8] = b"MZ";
/// Stands before register 4 of an instance that is the enclave itself.
const NITROTPM: &str = "nitrotpm:";

/// An image by its registers.
pub(crate) enum Image {
    /// PCR 0, 1 and 2 of an enclave.
    Enclave([Sha384Digest; 3]),
    /// Registers 4, 7 and 12 of an instance with a NitroTPM.
    NitroTpm([Sha384Digest; 3]),
}

/// An image: three digests in hexadecimal, `nitrotpm:` in front of those of an instance; the file of an enclave image or of a
/// unified kernel image; or `program:FILE` and `config:FILE` (and `command-line:TEXT`) of the simulated tier.
pub(crate) fn image(values: &[String]) -> Result<Image, Failure> {
    let form = || {
        Failure::usage(format!(
            "{}: expected PCR0,PCR1,PCR2 or nitrotpm:PCR4,PCR7,PCR12 in hexadecimal, an image FILE, or \
             program:FILE,config:FILE",
            values.join(",")
        ))
    };
    let value = |name: &str| values.iter().find_map(|value| value.strip_prefix(name));
    if let (Some(program), Some(config)) = (value("program:"), value("config:")) {
        let command_line = value("command-line:");
        if values.len() != 2 + usize::from(command_line.is_some()) {
            return Err(form());
        }
        let command_line = command_line.unwrap_or_default();
        return self::program(Path::new(program), Path::new(config), command_line).map(Image::Enclave);
    }
    match values {
        [first, second, third] => {
            let instance = first.strip_prefix(NITROTPM);
            let registers = (instance.unwrap_or(first).parse(), second.parse(), third.parse());
            let (Ok(first), Ok(second), Ok(third)) = registers else { return Err(form()) };
            let registers = [first, second, third];
            Ok(if instance.is_some() { Image::NitroTpm(registers) } else { Image::Enclave(registers) })
        }
        [file] => image_file(Path::new(file)),
        _ => Err(form()),
    }
}

/// PCR 0, 1 and 2 of an enclave of the simulated tier.
pub(crate) fn program(
    program: &Path,
    config: &Path,
    command_line: &str,
) -> Result<[Sha384Digest; 3], Failure> {
    let program = files::read(program, MAX_PROGRAM_BYTES)?;
    let config = files::read(config, MAX_CONFIG_BYTES)?;
    Ok(of_program(&program, command_line, &config))
}

fn image_file(path: &Path) -> Result<Image, Failure> {
    let refused = |code, problem| Failure::Refused { what: path.display().to_string(), code, problem };
    let failed = |error| Failure::File { verb: "read", path: path.to_owned(), error };
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(2).read_to_end(&mut start)).map_err(failed)?;
    if start == EXECUTABLE {
        let mut image = Vec::new();
        // One byte more than it may have is too long, and the error says so.
        let taken = File::open(path).and_then(|file| file.take(MAX_BOOT_IMAGE + 1).read_to_end(&mut image));
        taken.map_err(failed)?;
        let measurement =
            BootMeasurement::of(&image).map_err(|error| refused(error.code(), error.to_string()))?;
        return Ok(Image::NitroTpm([measurement.pcr4, measurement.pcr7, measurement.pcr12]));
    }
    let mut measurer = Measurer::new();
    // `finish` reports the errors.
    pieces(path, |piece| _ = measurer.update(piece))?;
    let measurement = measurer.finish().map_err(|error| refused(error.code(), error.to_string()))?;
    Ok(Image::Enclave([measurement.pcr0, measurement.pcr1, measurement.pcr2]))
}

/// A model's identity, from its digest in hexadecimal or from its file. `,config:FILE` behind it names the configuration of the
/// enclave, if an engine of its own process is to serve the model: the identity commits to that as well.
pub(crate) fn model(text: &str) -> Result<Sha256Digest, Failure> {
    let weights = |text: &str| text.parse().or_else(|_| model_file(Path::new(text)));
    match text.split_once(",config:") {
        Some((model, config)) => under(Path::new(config), weights(model)?),
        None => weights(text),
    }
}

/// The identity of the model in a file under the enclave's configuration.
pub(crate) fn model_under(path: &Path, config: &Path) -> Result<Sha256Digest, Failure> {
    under(config, model_file(path)?)
}

fn under(config: &Path, weights: Sha256Digest) -> Result<Sha256Digest, Failure> {
    let text = String::from_utf8(files::read(config, MAX_CONFIG_BYTES)?)
        .map_err(|_| Failure::usage(format!("{}: expected text", config.display())))?;
    identity_under(&text, weights).map_err(|error| Failure::usage(format!("{}: {error}", config.display())))
}

/// The identity of the model in a file. The memory that this takes does not grow with the model.
pub(crate) fn model_file(path: &Path) -> Result<Sha256Digest, Failure> {
    let mut digester = ModelDigester::new();
    pieces(path, |piece| digester.update(piece))?;
    Ok(digester.finish())
}

/// The identity of the model in a file, and the SHA-256 of the file, of one reading.
pub(crate) fn model_and_file(path: &Path) -> Result<(Sha256Digest, Sha256Digest), Failure> {
    let (mut model, mut file) = (ModelDigester::new(), Sha256::new());
    pieces(path, |piece| {
        model.update(piece);
        file.update(piece);
    })?;
    Ok((model.finish(), file.finish()))
}

/// One register of a deployment: `pcr3:HEX`, `pcr4:HEX`, `pcr8:HEX`, `role:ARN` for PCR 3, or `instance:ID`
/// for PCR 4. Nitro hashes the role's ARN into PCR 3 and the instance's id into PCR 4.
pub(crate) fn register(text: &str) -> Result<(u8, Sha384Digest), Failure> {
    let form = || Failure::usage(format!("{text}: expected pcr3, pcr4 or pcr8:HEX, role:ARN or instance:ID"));
    let (kind, value) = text.split_once(':').ok_or_else(form)?;
    let hex = || value.parse().map_err(|error| Failure::usage(format!("{text}: {error}")));
    match kind {
        "pcr3" => Ok((3, hex()?)),
        "pcr4" => Ok((4, hex()?)),
        "pcr8" => Ok((8, hex()?)),
        "role" => Ok((3, of_name(value))),
        "instance" => Ok((4, of_name(value))),
        _ => Err(form()),
    }
}

fn pieces(path: &Path, mut each: impl FnMut(&[u8])) -> Result<(), Failure> {
    let failed = |error| Failure::File { verb: "read", path: path.to_owned(), error };
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(()),
            count => each(buffer.get(..count).unwrap_or_default()),
        }
    }
}
