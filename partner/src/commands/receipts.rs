//! `cleanroom receipts`: what the partner holds of each request.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{
    Entry, MAX_CHECKPOINT_BYTES, NoteKey, SignedCheckpoint, inclusion_path, leaf_hash, verify_inclusion,
};
use cleanroom_attestation::receipt::{Part, Receipt, ReceiptId, whole_answer};
use cleanroom_attestation::release::UnixMillis;
use cleanroom_attestation::safeguard::SafeguardVerdict;
use cleanroom_standards::{Place, cose_receipt};
use serde::Serialize;

use super::audit::write_file;
use crate::audit::{Store, StoredHashes};
use crate::outcome::{Failure, Outcome, usage};
use crate::output::{Listing, Mark, Terminal};
use crate::receipts::{BadFile, KeptReceipt, ReceiptFolder, gaps};

/// The help's last part, with a first line and a store that this program knows.
macro_rules! examples {
    ($first:literal, $store:literal) => {
        concat!(
            "Examples:\n",
            $first,
            "  cleanroom receipts list
  cleanroom receipts show chatcmpl-0f3a --json
  cleanroom receipts verify
  cleanroom receipts verify chatcmpl-0f3a --request request.json --response answer.json
  cleanroom receipts prove chatcmpl-0f3a --log ",
            $store,
            " --json --cose receipt.cose

A receipt says which clean room answered with which model under which release, and how the request ended. It
commits to request and response without containing them: with the salt in the file, whoever has the texts can
show that they are the ones. Keep the folder private: with a salt, a short text can be guessed."
        )
    };
}

#[cfg(feature = "online")]
const EXAMPLES: &str = examples!(
    "  cleanroom connect cleanroom.example:8443 --receipts receipts/\n",
    "http://logs.example/cleanroom"
);
/// This program has no network, and makes no receipts.
#[cfg(not(feature = "online"))]
const EXAMPLES: &str = examples!("", "fetched-log/");

/// Read and check the receipts that `cleanroom connect --receipts` keeps
#[derive(Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub struct Receipts {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List every receipt of the folder, one line each
    #[command(after_help = "Examples:\n  cleanroom receipts list --receipts receipts/ --json")]
    List(Folder),
    /// Show one receipt whole
    #[command(after_help = "Examples:\n  cleanroom receipts show chatcmpl-0f3a")]
    Show(Show),
    /// Check signatures, numbering and, if you give them, the texts
    ///
    /// Without an ID, this command checks every receipt. Each enclave numbers the receipts of each partner,
    /// and each receipt names the receipt before it. So the check finds and names a receipt that is missing
    /// in the middle.
    #[command(
        after_help = "Examples:\n  cleanroom receipts verify chatcmpl-0f3a --request request.json --response answer.json"
    )]
    Verify(Verify),
    /// Prove that a receipt stands in the log, without showing any other entry
    ///
    /// Verifies and prints the inclusion proof (RFC 6962 section 2.1.1). The proof leads from the receipt's
    /// entry to the root of the signed checkpoint. A reader who has the receipt and the proof needs no store.
    #[command(
        after_help = "Examples:\n  cleanroom receipts prove chatcmpl-0f3a --log log/ --json > proof.json\n  cleanroom receipts prove chatcmpl-0f3a --log log/ --cose receipt.cose"
    )]
    Prove(Prove),
}

#[derive(Args)]
struct Prove {
    /// The request's id
    id: ReceiptId,

    /// The store of logs: a folder, or `http://HOST[:PORT][/PATH]`
    #[arg(long, value_name = "STORE")]
    log: String,

    /// Write the same as a COSE receipt (RFC 9942) for other programs, and beside it FILE.entry and FILE.key: the entry
    /// that it is about, and the receipt key in DER
    #[arg(long, value_name = "FILE")]
    cose: Option<PathBuf>,

    #[command(flatten)]
    folder: Folder,
}

#[derive(Args)]
struct Folder {
    /// The folder of receipts
    #[arg(long = "receipts", value_name = "FOLDER", default_value = "receipts")]
    folder: PathBuf,
}

#[derive(Args)]
struct Show {
    /// The request's id, as the response's header `request-id` has it
    id: ReceiptId,

    #[command(flatten)]
    folder: Folder,
}

#[derive(Args)]
struct Verify {
    /// The request's id; without it, every receipt is checked
    id: Option<ReceiptId>,

    /// The body of the request, byte for byte
    #[arg(long, value_name = "FILE", requires = "id")]
    request: Option<PathBuf>,

    /// The body of the response, byte for byte; of a stream, everything before the receipt
    #[arg(long, value_name = "FILE", requires = "id")]
    response: Option<PathBuf>,

    #[command(flatten)]
    folder: Folder,
}

