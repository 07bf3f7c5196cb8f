//! `seal`, `inspect` and `verify`: model weights in files that only a key opens.

mod part;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use clap::{Args, Subcommand};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model::ModelDigester;
use cleanroom_program::file;
use cleanroom_sealing::{
    ChunkCipher, HEADER_BYTES, Header, Key, Layout, Opener, Salt, SealError, Sealer, WEIGHTS,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use zeroize::Zeroizing;

use self::part::Part;
use crate::Outcome;
use crate::failure::Failure;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
/// A key file holds 64 hexadecimal digits and a line feed.
const KEY_FILE_LIMIT: usize = 80;
/// The format's name in the record of a sealed file.
const FORMAT: &str = "c2sp.org/chunked-encryption@v1 Cobblestone-256";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Seal a model's file, so that only a key opens it.
    ///
    /// The sealed file may lie on any disk. Beside it, NAME.json records its lengths, its commitment to the
    /// key, and the model's identity, which a release names. An interrupted run is continued by the next one
    /// with the same key: it checks that the model is still the same, and goes on.
    #[command(after_help = SEAL_EXAMPLES)]
    Seal {
        /// The model's file.
        model: PathBuf,
        #[command(flatten)]
        key: KeyArguments,
        /// The new file for the sealed model. Default: MODEL.sealed.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show what a sealed file says about itself. It needs no key, and so proves nothing.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect {
        /// The sealed file.
        sealed: PathBuf,
    },
    /// Open a sealed file in memory, check every chunk and its end, and give the model's identity.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// The sealed file.
        sealed: PathBuf,
        /// The key's file, which only its owner may be able to read.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The identity that the model must have, as a release names it. The exit status is 1 if it has
        /// another.
        #[arg(long, value_name = "SHA256")]
        model: Option<Sha256Digest>,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct KeyArguments {
    /// The key's file, which only its owner may be able to read: 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Make a key in this new file.
    #[arg(long, value_name = "FILE")]
    new_key: Option<PathBuf>,
}

const SEAL_EXAMPLES: &str = "\
Examples:
  cleanroom-authority seal forecast-8b.gguf --new-key forecast-8b.key
  cleanroom-authority seal forecast-8b.gguf --key forecast-8b.key    # continues an interrupted run";

const INSPECT_EXAMPLES: &str = "\
Examples:
  cleanroom-authority inspect forecast-8b.gguf.sealed";

const VERIFY_EXAMPLES: &str = "\
Examples:
  cleanroom-authority verify forecast-8b.gguf.sealed --key forecast-8b.key
  cleanroom-authority verify forecast-8b.gguf.sealed --key forecast-8b.key \\
      --model cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::Seal { model, key, out } => seal(&model, &key, out),
            Self::Inspect { sealed } => inspect(&sealed),
            Self::Verify { sealed, key, model } => verify(&sealed, &key, model),
        }
    }
}

fn seal(model: &Path, key: &KeyArguments, out: Option<PathBuf>) -> Result<Outcome, Failure> {
    let out = out.unwrap_or_else(|| with_suffix(model, ".sealed"));
    if out.symlink_metadata().is_ok() {
        return Err(Failure::usage(format!(
            "{} exists already and is not overwritten: choose another file with --out",
            out.display()
        )));
    }
    let failed = |error| Failure::File { verb: "read", path: model.to_owned(), error };
    let mut source = File::open(model).map_err(failed)?;
    let length = source.metadata().map_err(failed)?.len();
    let refused = |error: SealError| refused(&out, error);
    Layout::of_plain(length).map_err(refused)?;
    let key = match (&key.key, &key.new_key) {
        (None, Some(path)) => new_key(path)?,
        (Some(path), _) => read_key(path)?,
        (None, None) => return Err(Failure::usage("say which key seals: --key FILE, or --new-key FILE")),
    };

    let mut part = Part::open(with_suffix(&out, ".part"))?;
    let salt = match part.header() {
        Some(header) => {
            ChunkCipher::to_open(&key, &header, WEIGHTS).map_err(|error| part.refused(&error))?;
            header.salt
        }
        None => new_salt()?,
    };
    let mut sealed = Vec::with_capacity(PIECE + PIECE / 512);
    let mut sealer = Sealer::new(&key, &salt, WEIGHTS, &mut sealed).map_err(refused)?;
    let header = Header::parse(&sealed).map_err(refused)?;
    let mut digester = ModelDigester::new();
    let progress = progress(length, "sealing");
    let mut read = 0;
    let mut piece = Zeroizing::new(vec![0; PIECE]);
    loop {
        part.write(&sealed)?;
        sealed.clear();
        let count = read_piece(&mut source, &mut piece).map_err(failed)?;
        let bytes = piece.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        digester.update(bytes);
        sealer.update(bytes, &mut sealed).map_err(refused)?;
        read += bytes.len() as u64;
        progress.set_position(read);
    }
    sealer.finish(&mut sealed).map_err(refused)?;
    part.write(&sealed)?;
    let layout = Layout::of_plain(read).map_err(refused)?;
    let identity = digester.finish();
    let json = json!({
        "format": FORMAT,
        "context": String::from_utf8_lossy(WEIGHTS),
        "bytes": layout.plain_length(),
        "sealed_bytes": layout.sealed_length(),
        "salt": hex(&header.salt),
        "commitment": hex(&header.commitment),
        "model_sha256": identity,
    });
    // The record comes first: where the sealed file is, there is its record.
    let record = with_suffix(&out, ".json");
    file::replace(&record, format!("{json:#}\n").as_bytes(), file::PUBLIC)?;
    part.put_in_place(&out, layout.sealed_length())?;
    progress.finish_and_clear();
    let text = format!(
        "sealed {} into {}\n  model       SHA-256 {identity}\n  length      {} bytes, sealed {} bytes\n  commitment  {}\n  \
         record      {}\n",
        model.display(),
        out.display(),
        layout.plain_length(),
        layout.sealed_length(),
        hex(&header.commitment),
        record.display()
    );
    Ok(Outcome { text, json })
}

