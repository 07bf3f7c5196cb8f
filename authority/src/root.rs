//! `root`: says whose keys count.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Subcommand};
use cleanroom_attestation::release::{
    Envelope, Id, List, PayloadType, Role, RoleRule, Roles, Root, RootKey, UnixMillis,
};
use cleanroom_program::file;
use serde_json::json;

use crate::Outcome;
use crate::chain::{self, Progress};
use crate::failure::Failure;
use crate::files;
use crate::signer::{SignerArguments, public_key};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Draft the first root. Read the draft, change it as you like, then sign it.
    #[command(after_help = NEW_EXAMPLES)]
    New {
        /// The clean room's name.
        #[arg(long)]
        room: Id,
        /// When the root expires, as 2027-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires: UnixMillis,
        #[command(flatten)]
        parties: Parties,
        /// The new file for the draft. `root sign` writes the envelope of NAME.draft.json to NAME.json.
        #[arg(long, value_name = "FILE", default_value = "root.draft.json")]
        out: PathBuf,
    },
    /// Draft the next root. It needs the signatures of a quorum of the current root and of a quorum of the
    /// next.
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate {
        /// The current root.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// When the next root expires. Default: when the current one does.
        #[arg(long, value_name = "TIME")]
        expires: Option<UnixMillis>,
        #[command(flatten)]
        parties: Parties,
        /// An authority or a witness that leaves.
        #[arg(long, value_name = "NAME")]
        remove: Vec<Id>,
        /// Refuse releases below this version from now on.
        #[arg(long, value_name = "VERSION")]
        minimum_release: Option<u64>,
        /// The new file for the draft.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign a root: a draft, or an envelope that others have signed.
    #[command(after_help = SIGN_EXAMPLES)]
    Sign {
        /// The draft or envelope.
        document: PathBuf,
        #[command(flatten)]
        signer: SignerArguments,
        /// The previous root. Needed for every root but the first.
        #[arg(long, value_name = "FILE")]
        previous: Option<PathBuf>,
        /// The file for the envelope. Default: NAME.json for NAME.draft.json, and the same file for an
        /// envelope.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show a root: its keys, its roles, and who has signed. The exit status is 1 while signatures are
    /// missing.
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The draft or envelope.
        document: PathBuf,
        /// The previous root. Needed for every root but the first.
        #[arg(long, value_name = "FILE")]
        previous: Option<PathBuf>,
    },
}

const NEW_EXAMPLES: &str = "\
Examples:
  cleanroom-authority root new --room grid-forecast --expires 2028-01-01T00:00:00Z \\
      --authority bank=bank.pub,bank-online.pub --authority utility=utility.pub,utility-online.pub \\
      --authority regulator=regulator.pub,regulator-online.pub
Of three authorities, two sign a root or a release, two issue a lease, and any
one halts.";

const ROTATE_EXAMPLES: &str = "\
Examples:
  cleanroom-authority root rotate --from root.json --remove bank \\
      --authority insurer=insurer.pub,insurer-online.pub --out root.2.draft.json
  cleanroom-authority root rotate --from root.json --expires 2029-01-01T00:00:00Z --out root.2.draft.json";

const SIGN_EXAMPLES: &str = "\
Examples:
  cleanroom-authority root sign root.draft.json --key offline.pem       # the first: makes root.json
  cleanroom-authority root sign root.json --key offline.pem             # every other: adds to root.json
  cleanroom-authority root sign root.2.draft.json --previous root.json --key offline.pem
  cleanroom-authority root sign root.json --as bank-offline \\
      --sign-with 'openssl dgst -sha384 -sign offline.pem'";

const SHOW_EXAMPLES: &str = "\
Examples:
  cleanroom-authority root show root.json
  cleanroom-authority root show root.2.json --previous root.json";

