//! `identify`, `seal`, `inspect` and `verify`: model weights in files that only a key opens.

mod files;
mod part;
mod plaintext;
mod record;
mod shares;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use clap::{Args, Subcommand};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model::{CHUNK_BYTES, ModelDigester, SubtreeDigester, model_digest};
use cleanroom_program::file;
use cleanroom_sealing::{
    ChunkCipher, HEADER_BYTES, Header, Key, Layout, SEALED_CHUNK_BYTES, Salt, SealError, TAG_BYTES, WEIGHTS,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use zeroize::Zeroizing;

use self::files::{Files, FilesError, MAX_INDEX_BYTES};
use self::part::Part;
pub(crate) use self::plaintext::Plaintext;
use self::record::Record;
use self::shares::{Broken, Ended, Share};
use crate::failure::Failure;
use crate::{Outcome, add};

/// A key file holds 64 hexadecimal digits and a line feed.
const KEY_FILE_LIMIT: usize = 80;
/// The format's name in the record of a sealed file.
const FORMAT: &str = "c2sp.org/chunked-encryption@v1 Cobblestone-256";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Compute a model's identity, which a release names, before it is sealed.
    #[command(after_help = IDENTIFY_EXAMPLES)]
    Identify {
        /// The model's file, its folder, or its files.
        #[arg(required = true)]
        model: Vec<PathBuf>,
    },
    /// Seal a model, so that only a key opens it.
    ///
    /// A model is a file, a folder, or several files, such as a split GGUF. Several files become one sealed file
    /// with one identity, which covers their names. The sealed file may lie on any disk. Beside it, NAME.json
    /// records its lengths, its commitment to the key, and the model's identity, which a release names. An
    /// interrupted run is continued by the next one with the same key: it checks that the model is still the
    /// same, and goes on.
    #[command(after_help = SEAL_EXAMPLES)]
    Seal {
        /// The model's file, its folder, or its files.
        #[arg(required = true)]
        model: Vec<PathBuf>,
        #[command(flatten)]
        key: KeyArguments,
        /// The new file for the sealed model. Default: MODEL.sealed, where MODEL is the only path.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show what a sealed file says about itself, and what the record beside it says about the model and its files. It
    /// needs no key, and so proves nothing.
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

const IDENTIFY_EXAMPLES: &str = "\
Examples:
  cleanroom-authority identify forecast-8b.gguf
  cleanroom-authority identify forecast-70b/";

const SEAL_EXAMPLES: &str = "\
Examples:
  cleanroom-authority seal forecast-8b.gguf --new-key forecast-8b.key
  cleanroom-authority seal forecast-70b/ --new-key forecast-70b.key --out forecast-70b.sealed
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
            Self::Identify { model } => identify(&model),
            Self::Seal { model, key, out } => seal(&model, &key, out),
            Self::Inspect { sealed } => inspect(&sealed),
            Self::Verify { sealed, key, model } => verify(&sealed, &key, model),
        }
    }
}

fn identify(model: &[PathBuf]) -> Result<Outcome, Failure> {
    let mut plain = Plaintext::of(model)?;
    let progress = progress(plain.length, "hashing");
    let name = plain.name.clone();
    let mut identity = SubtreeDigester::new();
    let work = |share: &mut Share| {
        share.digest = weights_of(share.first_chunk(), &share.read);
        Ok(())
    };
    let take = |share: &Share| {
        share.digest.into_iter().for_each(|digest| identity.push(digest));
        progress.inc(share.read.len() as u64);
        Ok::<_, Failure>(())
    };
    let done = shares::for_each(&mut plain, shares::CHUNKS * CHUNK_BYTES, work, take);
    done.map_err(|ended| failed(ended, &name))?;
    progress.finish_and_clear();
    let identity = identity.finish().unwrap_or_else(|| model_digest(&[]));
    let files = plain.files.as_ref();
    let text = format!(
        "{}\n  model   SHA-256 {identity}\n  length  {} bytes{}\n",
        name.display(),
        plain.length,
        list(files)
    );
    let json = json!({ "model_sha256": identity, "bytes": plain.length, "files": files.map(entries) });
    Ok(Outcome { text, json })
}