fn inspect(path: &Path) -> Result<Outcome, Failure> {
    let (_, header, layout) = open(path)?;
    let text = format!(
        "{}\n  format      {FORMAT}\n  length      {} bytes, sealed {} bytes, {} chunks\n  salt        {}\n  commitment  {}\n",
        path.display(),
        layout.plain_length(),
        layout.sealed_length(),
        layout.chunks(),
        hex(&header.salt),
        hex(&header.commitment)
    );
    let json = json!({
        "format": FORMAT,
        "bytes": layout.plain_length(),
        "sealed_bytes": layout.sealed_length(),
        "chunks": layout.chunks(),
        "salt": hex(&header.salt),
        "commitment": hex(&header.commitment),
    });
    Ok(Outcome { text, json })
}

fn verify(path: &Path, key: &Path, expected: Option<Sha256Digest>) -> Result<Outcome, Failure> {
    let key = read_key(key)?;
    let (mut source, header, layout) = open(path)?;
    let refused = |error| refused(path, error);
    let mut opener = Opener::new(&key, &header, WEIGHTS).map_err(refused)?;
    let mut digester = ModelDigester::new();
    let progress = progress(layout.sealed_length(), "verifying");
    let mut piece = vec![0; PIECE];
    loop {
        let count = read_piece(&mut source, &mut piece);
        let count = count.map_err(|error| Failure::File { verb: "read", path: path.to_owned(), error })?;
        let bytes = piece.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        opener.update(bytes, |opened| digester.update(opened)).map_err(refused)?;
        progress.inc(bytes.len() as u64);
    }
    opener.finish(|opened| digester.update(opened)).map_err(refused)?;
    progress.finish_and_clear();
    let identity = digester.finish();
    if let Some(expected) = expected.filter(|expected| *expected != identity) {
        return Err(Failure::Refused {
            what: path.display().to_string(),
            code: "model-digest",
            problem: format!("it holds another model: expected {expected}, got {identity}"),
        });
    }
    let compared =
        if expected.is_some() { "as expected" } else { "compare it with the release, or give --model" };
    let text = format!(
        "{} opens, whole and undamaged\n  model   SHA-256 {identity} ({compared})\n  length  {} bytes\n",
        path.display(),
        layout.plain_length()
    );
    let json = json!({ "valid": true, "model_sha256": identity, "bytes": layout.plain_length() });
    Ok(Outcome { text, json })
}

/// A sealed file behind its header, its header, and its layout by its length.
fn open(path: &Path) -> Result<(File, Header, Layout), Failure> {
    let failed = |error| Failure::File { verb: "read", path: path.to_owned(), error };
    let refused = |error| refused(path, error);
    let mut source = File::open(path).map_err(failed)?;
    let layout = Layout::of_sealed(source.metadata().map_err(failed)?.len()).map_err(refused)?;
    let mut header = [0; HEADER_BYTES];
    source.read_exact(&mut header).map_err(failed)?;
    Ok((source, Header::parse(&header).map_err(refused)?, layout))
}

fn refused(path: &Path, error: SealError) -> Failure {
    Failure::Refused { what: path.display().to_string(), code: error.code(), problem: error.to_string() }
}

/// Fills `piece`, or as much of it as there is to read.
fn read_piece(source: &mut impl Read, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn new_salt() -> Result<Salt, Failure> {
    let mut salt = Salt::default();
    let drawn = SystemRandom::new().fill(&mut salt);
    drawn.map_err(|_| Failure::Environment("no random numbers for the salt".to_owned()))?;
    Ok(salt)
}

/// Makes a key. It is on the disk before anything is sealed with it.
fn new_key(path: &Path) -> Result<Key, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    let drawn = SystemRandom::new().fill(bytes.as_mut_slice());
    drawn.map_err(|_| Failure::Environment("no random numbers to make a key from".to_owned()))?;
    let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_LIMIT));
    for byte in bytes.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    text.push('\n');
    file::create_secret(path, text.as_bytes()).map_err(|error| {
        if error.is_existing() {
            let path = path.display();
            Failure::usage(format!(
                "{path} exists already and is not overwritten; to seal with it, give --key {path}"
            ))
        } else {
            error.into()
        }
    })?;
    Ok(Key::from_bytes(&bytes))
}

fn read_key(path: &Path) -> Result<Key, Failure> {
    let text = file::read_secret(path, KEY_FILE_LIMIT)?;
    let mut bytes = Zeroizing::new([0_u8; 32]);
    let digits = text.trim_ascii();
    let mut pairs = digits.chunks_exact(2);
    for (byte, pair) in bytes.iter_mut().zip(&mut pairs) {
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let pair = pair.first().zip(pair.get(1)).and_then(|(high, low)| Some((value(*high)?, value(*low)?)));
        *byte = pair.map(|(high, low)| high << 4 | low).ok_or_else(|| not_a_key(path))?;
    }
    if digits.len() == 64 { Ok(Key::from_bytes(&bytes)) } else { Err(not_a_key(path)) }
}

fn not_a_key(path: &Path) -> Failure {
    Failure::Refused {
        what: path.display().to_string(),
        code: "key",
        problem: "expected a key for sealed files: 64 hexadecimal digits, as `seal --new-key` writes them"
            .to_owned(),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A bar on a terminal; nothing elsewhere.
fn progress(length: u64, what: &'static str) -> ProgressBar {
    const TEMPLATE: &str = "{msg} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_message(what)
}