#[derive(Args)]
pub(crate) struct Parties {
    /// An authority and its two public keys: first the offline key (roots, releases, denials), then the
    /// online key (leases). In a rotation: an authority that joins, or whose keys change.
    #[arg(long = "authority", value_name = "NAME=OFFLINE.pub,ONLINE.pub")]
    authorities: Vec<Party>,
    /// A witness of the log and its public key.
    #[arg(long = "witness", value_name = "NAME=KEY.pub")]
    witnesses: Vec<Party>,
    /// How many authorities must sign a root or a release. Default: more than half of them, and in a rotation
    /// at least as many as before.
    #[arg(long, value_name = "N")]
    threshold: Option<u64>,
    /// How many issuers must sign a lease. Default: more than half of them, and in a rotation at least as
    /// many as before. With 1, a single online key decides, and a halt must reach every lease service.
    #[arg(long, value_name = "N")]
    lease_threshold: Option<u64>,
}

/// `NAME=FILE` or `NAME=FILE,FILE`.
#[derive(Clone)]
struct Party {
    name: Id,
    keys: Vec<PathBuf>,
}

impl FromStr for Party {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, keys) = text.split_once('=').ok_or("expected NAME=FILE")?;
        let name = name.parse::<Id>().map_err(|error| error.to_string())?;
        Ok(Self { name, keys: keys.split(',').map(PathBuf::from).collect() })
    }
}

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::New { room, expires, parties, out } => {
                draft(&parties.apply(empty(room, expires), true)?, &out)
            }
            Self::Rotate { from, expires, parties, remove, minimum_release, out } => {
                let mut root = next_of(&from)?;
                root.expires = expires.unwrap_or(root.expires);
                root.minimum_release = minimum_release.unwrap_or(root.minimum_release);
                for name in &remove {
                    without(&mut root, name)?;
                }
                let changed = !remove.is_empty() || !parties.authorities.is_empty();
                draft(&parties.apply(root, changed)?, &out)
            }
            Self::Sign { document, signer, previous, out } => sign(&document, &signer, previous, out),
            Self::Show { document, previous } => show(&document, previous),
        }
    }
}

/// The first root of a room, with nobody in it.
fn empty(room: Id, expires: UnixMillis) -> Root {
    Root {
        room,
        version: 1,
        expires,
        minimum_release: 1,
        keys: List::default(),
        roles: Roles {
            root: RoleRule::default(),
            release: RoleRule::default(),
            deny: RoleRule::default(),
            lease: RoleRule::default(),
            witness: RoleRule::default(),
        },
    }
}

/// The root in `from`, which its own authorities have signed, with the next version.
fn next_of(from: &Path) -> Result<Root, Failure> {
    let (envelope, _) = files::open(from, PayloadType::Root)?;
    let refused = |error| Failure::refused(&from.display(), &error);
    let mut root = Root::from_payload(envelope.payload()).map_err(refused)?;
    root.verify(Role::Root, &envelope).map_err(refused)?;
    root.version = root.version.saturating_add(1);
    Ok(root)
}

fn sign(
    document: &Path,
    signer: &SignerArguments,
    previous: Option<PathBuf>,
    out: Option<PathBuf>,
) -> Result<Outcome, Failure> {
    let opened = files::open(document, PayloadType::Root)?;
    let pair = Pair::read(document, &opened.0, previous)?;
    let (envelope, mut outcome) = chain::sign(document, opened, signer, &pair.candidates(), out)?;
    let progress = pair.progress(&envelope);
    outcome.text += &progress.text();
    outcome.add("progress", progress.json());
    Ok(outcome)
}

fn show(document: &Path, previous: Option<PathBuf>) -> Result<Outcome, Failure> {
    let (envelope, _) = files::open(document, PayloadType::Root)?;
    let pair = Pair::read(document, &envelope, previous)?;
    let progress = pair.progress(&envelope);
    if !progress.is_complete() {
        return Err(Failure::Refused {
            what: document.display().to_string(),
            code: "threshold",
            problem: format!("not signed by enough\n{}{}", describe(&pair.root), progress.text()),
        });
    }
    let text =
        format!("{}  payload SHA-256  {}\n{}", describe(&pair.root), envelope.digest(), progress.text());
    let json = json!({ "root": pair.root, "sha256": envelope.digest(), "progress": progress.json() });
    Ok(Outcome { text, json })
}

