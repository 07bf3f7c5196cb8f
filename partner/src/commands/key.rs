//! `cleanroom key`: the partner's own key.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cleanroom_channel::identity::Identity;
use cleanroom_program::file::create_secret;
use serde::Serialize;

use crate::outcome::{Failure, Outcome, usage};
use crate::output::{Listing, Terminal};
use crate::setup::load_key;

const EXAMPLES: &str = "\
Examples:
  cleanroom key new                       # writes cleanroom.key
  cleanroom key show --key bank.key       # prints the key's digest, which authorities put into releases";

/// Make a key, or show the digest by which a clean room knows it
#[derive(Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a P-384 key and write it to a file that only you can read. An existing file is never overwritten
    #[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
    New(File),
    /// Show the digest of a key
    #[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
    Show(File),
}

#[derive(Args)]
struct File {
    /// The key file (PKCS#8 PEM)
    #[arg(long, value_name = "FILE", default_value = "cleanroom.key")]
    key: PathBuf,
}

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    key_sha256: String,
}

impl Key {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`] when the file exists already, cannot be written or is not a key.
    pub fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let (file, identity) = match self.action {
            Action::New(File { key }) => {
                let identity = create(&key)?;
                (key, identity)
            }
            Action::Show(File { key }) => {
                let identity = load_key(&key)?;
                (key, identity)
            }
        };
        let report = Report { file, key_sha256: identity.key_digest().to_string() };
        let mut listing = Listing::new();
        listing.field("key", report.file.display().to_string());
        listing.field("sha256", report.key_sha256.as_str());
        terminal.report(&report, &listing)?;
        Ok(Outcome::Pass)
    }
}

fn create(path: &Path) -> Result<Identity, Failure> {
    let identity = Identity::generate().map_err(|error| usage("key", error.to_string()))?;
    create_secret(path, identity.to_pem().as_bytes()).map_err(|error| {
        if error.is_existing() {
            let message = format!("{} exists already; choose another --key or remove it", path.display());
            return usage("key-exists", message);
        }
        Failure { outcome: Outcome::Unreachable, code: "unwritable", message: error.to_string() }
    })?;
    Ok(identity)
}
