//! `opening`: a quorum of authorities gives one sealed record to one receiver, and the receiver opens it.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::record::{MAX_RECORD_BYTES, RecordHead, RecordedExchange};
use cleanroom_attestation::release::{
    Id, Label, Opening, Payload as _, PayloadType, ReceiverKey, Role, Root, RootKey, UnixMillis, Verified,
};
use cleanroom_key_release::{Recipient, open_for_receiver};
use cleanroom_program::file;
use serde_json::json;
use zeroize::Zeroizing;

use crate::Outcome;
use crate::chain::{self, Progress, RootArguments};
use crate::failure::Failure;
use crate::files;
use crate::signer::SignerArguments;

/// The longest file of a receiver's key, in bytes.
const KEY_LIMIT: usize = 4096;
/// The longest opened key of a record, in bytes: it has 1168.
const GIVEN_LIMIT: usize = 4096;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a receiver's key pair: FILE, which stays with the receiver, and FILE.pub, which openings name.
    #[command(after_help = KEY_EXAMPLES)]
    Key {
        /// The new file for the private half.
        file: PathBuf,
    },
    /// Draft an opening of one record. Nothing is opened before a quorum has signed it.
    #[command(after_help = DRAFT_EXAMPLES)]
    Draft(Box<Draft>),
    /// Sign an opening: a draft, or an envelope that others have signed.
    #[command(after_help = SIGN_EXAMPLES)]
    Sign {
        /// The draft or envelope.
        document: PathBuf,
        #[command(flatten)]
        root: RootArguments,
        #[command(flatten)]
        signer: SignerArguments,
        /// The file for the envelope. Default: NAME.json for NAME.draft.json, and the same file for an
        /// envelope.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show an opening in words, and with a root who has signed it.
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The draft or envelope.
        document: PathBuf,
        #[command(flatten)]
        root: RootArguments,
    },
    /// Open a record with the receiver's key and with what an enclave gave.
    #[command(after_help = RECEIVE_EXAMPLES)]
    Receive(Receive),
}

const KEY_EXAMPLES: &str = "\
Examples:
  cleanroom-authority opening key investigator.key
The release lists the SHA-256 that this command shows.";

const DRAFT_EXAMPLES: &str = "\
Examples:
  cleanroom-authority opening draft --root root.json --release release.json --record RECORD \\
      --reason abuse --text 'case 17: the flagged answer' --receiver investigator.key.pub \\
      --expires 2027-02-03T00:00:00Z
RECORD is a file in the folder that the host keeps records in.";

const SIGN_EXAMPLES: &str = "\
Examples:
  cleanroom-authority opening sign opening.draft.json --root root.json --key offline.pem
  cleanroom-authority opening sign opening.json --root root.json --key offline.pem
The first makes opening.json from the draft. The second adds a signature to it.";

const SHOW_EXAMPLES: &str = "\
Examples:
  cleanroom-authority opening show opening.draft.json
  cleanroom-authority --json opening show opening.json --root root.json";

const RECEIVE_EXAMPLES: &str = "\
Examples:
  cleanroom-authority opening receive --root root.json --opening opening.json --record RECORD \\
      --given opening.opened --key investigator.key --out exchange.json";

#[derive(Args)]
pub(crate) struct Draft {
    #[command(flatten)]
    root: RootArguments,
    /// The release in force, to see whether it lists the reason and the receiver.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// The record.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// The code of the reason, which the release lists.
    #[arg(long, value_name = "CODE")]
    reason: Id,
    /// The reason in a few words. The partner sees it.
    #[arg(long, value_name = "TEXT")]
    text: Label,
    /// The receiver's public key, as `opening key` writes it.
    #[arg(long, value_name = "FILE")]
    receiver: PathBuf,
    /// When the opening ends, as 2027-01-31T12:00:00Z; at most seven days from now.
    #[arg(long, value_name = "TIME")]
    expires: UnixMillis,
    /// The new file for the draft.
    #[arg(long, value_name = "FILE", default_value = "opening.draft.json")]
    out: PathBuf,
}