/// A root and the previous one. The first root has none.
struct Pair {
    root: Root,
    previous: Option<Root>,
}

/// The signatures that count under the root itself, and under the previous one.
struct PairProgress {
    own: Progress,
    previous: Option<Progress>,
}

impl Pair {
    fn read(document: &Path, envelope: &Envelope, previous: Option<PathBuf>) -> Result<Self, Failure> {
        let root = Root::from_payload(envelope.payload())
            .map_err(|error| Failure::refused(&document.display(), &error))?;
        let previous = match previous {
            None => None,
            Some(path) => {
                let bytes = files::read(&path, PayloadType::Root.envelope_limit())?;
                let root =
                    Root::open_first(&bytes).map_err(|error| Failure::refused(&path.display(), &error))?;
                Some(root.into_value())
            }
        };
        let follows = previous.as_ref().map_or(1, |previous| previous.version + 1);
        if root.version != follows {
            let problem = format!(
                "this is root version {}, expected {follows}: give the previous root with --previous",
                root.version
            );
            return Err(Failure::usage(problem));
        }
        Ok(Self { root, previous })
    }

    /// Every key that may sign: the keys of the `root` role, in this root and in the previous one.
    fn candidates(&self) -> Vec<&RootKey> {
        let mut keys: Vec<&RootKey> = self.root.keys_of(Role::Root).collect();
        for key in self.previous.iter().flat_map(|previous| previous.keys_of(Role::Root)) {
            if keys.iter().all(|known| known.spki != key.spki) {
                keys.push(key);
            }
        }
        keys
    }

    fn progress(&self, envelope: &Envelope) -> PairProgress {
        PairProgress {
            own: Progress::of(&self.root, Role::Root, envelope),
            previous: self.previous.as_ref().map(|previous| Progress::of(previous, Role::Root, envelope)),
        }
    }
}

impl PairProgress {
    fn is_complete(&self) -> bool {
        self.own.is_complete() && self.previous.as_ref().is_none_or(Progress::is_complete)
    }