fn seal(model: &[PathBuf], key: &KeyArguments, out: Option<PathBuf>) -> Result<Outcome, Failure> {
    let out = new_place(model, out)?;
    let mut plain = Plaintext::of(model)?;
    let layout = Layout::of_plain(plain.length).map_err(|error| refused(&out, error))?;
    let key = sealing_key(key)?;
    let mut part = Part::open(with_suffix(&out, ".part"))?;
    let (cipher, header) = cipher(&out, &key, &part)?;
    // The cipher has its own.
    drop(key);
    part.write(&header.to_bytes())?;
    let progress = progress(plain.length, "sealing");
    let identity = seal_chunks(&mut plain, &cipher, &mut part, &progress)?;
    let sealed = SealedModel { layout, header, identity, files: plain.files.as_ref() };
    let json = sealed.json();
    // The record comes first: where the sealed file is, there is its record.
    let beside = with_suffix(&out, ".json");
    file::replace(&beside, format!("{json:#}\n").as_bytes(), file::PUBLIC)?;
    part.put_in_place(&out, sealed.layout.sealed_length())?;
    progress.finish_and_clear();
    let text = format!(
        "sealed {} into {}\n{}  record      {}\n",
        plain.name.display(),
        out.display(),
        sealed.text(),
        beside.display()
    );
    Ok(Outcome { text, json })
}

/// Where the sealed file goes, which nothing has taken yet.
fn new_place(model: &[PathBuf], out: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let out = match (out, model) {
        (Some(out), _) => out,
        (None, [model]) => with_suffix(&model.components().collect::<PathBuf>(), ".sealed"),
        (None, _) => return Err(Failure::usage("several files need --out FILE for the sealed model")),
    };
    if out.symlink_metadata().is_ok() {
        return Err(Failure::usage(format!(
            "{} exists already and is not overwritten: choose another file with --out",
            out.display()
        )));
    }
    Ok(out)
}

fn sealing_key(arguments: &KeyArguments) -> Result<Key, Failure> {
    match (&arguments.key, &arguments.new_key) {
        (None, Some(path)) => new_key(path),
        (Some(path), _) => read_key(path),
        (None, None) => Err(Failure::usage("expected a sealing key: --key FILE, or --new-key FILE")),
    }
}

/// The cipher that goes on with `part`, or begins it.
fn cipher(out: &Path, key: &Key, part: &Part) -> Result<(ChunkCipher, Header), Failure> {
    let salt = match part.header() {
        Some(header) => {
            ChunkCipher::to_open(key, &header, WEIGHTS).map_err(|error| part.refused(&error))?;
            header.salt
        }
        None => new_salt()?,
    };
    ChunkCipher::to_seal(key, &salt, WEIGHTS).map_err(|error| refused(out, error))
}

/// Seals all chunks into `part`, and gives the identity of the whole.
fn seal_chunks(
    plain: &mut Plaintext,
    cipher: &ChunkCipher,
    part: &mut Part,
    progress: &ProgressBar,
) -> Result<Sha256Digest, Failure> {
    let name = plain.name.clone();
    let mut identity = SubtreeDigester::new();
    let work = |share: &mut Share| seal_share(cipher, share);
    let take = |share: &Share| {
        share.digest.into_iter().for_each(|digest| identity.push(digest));
        progress.inc(share.read.len() as u64);
        part.write(&share.made)
    };
    let done = shares::for_each(plain, shares::CHUNKS * CHUNK_BYTES, work, take);
    done.map_err(|ended| failed(ended, &name))?;
    Ok(identity.finish().unwrap_or_else(|| model_digest(&[])))
}

/// What is said about a sealed file.
struct SealedModel<'a> {
    layout: Layout,
    header: Header,
    identity: Sha256Digest,
    files: Option<&'a Files>,
}

