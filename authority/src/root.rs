//! `root`: whose keys count.

use std::path::PathBuf;
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
    /// Draft the first root. Read the draft, change what you like, then sign it.
    New {
        /// The clean room's name.
        #[arg(long)]
        room: Id,
        /// When it ends, as 2027-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires: UnixMillis,
        #[command(flatten)]
        parties: Parties,
        /// Where the draft goes; a name that ends in .draft.json saves you --out when you sign.
        #[arg(long, value_name = "FILE", default_value = "root.draft.json")]
        out: PathBuf,
    },
    /// Draft the root that follows on a given one. It takes the quorums of both.
    Rotate {
        /// The current root.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// When it ends; without it, when the current one does.
        #[arg(long, value_name = "TIME")]
        expires: Option<UnixMillis>,
        #[command(flatten)]
        parties: Parties,
        /// An authority (or witness) that leaves.
        #[arg(long, value_name = "NAME")]
        remove: Vec<Id>,
        /// Refuse releases below this version from now on.
        #[arg(long, value_name = "VERSION")]
        minimum_release: Option<u64>,
        /// Where the draft goes.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign a root: a draft, or an envelope that others signed before.
    Sign {
        /// The draft or envelope.
        document: PathBuf,
        #[command(flatten)]
        signer: SignerArguments,
        /// The root before, when this one is a rotation.
        #[arg(long, value_name = "FILE")]
        previous: Option<PathBuf>,
        /// Where the envelope goes.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show a root: keys, roles, and who has signed. Status 1 while signatures are missing.
    Show {
        /// The draft or envelope.
        document: PathBuf,
        /// The root before, when this one is a rotation.
        #[arg(long, value_name = "FILE")]
        previous: Option<PathBuf>,
    },
}

#[derive(Args)]
pub(crate) struct Parties {
    /// An authority and its public keys: the offline one (roots, releases, denials), then the online one (leases). In a
    /// rotation: one that joins, or whose keys change.
    #[arg(long = "authority", value_name = "NAME=OFFLINE.pub,ONLINE.pub")]
    authorities: Vec<Party>,
    /// A witness of the log and its public key.
    #[arg(long = "witness", value_name = "NAME=KEY.pub")]
    witnesses: Vec<Party>,
    /// Authorities that it takes for a root or a release; without it, more than half of them.
    #[arg(long, value_name = "N")]
    threshold: Option<u64>,
    /// Issuers that it takes for a lease; without it, 1 (in a rotation, as many as before).
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
                let root = Root {
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
                };
                draft(&parties.apply(root, true)?, &out)
            }
            Self::Rotate { from, expires, parties, remove, minimum_release, out } => {
                let (envelope, _) = files::open(&from, PayloadType::Root)?;
                let refused = |error| Failure::refused(&from.display(), &error);
                let mut root = Root::from_payload(envelope.payload()).map_err(refused)?;
                root.verify(Role::Root, &envelope).map_err(refused)?;
                root.version = root.version.saturating_add(1);
                root.expires = expires.unwrap_or(root.expires);
                root.minimum_release = minimum_release.unwrap_or(root.minimum_release);
                for name in &remove {
                    without(&mut root, name)?;
                }
                let changed = !remove.is_empty() || !parties.authorities.is_empty();
                draft(&parties.apply(root, changed)?, &out)
            }
            Self::Sign { document, signer, previous, out } => {
                let opened = files::open(&document, PayloadType::Root)?;
                let pair = Pair::read(&document, &opened.0, previous)?;
                let (envelope, mut outcome) =
                    chain::sign(&document, opened, &signer, &pair.candidates(), out)?;
                let progress = pair.progress(&envelope);
                outcome.text += &progress.text();
                outcome.json["progress"] = progress.json();
                Ok(outcome)
            }
            Self::Show { document, previous } => {
                let (envelope, _) = files::open(&document, PayloadType::Root)?;
                let pair = Pair::read(&document, &envelope, previous)?;
                let progress = pair.progress(&envelope);
                if !progress.is_complete() {
                    return Err(Failure::Refused {
                        what: document.display().to_string(),
                        code: "threshold",
                        problem: format!("not signed by enough\n{}{}", describe(&pair.root), progress.text()),
                    });
                }
                let text = format!(
                    "{}  payload SHA-256  {}\n{}",
                    describe(&pair.root),
                    envelope.digest(),
                    progress.text()
                );
                let json =
                    json!({ "root": pair.root, "sha256": envelope.digest(), "progress": progress.json() });
                Ok(Outcome { text, json })
            }
        }
    }
}

/// A root and, for a rotation, the one before.
struct Pair {
    root: Root,
    previous: Option<Root>,
}

/// What is signed under the root itself and under the one before.
struct PairProgress {
    own: Progress,
    previous: Option<Progress>,
}

impl Pair {
    fn read(
        document: &std::path::Path,
        envelope: &Envelope,
        previous: Option<PathBuf>,
    ) -> Result<Self, Failure> {
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
                "this is root version {}, expected {follows}: give the root right before it with --previous",
                root.version
            );
            return Err(Failure::usage(problem));
        }
        Ok(Self { root, previous })
    }

    /// Every key that may sign: of the root role here or before.
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
            text += &format!("\nunder the root before: {}", previous.text());
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let previous = self.previous.as_ref().map(Progress::json);
        json!({ "own": self.own.json(), "previous": previous, "complete": self.is_complete() })
    }
}

impl Parties {
    /// Adds the parties to `root`. With `count` the thresholds follow the number of authorities.
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
        let authorities = root.roles.root.keys.len() as u64;
        if let Some(threshold) = self.threshold.or(count.then_some(authorities / 2 + 1)) {
            root.roles.root.threshold = threshold;
            root.roles.release.threshold = threshold;
        }
        root.roles.deny.threshold = 1;
        root.roles.lease.threshold = self.lease_threshold.unwrap_or(root.roles.lease.threshold.max(1));
        root.roles.witness.threshold = u64::from(!root.roles.witness.keys.is_empty());
        Ok(root)
    }
}

/// Gives `authority` the key in `path` for `roles`, in place of one that it had there.
fn set_key(
    root: &mut Root,
    authority: &Id,
    kind: &str,
    path: &std::path::Path,
    roles: &[Role],
) -> Result<(), Failure> {
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

/// Takes the keys of `authority` away.
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

fn draft(root: &Root, out: &std::path::Path) -> Result<Outcome, Failure> {
    let payload = root.to_payload();
    let root = Root::from_payload(&payload).map_err(|error| Failure::refused("the draft", &error))?;
    file::create_new(out, &payload, file::PUBLIC)?;
    let text =
        format!("{}wrote {}: read it, then each authority runs `root sign`", describe(&root), out.display());
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