    fn text(&self) -> String {
        let mut text = self.own.text();
        if let Some(previous) = &self.previous {
            text += &format!("\nunder the previous root: {}", previous.text());
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let previous = self.previous.as_ref().map(Progress::json);
        json!({ "own": self.own.json(), "previous": previous, "complete": self.is_complete() })
    }
}

impl Parties {
    /// Adds the parties to `root`. With `count`, thresholds that nobody gave follow the number of keys.
    fn apply(&self, mut root: Root, count: bool) -> Result<Root, Failure> {
        for party in &self.authorities {
            let [offline, online] = party.keys.as_slice() else {
                return Err(Failure::usage(format!(
                    "authority {}: expected two public keys, NAME=OFFLINE.pub,ONLINE.pub",
                    party.name
                )));
            };
            set_key(&mut root, &party.name, "offline", offline, &[Role::Root, Role::Release, Role::Deny])?;
            set_key(&mut root, &party.name, "online", online, &[Role::Lease])?;
        }
        for party in &self.witnesses {
            let [key] = party.keys.as_slice() else {
                return Err(Failure::usage(format!("witness {}: expected one public key", party.name)));
            };
            set_key(&mut root, &party.name, "witness", key, &[Role::Witness])?;
        }
        let roles = &mut root.roles;
        for (given, rule) in [
            (self.threshold, &mut roles.root),
            (self.threshold, &mut roles.release),
            (self.lease_threshold, &mut roles.lease),
        ] {
            if let Some(threshold) = given.or(count.then(|| majority(rule))) {
                rule.threshold = threshold;
            }
        }
        root.roles.deny.threshold = 1;
        root.roles.witness.threshold = u64::from(!root.roles.witness.keys.is_empty());
        Ok(root)
    }
}

/// More than half of a role's keys, and no fewer than before as long as there are enough keys.
fn majority(rule: &RoleRule) -> u64 {
    let keys = rule.keys.len() as u64;
    (keys / 2 + 1).max(rule.threshold.min(keys))
}

/// Gives `authority` the key in `path` for `roles`. It replaces the key that the authority had for them.
fn set_key(root: &mut Root, authority: &Id, kind: &str, path: &Path, roles: &[Role]) -> Result<(), Failure> {
    let full = |_| Failure::usage("there are more keys than a root can name");
    let spki = public_key(path)?;
    let name: Id = format!("{authority}-{kind}")
        .parse()
        .map_err(|error| Failure::usage(format!("{authority}: {error}")))?;
    let mut keys = root.keys.to_vec();
    keys.retain(|key| key.name != name);
    keys.push(RootKey { name: name.clone(), authority: authority.clone(), spki });
    root.keys = List::new(keys).ok_or(()).map_err(full)?;
    for role in roles {
        let rule = rule_mut(&mut root.roles, *role);
        if !rule.keys.contains(&name) {
            let mut keys = rule.keys.to_vec();
            keys.push(name.clone());
            rule.keys = List::new(keys).ok_or(()).map_err(full)?;
        }
    }
    Ok(())
}

/// Removes the keys of `authority`.
fn without(root: &mut Root, authority: &Id) -> Result<(), Failure> {
    let (gone, kept): (Vec<RootKey>, Vec<RootKey>) =
        root.keys.iter().cloned().partition(|key| key.authority == *authority);
    if gone.is_empty() {
        return Err(Failure::usage(format!("the root has no authority or witness {authority}")));
    }
    root.keys = List::new(kept).unwrap_or_default();
    for role in Role::ALL {
        let rule = rule_mut(&mut root.roles, role);
        let keys =
            rule.keys.iter().filter(|name| gone.iter().all(|key| key.name != **name)).cloned().collect();
        rule.keys = List::new(keys).unwrap_or_default();
    }
    Ok(())
}

fn rule_mut(roles: &mut Roles, role: Role) -> &mut RoleRule {
    match role {
        Role::Root => &mut roles.root,
        Role::Release => &mut roles.release,
        Role::Deny => &mut roles.deny,
        Role::Lease => &mut roles.lease,
        Role::Witness => &mut roles.witness,
    }
}

fn draft(root: &Root, out: &Path) -> Result<Outcome, Failure> {
    let payload = root.to_payload();
    let root = Root::from_payload(&payload).map_err(|error| Failure::refused("the draft", &error))?;
    file::create_new(out, &payload, file::PUBLIC)?;
    let text =
        format!("{}wrote {}: read it; then each authority runs `root sign`", describe(&root), out.display());
    Ok(Outcome { text, json: json!({ "draft": out.display().to_string(), "root": root }) })
}

fn describe(root: &Root) -> String {
    let mut text = format!("root of {}, version {}, until {}\n", root.room, root.version, root.expires);
    if root.minimum_release > 1 {
        text += &format!("  releases from version {}\n", root.minimum_release);
    }
    for role in Role::ALL {
        let rule = root.roles.rule(role);
        let keys: Vec<String> = rule.keys.iter().map(ToString::to_string).collect();
        text += &format!("  {role:<8} {} of {}: {}\n", rule.threshold, rule.keys.len(), keys.join(", "));
    }
    for key in &root.keys {
        text += &format!("  key {:<20} {} {}\n", key.name, key.spki.algorithm(), key.spki.id());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_that_nobody_gave_is_a_majority_and_is_never_lowered() {
        let rule = |keys: usize, threshold| {
            let names = (0..keys).map(|index| format!("key-{index}").parse().unwrap()).collect();
            RoleRule { keys: List::new(names).unwrap(), threshold }
        };
        for (keys, before, expected) in [
            (1, 0, 1),
            (2, 0, 2),
            (3, 0, 2),
            (4, 0, 3),
            (3, 1, 2),
            (5, 5, 5),
            (6, 5, 5),
            (2, 3, 2),
            (3, 3, 3),
        ] {
            assert_eq!(majority(&rule(keys, before)), expected, "{before} of {keys}");
        }
    }
}