#[derive(Args)]
pub(crate) struct Receive {
    #[command(flatten)]
    root: RootArguments,
    /// The opening, signed.
    #[arg(long, value_name = "FILE")]
    opening: PathBuf,
    /// The record.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// What an enclave gave for the opening.
    #[arg(long, value_name = "FILE")]
    given: PathBuf,
    /// The receiver's private key.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The new file for the exchange. Only its owner can read it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::Key { file } => new_key(&file),
            Self::Draft(draft) => draft.run(),
            Self::Sign { document, root, signer, out } => sign(&document, &root, &signer, out),
            Self::Show { document, root } => show(&document, &root),
            Self::Receive(receive) => receive.run(),
        }
    }
}

fn new_key(path: &Path) -> Result<Outcome, Failure> {
    let recipient = Recipient::generate();
    let key = ReceiverKey::new(recipient.public().as_bytes())
        .map_err(|error| Failure::Environment(error.to_string()))?;
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    let private = recipient.private_bytes();
    let mut text = Zeroizing::new(String::with_capacity(private.len() * 2));
    STANDARD.encode_string(private.as_slice(), &mut text);
    text.push('\n');
    file::create_secret(path, text.as_bytes())?;
    file::create_new(&public, format!("{key}\n").as_bytes(), file::PUBLIC)?;
    let digest = key.digest();
    let text = format!(
        "a receiver's key in {}, its public half in {}\n  SHA-256  {digest}",
        path.display(),
        public.display()
    );
    let json = json!({ "key": path.display().to_string(), "public": public.display().to_string(),
        "sha256": digest });
    Ok(Outcome { text, json })
}

impl Draft {
    fn run(&self) -> Result<Outcome, Failure> {
        let state = self.root.state_with(Some(&self.release), None)?;
        let root: &Root = state.root();
        let head = read_record(&self.record)?.0;
        let mut serial = [0; 32];
        let random = SystemRandom::new().fill(&mut serial);
        random.map_err(|_| Failure::Environment("no random numbers for the serial".to_owned()))?;
        let facts = head.facts();
        let opening = Opening {
            room: root.room.clone(),
            record: facts.record,
            day: facts.day,
            partner: facts.partner,
            reason: self.reason.clone(),
            text: self.text.clone(),
            receiver: read_public(&self.receiver)?,
            expires: self.expires,
            serial: Sha256Digest::from_bytes(serial),
        };
        let refused =
            |code, problem: String| Failure::Refused { what: "the draft".to_owned(), code, problem };
        if head.subject.room != root.room {
            let problem = format!("the record is of the room {}, this is {}", head.subject.room, root.room);
            return Err(refused("record-elsewhere", problem));
        }
        let model = state.release().and_then(|release| release.model(head.subject.model.as_str()));
        let rule = model.and_then(|model| model.retention.as_ref()).ok_or_else(|| {
            refused(
                "retention-not-released",
                "the release has no retention for the record's model".to_owned(),
            )
        })?;
        opening
            .check_use(rule, &facts, chain::now())
            .map_err(|error| refused(error.code(), error.to_string()))?;
        file::create_new(&self.out, &opening.to_payload(), file::PUBLIC)?;
        let text = format!(
            "{}wrote {}: read it; then each authority runs `opening sign`; {} signatures are needed",
            describe(&opening),
            self.out.display(),
            root.roles.release.threshold
        );
        Ok(Outcome { text, json: json!({ "draft": self.out.display().to_string(), "opening": opening }) })
    }
}

fn sign(
    document: &Path,
    root: &RootArguments,
    signer: &SignerArguments,
    out: Option<PathBuf>,
) -> Result<Outcome, Failure> {
    let state = root.state()?;
    let root: &Root = state.root();
    let opened = files::open(document, PayloadType::Opening)?;
    let refused = |error| Failure::refused(&document.display(), &error);
    Opening::from_payload(opened.0.payload())
        .and_then(|opening| opening.check_against(root))
        .map_err(refused)?;
    let candidates: Vec<&RootKey> = root.keys_of(Role::Release).collect();
    let (envelope, mut outcome) = chain::sign(document, opened, signer, &candidates, out)?;
    let progress = Progress::of(root, Role::Release, &envelope);
    outcome.text += &progress.text();
    outcome.add("progress", progress.json());
    Ok(outcome)
}