impl SealedModel<'_> {
    fn json(&self) -> serde_json::Value {
        let Self { layout, header, identity, files } = self;
        json!({
            "format": FORMAT,
            "context": String::from_utf8_lossy(WEIGHTS),
            "bytes": layout.plain_length(),
            "sealed_bytes": layout.sealed_length(),
            "salt": hex(&header.salt),
            "commitment": hex(&header.commitment),
            "model_sha256": identity,
            "files": files.map(entries),
        })
    }

    fn text(&self) -> String {
        let Self { layout, header, identity, files } = self;
        format!(
            "  model       SHA-256 {identity}\n  length      {} bytes, sealed {} bytes{}\n  commitment  {}\n",
            layout.plain_length(),
            layout.sealed_length(),
            list(*files),
            hex(&header.commitment)
        )
    }
}

/// Hashes and seals the chunks of a share, two at a time, so that they are in the processor's cache meanwhile. The last share
/// ends with a chunk that is shorter than the others, and may be empty.
fn seal_share(cipher: &ChunkCipher, share: &mut Share) -> Result<(), SealError> {
    let first = share.first_chunk();
    let Share { read, made, is_last, digest, .. } = share;
    made.clear();
    let (mut identity, mut number) = (ModelDigester::new(), first);
    for pair in read.chunks(2 * CHUNK_BYTES) {
        identity.update(pair);
        for chunk in pair.chunks(CHUNK_BYTES) {
            cipher.seal_onto(number, chunk, made)?;
            number += 1;
        }
    }
    if *is_last && read.len().is_multiple_of(CHUNK_BYTES) {
        cipher.seal_onto(number, &[], made)?;
    }
    *digest = has_weights(first, read).then(|| identity.finish());
    Ok(())
}

/// Opens the chunks of a share.
fn open_share(cipher: &ChunkCipher, share: &mut Share) -> Result<(), SealError> {
    let chunks = share.read.len().div_ceil(SEALED_CHUNK_BYTES);
    let length = share.read.len().saturating_sub(chunks * TAG_BYTES);
    share.made.resize(length, 0);
    let first = share.first_chunk();
    let mut rest = share.made.as_mut_slice();
    for (number, sealed) in (first..).zip(share.read.chunks(SEALED_CHUNK_BYTES)) {
        let length = sealed.len().saturating_sub(TAG_BYTES);
        let (chunk, after) = rest.split_at_mut_checked(length).ok_or(SealError::Damaged { number })?;
        cipher.open_into(number, sealed, chunk)?;
        rest = after;
    }
    share.digest = weights_of(share.first_chunk(), &share.made);
    Ok(())
}

/// The identity of the weights from chunk `first` on, if there is a part of the model's identity there.
fn weights_of(first: u64, weights: &[u8]) -> Option<Sha256Digest> {
    has_weights(first, weights).then(|| model_digest(weights))
}

/// Whether the weights from chunk `first` on are a part of the model's identity: some are, or the model has none at all.
const fn has_weights(first: u64, weights: &[u8]) -> bool {
    first == 0 || !weights.is_empty()
}

fn failed(ended: Ended<Failure>, path: &Path) -> Failure {
    match ended {
        Ended::Broken(Broken::Read(error)) => Failure::File { verb: "read", path: path.to_owned(), error },
        Ended::Broken(Broken::Work(error)) => refused(path, error),
        Ended::Taken(failure) => failure,
    }
}

/// The files of a model, for a record.
fn entries(files: &Files) -> Vec<serde_json::Value> {
    files.entries().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect()
}

/// How many files there are, for people.
fn list(files: Option<&Files>) -> String {
    files.map_or_else(String::new, |files| format!(", {} files", files.entries().count()))
}