impl Receipts {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`] when the folder or a file cannot be read.
    pub fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        match self.command {
            Command::List(folder) => list(folder, terminal),
            Command::Show(Show { id, folder }) => show(&find(folder, &id)?, terminal),
            Command::Verify(verify) => verify.run(terminal),
            Command::Prove(Prove { id, log, cose, folder }) => {
                prove(&find(folder, &id)?, &log, cose.as_deref(), terminal)
            }
        }
    }
}

impl Folder {
    fn read(self) -> Result<(Vec<KeptReceipt>, Vec<BadFile>), Failure> {
        let folder = ReceiptFolder::at(self.folder);
        folder.read().map_err(|error| Failure::unreadable(folder.path(), &error))
    }
}

fn find(folder: Folder, id: &ReceiptId) -> Result<KeptReceipt, Failure> {
    let (receipts, _) = folder.read()?;
    let found = receipts.into_iter().find(|kept| kept.signed.receipt().id == *id);
    found.ok_or_else(|| usage("no-such-receipt", format!("the folder has no receipt with the id {id}")))
}

fn list(folder: Folder, terminal: &mut Terminal) -> Result<Outcome, Failure> {
    let (receipts, bad) = folder.read()?;
    let mut listing = Listing::new();
    for kept in &receipts {
        let receipt = kept.signed.receipt();
        let code = receipt.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
        let Receipt { id, finish, request, response, started_ms, .. } = receipt;
        let text = format!(
            "{} {finish}{code}, {} bytes in, {} out",
            UnixMillis(*started_ms),
            request.bytes,
            response.bytes
        );
        listing.field(id.as_str(), text);
    }
    if receipts.is_empty() {
        listing.note("There is no receipt yet.");
    }
    let problems = problems(&bad, &mut listing);
    let all: Vec<&Receipt> = receipts.iter().map(|kept| kept.signed.receipt()).collect();
    terminal.report(&serde_json::json!({ "receipts": all, "problems": problems }), &listing)?;
    Ok(if bad.is_empty() { Outcome::Pass } else { Outcome::Refused })
}

fn show(kept: &KeptReceipt, terminal: &mut Terminal) -> Result<Outcome, Failure> {
    let receipt = kept.signed.receipt();
    let mut listing = Listing::new();
    let optional =
        |digest: &Option<Sha256Digest>| digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string());
    listing.field("file", kept.path.display().to_string());
    listing.field("id", receipt.id.as_str());
    listing.field(
        "end",
        receipt
            .code
            .as_ref()
            .map_or_else(|| receipt.finish.to_string(), |code| format!("{} ({code})", receipt.finish)),
    );
    if let Some(SafeguardVerdict { policies_sha256, action, rules }) = &receipt.safeguard {
        let by = if rules.is_empty() { String::new() } else { format!(" by {}", rules.join(", ")) };
        listing.field("safeguards", format!("{action}{by}"));
        for policy in policies_sha256 {
            listing.field("policy", policy.to_string());
        }
    }
    if let Some(record) = &receipt.record_sha256 {
        listing.field("record", format!("{record}, sealed"));
    }
    listing.field("began", UnixMillis(receipt.started_ms).to_string());
    listing.field("ended", UnixMillis(receipt.ended_ms).to_string());
    listing.field("model", format!("{} {}", receipt.model, receipt.model_sha256));
    listing.field("release", optional(&receipt.release_sha256));
    listing.field("lease", optional(&receipt.lease_sha256));
    listing.field("partner", receipt.partner.to_string());
    listing.field("session", receipt.session.to_string());
    listing.field("boot", receipt.boot.to_string());
    listing.field(
        "place",
        format!("{} in the boot's log, number {} of this partner", receipt.index, receipt.number),
    );
    listing
        .field("request", format!("{} bytes, commitment {}", receipt.request.bytes, receipt.request.sha256));
    listing.field(
        "response",
        format!("{} bytes, commitment {}", receipt.response.bytes, receipt.response.sha256),
    );
    listing.field("digest", kept.signed.digest().to_string());
    let json = serde_json::json!({ "receipt": receipt, "sha256": kept.signed.digest(), "file": kept.path });
    terminal.report(&json, &listing)?;
    Ok(Outcome::Pass)
}

fn prove(
    kept: &KeptReceipt,
    log: &str,
    cose: Option<&Path>,
    terminal: &mut Terminal,
) -> Result<Outcome, Failure> {
    let store = Store::named(log).map_err(|error| usage("store", error))?;
    let (boot, index) = (kept.signed.receipt().boot, kept.signed.receipt().index);
    let note = store.read(&format!("{boot}/checkpoint"), MAX_CHECKPOINT_BYTES as u64);
    let note = note.map_err(|error| Failure {
        outcome: Outcome::Unreachable,
        code: "unreadable",
        message: error.to_string(),
    })?;
    let unproven = |code, message: String| Failure { outcome: Outcome::Refused, code, message };
    let note = note.ok_or_else(|| unproven("boot-hidden", format!("{store} has no log of boot {boot}")))?;
    let signed =
        SignedCheckpoint::parse(&note).map_err(|error| unproven("checkpoint-form", error.to_string()))?;
    let key = NoteKey::of_boot(&kept.receipt_key);
    let key = key.ok_or_else(|| unproven("receipt-key", "the receipt key is not Ed25519".to_owned()))?;
    let checkpoint =
        signed.verify(&key).map_err(|error| unproven("checkpoint-signature", error.to_string()))?;
    let (size, root) = (checkpoint.size, checkpoint.root);
    let not_in_log =
        |problem: String| unproven("receipt-not-in-log", format!("entry {index} of {size}: {problem}"));
    let hashes = StoredHashes { store: &store, boot, size };
    let path = inclusion_path(&hashes, index, size).map_err(|error| not_in_log(error.to_string()))?;
    let entry = Entry::Receipt { sha256: kept.signed.digest() }.to_bytes();
    verify_inclusion(leaf_hash(&entry), index, size, &path, &root)
        .map_err(|error| not_in_log(error.to_string()))?;
    let mut listing = Listing::new();
    listing.check(Mark::Ok, "checkpoint", format!("{size} entries, signed by {}", key.name()));
    listing.check(Mark::Ok, "receipt", format!("{} is entry {index}", kept.signed.receipt().id));
    path.iter().for_each(|hash| listing.field("hash", hash.to_string()));
    if let Some(file) = cose {
        let signature = signed.cose_signature(&key).ok_or_else(|| {
            let message = "the checkpoint has no signature of its enclave for COSE receipts; this enclave is older than they are";
            unproven("checkpoint-cose", message.to_owned())
        })?;
        let place = Place { boot: &boot, index, size, path: &path };
        let receipt = cose_receipt(&place, signature)
            .map_err(|error| unproven("cose", format!("the receipt cannot be encoded: {error}")))?;
        for (ending, bytes) in [("", receipt.as_slice()), (".entry", &entry), (".key", &kept.receipt_key)] {
            let mut name = file.as_os_str().to_owned();
            name.push(ending);
            write_file(Path::new(&name), bytes)?;
        }
        listing.check(Mark::Ok, "COSE receipt", format!("in {}", file.display()));
    }
    let json = serde_json::json!({
        "index": index, "size": size, "hashes": path, "checkpoint": String::from_utf8_lossy(&note),
        "key": key.verifier(), "receipt": kept.signed.receipt(), "receipt_sha256": kept.signed.digest(),
    });
    terminal.report(&json, &listing)?;
    Ok(Outcome::Pass)
}

/// Something that is wrong, and where.
#[derive(Serialize)]
struct Problem {
    place: String,
    code: &'static str,
    problem: String,
}

fn problems(bad: &[BadFile], listing: &mut Listing) -> Vec<Problem> {
    let problem = |bad: &BadFile| Problem {
        place: bad.path.display().to_string(),
        code: bad.code,
        problem: bad.problem.clone(),
    };
    let problems: Vec<Problem> = bad.iter().map(problem).collect();
    for Problem { place, code: _, problem } in &problems {
        listing.check(Mark::Fail, place.as_str(), problem.as_str());
    }
    problems
}

impl Verify {
    fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let (receipts, bad) = self.folder.read()?;
        let mut listing = Listing::new();
        let mut problems = problems(&bad, &mut listing);
        let mut fail = |listing: &mut Listing, place: String, code, problem: String| {
            listing.check(Mark::Fail, place.as_str(), problem.as_str());
            problems.push(Problem { place, code, problem });
        };
        if let Some(id) = &self.id {
            let kept = receipts.iter().find(|kept| kept.signed.receipt().id == *id);
            let kept = kept.ok_or_else(|| {
                usage("no-such-receipt", format!("the folder has no good receipt with the id {id}"))
            })?;
            listing.check(Mark::Ok, "signature", "by the receipt key of its boot");
            let texts =
                [("request", Part::Request, &self.request), ("response", Part::Response, &self.response)];
            for (name, part, file) in texts {
                let Some(path) = file else {
                    listing.check(Mark::NotAsked, name, "");
                    continue;
                };
                let bytes = std::fs::read(path).map_err(|error| Failure::unreadable(path, &error))?;
                let bytes = if part == Part::Response { whole_answer(&bytes) } else { &bytes };
                match kept.signed.opens(part, bytes, &kept.salt) {
                    Ok(()) => listing.check(Mark::Ok, name, format!("{} is the one", path.display())),
                    Err(error) => {
                        fail(&mut listing, path.display().to_string(), error.code(), error.to_string());
                    }
                }
            }
        } else {
            for (place, code, problem) in gaps(&receipts) {
                fail(&mut listing, place, code, problem);
            }
            listing.field("receipts", format!("{} with a good signature", receipts.len()));
        }
        let outcome = if problems.is_empty() { Outcome::Pass } else { Outcome::Refused };
        terminal
            .report(&serde_json::json!({ "receipts": receipts.len(), "problems": problems }), &listing)?;
        Ok(outcome)
    }
}