fn show(document: &Path, root: &RootArguments) -> Result<Outcome, Failure> {
    let (envelope, _) = files::open(document, PayloadType::Opening)?;
    let opening = Opening::from_payload(envelope.payload())
        .map_err(|error| Failure::refused(&document.display(), &error))?;
    let mut outcome = Outcome {
        text: describe(&opening),
        json: json!({ "opening": opening, "sha256": envelope.digest() }),
    };
    if root.is_given() {
        let state = root.state()?;
        let progress = Progress::of(state.root(), Role::Release, &envelope);
        outcome.text += &progress.text();
        outcome.add("progress", progress.json());
    }
    Ok(outcome)
}

fn describe(opening: &Opening) -> String {
    let Opening { room, record, day, partner, reason, text, receiver, expires, serial: _ } = opening;
    format!(
        "an opening in the room {room}, until {expires}\n  record    {record} of {day}\n  partner   key {partner}\n  \
         reason    {reason}: {text}\n  receiver  key {}\n",
        receiver.digest()
    )
}

impl Receive {
    fn run(&self) -> Result<Outcome, Failure> {
        let refused = |path: &Path, code, problem: &str| Failure::Refused {
            what: path.display().to_string(),
            code,
            problem: problem.to_owned(),
        };
        let state = self.root.state()?;
        let bytes = files::read(&self.opening, PayloadType::Opening.envelope_limit())?;
        let opening: Verified<Opening> =
            (state.root().open(&bytes)).map_err(|error| Failure::refused(&self.opening.display(), &error))?;
        let (head, body) = read_record(&self.record)?;
        if head.digest() != opening.record {
            return Err(refused(&self.record, "opening-record", "the opening is for another record"));
        }
        let private = file::read_secret(&self.key, KEY_LIMIT)?;
        let private = Zeroizing::new(STANDARD.decode(private.trim_ascii()).unwrap_or_default());
        let key = Recipient::from_private_bytes(&private).ok_or_else(|| {
            refused(&self.key, "key", "expected a receiver's key as `opening key` writes it")
        })?;
        let given = files::read(&self.given, GIVEN_LIMIT)?;
        let key = open_for_receiver(&given, &key, &opening.record, &opening.digest());
        let key = key.ok_or_else(|| {
            refused(&self.given, "given", "it was given for another opening, record or receiver")
        })?;
        let exchange = RecordedExchange::open(&body, &key)
            .map_err(|error| refused(&self.record, "record", &error.to_string()))?;
        let mut text = Zeroizing::new(exchange.to_json().to_string());
        text.push('\n');
        file::create_secret(&self.out, text.as_bytes())?;
        let out = self.out.display().to_string();
        let text = format!(
            "opened the record {}\n  receipt  {}\n  out      {out}: only you can read it",
            opening.record, head.subject.receipt
        );
        let json = json!({ "record": opening.record, "receipt": head.subject.receipt, "out": out });
        Ok(Outcome { text, json })
    }
}

/// A record: its head, and its body.
fn read_record(path: &Path) -> Result<(RecordHead, Vec<u8>), Failure> {
    let bytes = files::read(path, MAX_RECORD_BYTES)?;
    let (head, body) = RecordHead::split(&bytes).map_err(|error| Failure::Refused {
        what: path.display().to_string(),
        code: "record",
        problem: error.to_string(),
    })?;
    Ok((head, body.to_vec()))
}

fn read_public(path: &Path) -> Result<ReceiverKey, Failure> {
    let refused =
        |problem: String| Failure::Refused { what: path.display().to_string(), code: "key", problem };
    let bytes = files::read(path, KEY_LIMIT)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| refused("it is not UTF-8".to_owned()))?;
    text.trim()
        .parse()
        .map_err(|error: cleanroom_attestation::release::ReceiverKeyError| refused(error.to_string()))
}