fn inspect(path: &Path) -> Result<Outcome, Failure> {
    let (header, layout) = open(path)?;
    let record = Record::beside(path, &header, layout)?;
    let mut text = format!(
        "{}\n  format      {FORMAT}\n  length      {} bytes, sealed {} bytes, {} chunks\n  salt        {}\n  commitment  {}\n",
        path.display(),
        layout.plain_length(),
        layout.sealed_length(),
        layout.chunks(),
        hex(&header.salt),
        hex(&header.commitment)
    );
    let mut json = json!({
        "format": FORMAT,
        "bytes": layout.plain_length(),
        "sealed_bytes": layout.sealed_length(),
        "chunks": layout.chunks(),
        "salt": hex(&header.salt),
        "commitment": hex(&header.commitment),
    });
    if let Some(record) = record {
        text.push_str(&record.text());
        add(&mut json, "model_sha256", record.model_sha256.to_string());
        add(&mut json, "files", json!(record.files));
    }
    Ok(Outcome { text, json })
}

fn verify(path: &Path, key: &Path, expected: Option<Sha256Digest>) -> Result<Outcome, Failure> {
    let key = read_key(key)?;
    let (header, layout) = open(path)?;
    let refused = |error| refused(path, error);
    let cipher = ChunkCipher::to_open(&key, &header, WEIGHTS).map_err(refused)?;
    drop(key);
    let mut sealed = Plaintext::behind(path, HEADER_BYTES as u64)?;
    let progress = progress(layout.sealed_length(), "verifying");
    let mut identity = SubtreeDigester::new();
    let mut beginning = Zeroizing::new(Vec::new());
    let take = |share: &Share| {
        share.digest.into_iter().for_each(|digest| identity.push(digest));
        let room = MAX_INDEX_BYTES.saturating_sub(beginning.len()).min(share.made.len());
        beginning.extend_from_slice(share.made.get(..room).unwrap_or_default());
        progress.inc(share.read.len() as u64);
        Ok::<_, Failure>(())
    };
    let work = |share: &mut Share| open_share(&cipher, share);
    let done = shares::for_each(&mut sealed, shares::CHUNKS * SEALED_CHUNK_BYTES, work, take);
    done.map_err(|ended| failed(ended, path))?;
    progress.finish_and_clear();
    let identity = identity.finish().unwrap_or_else(|| model_digest(&[]));
    if let Some(expected) = expected.filter(|expected| *expected != identity) {
        return Err(Failure::Refused {
            what: path.display().to_string(),
            code: "model-digest",
            problem: format!("it holds another model: expected {expected}, got {identity}"),
        });
    }
    let files = match Files::parse(&beginning, layout.plain_length()) {
        Ok(files) => Some(files),
        Err(FilesError::Index) => None,
        Err(error) => return Err(plaintext::refused(path, &error)),
    };
    let compared =
        if expected.is_some() { "as expected" } else { "compare it with the release, or give --model" };
    let text = format!(
        "{} opens, whole and undamaged\n  model   SHA-256 {identity} ({compared})\n  length  {} bytes{}\n",
        path.display(),
        layout.plain_length(),
        list(files.as_ref())
    );
    let json = json!({
        "valid": true,
        "model_sha256": identity,
        "bytes": layout.plain_length(),
        "files": files.as_ref().map(entries),
    });
    Ok(Outcome { text, json })
}

/// A sealed file's header, and its layout by its length.
fn open(path: &Path) -> Result<(Header, Layout), Failure> {
    let failed = |error| Failure::File { verb: "read", path: path.to_owned(), error };
    let refused = |error| refused(path, error);
    let mut source = File::open(path).map_err(failed)?;
    let layout = Layout::of_sealed(source.metadata().map_err(failed)?.len()).map_err(refused)?;
    let mut header = [0; HEADER_BYTES];
    source.read_exact(&mut header).map_err(failed)?;
    Ok((Header::parse(&header).map_err(refused)?, layout))
}

fn refused(path: &Path, error: SealError) -> Failure {
    Failure::Refused { what: path.display().to_string(), code: error.code(), problem: error.to_string() }
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
/// The bar of long work on `length` bytes.
pub(crate) fn progress(length: u64, what: &'static str) -> ProgressBar {
    const TEMPLATE: &str = "{msg} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_message(what)
}
