//! `release draft`: a release from nothing or from the one before, with the changes that the command line names.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{
    AuditRules, Deployment, Egress, Id, Image, Label, LeaseRules, Limits, List, Model, ModelState, Partner,
    Payload as _, PayloadType, Release, Retention, Root, SafeguardLimit, Safeguards, TpmImage, UnixMillis,
    Weights, Witness,
};
use cleanroom_attestation::safeguard::SafeguardAction;
use cleanroom_program::file;
use cleanroom_safeguard::{MAX_POLICY_BYTES, Policy};
use serde_json::json;

use super::describe::describe;
use super::payload;
use crate::Outcome;
use crate::chain::RootArguments;
use crate::failure::Failure;
use crate::files;
use crate::measured;
use crate::publisher::{self, Published};
use crate::signer::public_key;

/// How long the log may run ahead of its witnesses unless somebody says otherwise, in seconds.
const WITNESS_WITHIN: u64 = 60;

#[derive(Args)]
pub(crate) struct Draft {
    #[command(flatten)]
    root: RootArguments,
    /// The release to start from. The draft has its version plus one.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// When the release expires, as 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", required_unless_present = "from")]
    expires: Option<UnixMillis>,
    /// An image that may run: PCR 0, 1 and 2 in hexadecimal, or the image file, which this command measures.
    /// For the simulated tier: NAME=program:FILE,config:FILE. A unified kernel image is one of an instance with a
    /// NitroTPM; its registers in hexadecimal are NAME=nitrotpm:PCR4,PCR7,PCR12.
    #[arg(long = "image", value_name = "NAME=FILE|PCR0,PCR1,PCR2")]
    images: Vec<Named>,
    /// An image that may no longer run.
    #[arg(long = "remove-image", value_name = "NAME")]
    removed_images: Vec<Label>,
    /// A deployment in which images may run: one or more of `role:ARN` (PCR 3), `instance:ID` (PCR 4), and
    /// pcr3, pcr4, pcr8 in hexadecimal.
    #[arg(long = "deployment", value_name = "NAME=pcr3:HEX,...")]
    deployments: Vec<Named>,
    /// A model and its digest, or its file, which this command measures. Its state is active unless you give
    /// one.
    #[arg(long = "model", value_name = "ID=SHA256|FILE[,STATE]")]
    models: Vec<Named>,
    /// A model that its publisher signed with `model_signing sign key`: the signature, and the publisher's
    /// public key in PEM. The file of --model must be one that was signed. Signatures of certificates are
    /// refused.
    #[arg(long = "model-signature", value_name = "MODEL=SIGNATURE,KEY.pub")]
    model_signatures: Vec<Named>,
    /// Set a model's state: active, draining, suspended or revoked.
    #[arg(long = "state", value_name = "MODEL=STATE")]
    states: Vec<Named>,
    /// A model with sealed weights, and the file that lists the brokers of their key: `weights.json`, as
    /// `broker secret new` writes it.
    #[arg(long = "weights", value_name = "MODEL=FILE")]
    weights: Vec<Named>,
    /// A model whose weights are no longer sealed.
    #[arg(long = "unsealed", value_name = "MODEL")]
    unsealed: Vec<Id>,
    /// A model and the safeguard policy by which enclaves judge its prompts and answers: the policy file, or
    /// its SHA-256. An enclave that does not have this policy serves nobody. The model's limits stay.
    #[arg(long = "safeguards", value_name = "MODEL=FILE|SHA256")]
    safeguards: Vec<Named>,
    /// A limit of a model's safeguards: COUNT verdicts with ACTION (flag, refuse or end) or a stricter one
    /// within SECONDS hold a partner until a newer release is in force. Repeat it for up to 8 limits. They
    /// replace those that the model had before.
    #[arg(long = "safeguard-limit", value_name = "MODEL=NAME,ACTION,COUNT,SECONDS")]
    safeguard_limits: Vec<Named>,
    /// A model that is no longer judged.
    #[arg(long = "no-safeguards", value_name = "MODEL")]
    no_safeguards: Vec<Id>,
    /// A model and the file that says which exchanges are kept sealed, for how long, and who may open them:
    /// JSON in the form of docs/retention.md. An enclave that cannot do all of it refuses the release.
    #[arg(long = "retention", value_name = "MODEL=FILE")]
    retention: Vec<Named>,
    /// A model of which nothing more is kept.
    #[arg(long = "no-retention", value_name = "MODEL")]
    no_retention: Vec<Id>,
    /// A partner and its keys: SHA-256 of the `SubjectPublicKeyInfo`, or a public key in PEM.
    #[arg(long = "partner", value_name = "ID=KEY[,KEY...]")]
    partners: Vec<Named>,
    /// The models that a partner may use. They replace those that it could use before.
    #[arg(long = "grant", value_name = "PARTNER=MODEL[,MODEL...]")]
    grants: Vec<Named>,
    /// A partner's requests per minute, tokens per day and concurrent requests. A new partner has
    /// 60,1000000,4.
    #[arg(long = "limits", value_name = "PARTNER=RPM,TPD,CONCURRENT")]
    limits: Vec<Named>,
    /// A partner's share, 1 to 255, when partners together want more than an enclave can do. A new partner
    /// has 1.
    #[arg(long = "share", value_name = "PARTNER=SHARE")]
    shares: Vec<Named>,
    /// What the release says of a partner: its jurisdiction, its sector, its clearance. `halt --attribute`
    /// halts every partner with one of them. They replace those that the partner had before.
    #[arg(long = "attributes", value_name = "PARTNER=NAME=VALUE[,NAME=VALUE...]")]
    attributes: Vec<Named>,
    /// A partner that loses its attributes. A denial that names one of them no longer halts it.
    #[arg(long = "no-attributes", value_name = "PARTNER")]
    no_attributes: Vec<Id>,
    /// When a partner's access ends. A new partner's access ends with the release.
    #[arg(long = "partner-expires", value_name = "PARTNER=TIME")]
    partner_expires: Vec<Named>,
    /// A partner that loses its access.
    #[arg(long = "remove-partner", value_name = "ID")]
    removed_partners: Vec<Id>,
    /// A destination that the enclave may connect to. This version enforces none, so it refuses to draft one.
    #[arg(long = "egress", value_name = "HOST:PORT")]
    egress: Vec<String>,
    /// A witness that must cosign the log: the name of its key in the root, and where the host asks it. An
    /// enclave begins nothing new while too few of them have cosigned. The witness must call itself by that
    /// name: `witness serve --name KEY`.
    #[arg(long = "witness", value_name = "KEY=URL")]
    witnesses: Vec<Named>,
    /// A witness that must no longer cosign the log.
    #[arg(long = "remove-witness", value_name = "KEY")]
    removed_witnesses: Vec<Id>,
    /// How many of the witnesses must have cosigned. Default: more than half of them, and at least as many as
    /// before.
    #[arg(long, value_name = "N")]
    witness_quorum: Option<u64>,
    /// For how many seconds the log may run ahead of what the witnesses have cosigned, 1 to 3600. The first
    /// release with witnesses has 60.
    #[arg(long, value_name = "SECONDS")]
    witness_within: Option<u64>,
    /// How long a lease lasts, in seconds. A host that holds a halt back can delay it for this long.
    #[arg(long, value_name = "SECONDS")]
    lease_seconds: Option<u64>,
    /// How many issuers must sign a lease.
    #[arg(long, value_name = "N")]
    lease_issuers: Option<u64>,
    /// The new file for the draft.
    #[arg(long, value_name = "FILE", default_value = "release.draft.json")]
    out: PathBuf,
}

/// `NAME=VALUE[,VALUE...]`.
#[derive(Clone)]
struct Named {
    name: String,
    values: Vec<String>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, values) = text.split_once('=').ok_or("expected NAME=VALUE")?;
        Ok(Self { name: name.to_owned(), values: values.split(',').map(str::to_owned).collect() })
    }
}

impl Named {
    fn name<T: FromStr<Err: ToString>>(&self) -> Result<T, Failure> {
        self.name
            .parse()
            .map_err(|error: T::Err| Failure::usage(format!("{}: {}", self.name, error.to_string())))
    }

    fn value<T: FromStr<Err: ToString>>(&self, index: usize, what: &str) -> Result<T, Failure> {
        let text = self
            .values
            .get(index)
            .ok_or_else(|| Failure::usage(format!("{}: {what} is missing", self.name)))?;
        text.parse().map_err(|error: T::Err| {
            Failure::usage(format!("{}: {what} {text}: {}", self.name, error.to_string()))
        })
    }
}

impl Draft {
    pub(super) fn run(&self) -> Result<Outcome, Failure> {
        let state = self.root.state()?;
        let root: &Root = state.root();
        let mut release = self.start(root)?;
        self.change_images_and_deployments(&mut release)?;
        let published = self.change_models(&mut release)?;
        self.change_partners(&mut release)?;
        release.lease.seconds = self.lease_seconds.unwrap_or(release.lease.seconds);
        release.lease.issuers = self.lease_issuers.unwrap_or(release.lease.issuers);
        self.change_witnesses(&mut release)?;
        let mut outcome = write_draft(&release, root, &self.out)?;
        if !published.is_empty() {
            let text: String = published.iter().map(|published| published.text.as_str()).collect();
            outcome.text.insert_str(0, &text);
            let json: Vec<_> = published.into_iter().map(|published| published.json).collect();
            outcome.add("model_signatures", json);
        }
        Ok(outcome)
    }

    fn start(&self, root: &Root) -> Result<Release, Failure> {
        let Some(from) = &self.from else {
            return Ok(Release {
                room: root.room.clone(),
                version: root.minimum_release,
                expires: self.expires.unwrap_or(root.expires),
                supersedes_denials: List::default(),
                images: List::default(),
                nitrotpm_images: None,
                deployments: None,
                models: List::default(),
                partners: List::default(),
                egress: List::default(),
                witnesses: List::default(),
                lease: LeaseRules { seconds: 60, issuers: root.roles.lease.threshold },
                audit: AuditRules { checkpoint_seconds: 0, witnesses: 0 },
            });
        };
        let mut release = next_of(from)?;
        release.version = release.version.max(root.minimum_release);
        release.expires = self.expires.unwrap_or(release.expires);
        Ok(release)
    }

    fn change_images_and_deployments(&self, release: &mut Release) -> Result<(), Failure> {
        let (mut images, mut instances) = (release.images.to_vec(), release.nitrotpm_images().to_vec());
        images.retain(|image| !self.removed_images.contains(&image.name));
        instances.retain(|image| !self.removed_images.contains(&image.name));
        for image in &self.images {
            let name: Label = image.name()?;
            images.retain(|present: &Image| present.name != name);
            instances.retain(|present: &TpmImage| present.name != name);
            match measured::image(&image.values)? {
                measured::Image::Enclave([pcr0, pcr1, pcr2]) => images.push(Image { name, pcr0, pcr1, pcr2 }),
                measured::Image::NitroTpm([pcr4, pcr7, pcr12]) => {
                    instances.push(TpmImage { name, pcr4, pcr7, pcr12 });
                }
            }
        }
        release.images = limited(images, "images")?;
        release.nitrotpm_images =
            if instances.is_empty() { None } else { Some(limited(instances, "nitrotpm_images")?) };

        let mut deployments = release.deployments.as_ref().map_or(Vec::new(), |known| known.to_vec());
        for given in &self.deployments {
            let name: Label = given.name()?;
            deployments.retain(|present: &Deployment| present.name != name);
            let mut deployment = Deployment { name, pcr3: None, pcr4: None, pcr8: None };
            for value in &given.values {
                let (register, digest) = measured::register(value)?;
                let slot = match register {
                    3 => &mut deployment.pcr3,
                    4 => &mut deployment.pcr4,
                    _ => &mut deployment.pcr8,
                };
                *slot = Some(digest);
            }
            deployments.push(deployment);
        }
        if !deployments.is_empty() {
            release.deployments = Some(limited(deployments, "deployments")?);
        }

        let mut egress = release.egress.to_vec();
        for to in &self.egress {
            let parsed =
                to.rsplit_once(':').and_then(|(host, port)| Some((host.parse().ok()?, port.parse().ok()?)));
            let (host, port) = parsed.ok_or_else(|| Failure::usage(format!("{to}: expected HOST:PORT")))?;
            egress.push(Egress { host, port });
        }
        release.egress = limited(egress, "destinations")?;
        Ok(())
    }

    /// Gives the models whose publishers' signatures were verified.
    fn change_models(&self, release: &mut Release) -> Result<Vec<Published>, Failure> {
        let mut models = release.models.to_vec();
        for given in &self.model_signatures {
            if !self.models.iter().any(|model| model.name == given.name) {
                let id = &given.name;
                return Err(Failure::usage(format!(
                    "the signature of the model {id} needs its file; name it with --model {id}=FILE"
                )));
            }
        }
        let mut published = Vec::new();
        for model in &self.models {
            let id: Id = model.name()?;
            let before = models.iter().position(|present: &Model| present.id == id);
            let before = before.map(|at| models.remove(at));
            let state = model.values.get(1).map_or(Ok(ModelState::Active), |state| state_of(state))?;
            let source: String = model.value(0, "SHA256 or FILE")?;
            let mut sha256 = None;
            for given in self.model_signatures.iter().filter(|given| given.name == model.name) {
                let signed = publisher::signed_model(
                    Path::new(&source),
                    Path::new(&given.value::<String>(0, "SIGNATURE")?),
                    Path::new(&given.value::<String>(1, "KEY.pub")?),
                )?;
                sha256 = Some(signed.model_sha256);
                published.push(signed);
            }
            let sha256 = sha256.map_or_else(|| measured::model(&source), Ok)?;
            // Other weights have another key, so its shares go with the weights.
            let safeguards = before.as_ref().and_then(|before| before.safeguards.clone());
            let retention = before.as_ref().and_then(|before| before.retention.clone());
            let weights = before.filter(|before| before.sha256 == sha256).and_then(|before| before.weights);
            models.push(Model { id, sha256, state, weights, safeguards, retention });
        }
        for sealed in &self.weights {
            let weights = read_weights(Path::new(&sealed.value::<String>(0, "FILE")?))?;
            model_of(&mut models, &sealed.name()?)?.weights = Some(weights);
        }
        for id in &self.unsealed {
            model_of(&mut models, id)?.weights = None;
        }
        self.change_safeguards(&mut models)?;
        for kept in &self.retention {
            let retention = read_retention(Path::new(&kept.value::<String>(0, "FILE")?))?;
            model_of(&mut models, &kept.name()?)?.retention = Some(retention);
        }
        for id in &self.no_retention {
            model_of(&mut models, id)?.retention = None;
        }
        for change in &self.states {
            model_of(&mut models, &change.name()?)?.state = state_of(&change.value::<String>(0, "STATE")?)?;
        }
        release.models = limited(models, "models")?;
        Ok(published)
    }

    fn change_safeguards(&self, models: &mut [Model]) -> Result<(), Failure> {
        for change in &self.safeguards {
            let policy = read_policy(&change.value::<String>(0, "FILE or SHA256")?)?;
            let model = model_of(models, &change.name()?)?;
            let limits = model.safeguards.take().map_or_else(List::default, |before| before.limits);
            model.safeguards = Some(Safeguards { policy, limits });
        }
        for model in models.iter_mut() {
            let given = self.safeguard_limits.iter().filter(|limit| limit.name == model.id.as_str());
            let limits = given.map(safeguard_limit).collect::<Result<Vec<_>, _>>()?;
            match &mut model.safeguards {
                _ if limits.is_empty() => {}
                Some(safeguards) => safeguards.limits = limited(limits, "limits of a model's safeguards")?,
                None => {
                    let id = &model.id;
                    return Err(Failure::usage(format!(
                        "the model {id} has no safeguards; name its policy with --safeguards {id}=FILE"
                    )));
                }
            }
        }
        for limit in &self.safeguard_limits {
            model_of(models, &limit.name()?)?;
        }
        for id in &self.no_safeguards {
            model_of(models, id)?.safeguards = None;
        }
        Ok(())
    }

    fn change_witnesses(&self, release: &mut Release) -> Result<(), Failure> {
        let mut witnesses = release.witnesses.to_vec();
        for key in &self.removed_witnesses {
            let before = witnesses.len();
            witnesses.retain(|witness| witness.key != *key);
            if witnesses.len() == before {
                return Err(Failure::usage(format!("the release has no witness {key}")));
            }
        }
        for given in &self.witnesses {
            let witness = Witness { key: given.name()?, url: given.value(0, "URL")? };
            witnesses.retain(|present| present.key != witness.key);
            witnesses.push(witness);
        }
        let audit = &mut release.audit;
        let count = witnesses.len() as u64;
        if count == 0 {
            if self.witness_quorum.is_some() || self.witness_within.is_some() {
                return Err(Failure::usage("the release has no witness; name one with --witness KEY=URL"));
            }
            *audit = AuditRules { checkpoint_seconds: 0, witnesses: 0 };
        } else {
            let is_first = release.witnesses.is_empty();
            let changed = !self.witnesses.is_empty() || !self.removed_witnesses.is_empty();
            // As the thresholds of a root: more than half, and never lowered unless somebody says so.
            let usual =
                if changed { (count / 2 + 1).max(audit.witnesses.min(count)) } else { audit.witnesses };
            audit.witnesses = self.witness_quorum.unwrap_or(usual);
            let within = if is_first { WITNESS_WITHIN } else { audit.checkpoint_seconds };
            audit.checkpoint_seconds = self.witness_within.unwrap_or(within);
        }
        release.witnesses = limited(witnesses, "witnesses")?;
        Ok(())
    }

    fn change_partners(&self, release: &mut Release) -> Result<(), Failure> {
        const NEW: Limits =
            Limits { requests_per_minute: 60, tokens_per_day: 1_000_000, concurrency: 4, share: None };
        let mut partners = release.partners.to_vec();
        partners.retain(|partner| !self.removed_partners.contains(&partner.id));
        for partner in &self.partners {
            let id: Id = partner.name()?;
            let keys = partner.values.iter().map(|key| key_digest(key)).collect::<Result<Vec<_>, _>>()?;
            let keys = limited(keys, "keys of a partner")?;
            match partners.iter_mut().find(|present| present.id == id) {
                Some(present) => present.keys = keys,
                None => partners.push(Partner {
                    id,
                    keys,
                    models: List::default(),
                    limits: NEW,
                    expires: release.expires,
                    attributes: None,
                }),
            }
        }
        let known = |partners: &[Partner], id: &Id| {
            let known = partners.iter().any(|partner| partner.id == *id);
            let unknown = || format!("the release has no partner {id}; add it with --partner");
            if known { Ok(()) } else { Err(Failure::usage(unknown())) }
        };
        let changes = self.grants.iter().chain(&self.limits).chain(&self.shares).chain(&self.partner_expires);
        for change in changes.chain(&self.attributes) {
            known(&partners, &change.name()?)?;
        }
        for id in &self.no_attributes {
            known(&partners, id)?;
        }
        for partner in &mut partners {
            let is_for = |change: &&Named| change.name == partner.id.as_str();
            if let Some(grant) = self.grants.iter().rfind(is_for) {
                let models = grant.values.iter().enumerate().map(|(index, _)| grant.value(index, "MODEL"));
                partner.models = limited(models.collect::<Result<_, _>>()?, "models of a partner")?;
            }
            if let Some(limits) = self.limits.iter().rfind(is_for) {
                partner.limits = Limits {
                    requests_per_minute: limits.value(0, "requests per minute")?,
                    tokens_per_day: limits.value(1, "tokens per day")?,
                    concurrency: limits.value(2, "concurrent requests")?,
                    share: partner.limits.share,
                };
            }
            if let Some(share) = self.shares.iter().rfind(is_for) {
                partner.limits.share = Some(share.value(0, "a share from 1 to 255")?);
            }
            if let Some(expires) = self.partner_expires.iter().rfind(is_for) {
                partner.expires = expires.value(0, "TIME")?;
            }
            if let Some(given) = self.attributes.iter().rfind(is_for) {
                let all = given.values.iter().enumerate().map(|(index, _)| given.value(index, "NAME=VALUE"));
                let all = limited(all.collect::<Result<_, _>>()?, "attributes of a partner")?;
                partner.attributes = Some(all);
            }
            if self.no_attributes.contains(&partner.id) {
                partner.attributes = None;
            }
        }
        release.partners = limited(partners, "partners")?;
        Ok(())
    }
}

/// The release in `from`, with the version after it.
pub(crate) fn next_of(from: &Path) -> Result<Release, Failure> {
    let (envelope, _) = files::open(from, PayloadType::Release)?;
    let mut release = payload(from, &envelope)?;
    release.version = release.version.saturating_add(1);
    Ok(release)
}

/// Checks a draft and writes it.
pub(crate) fn write_draft(release: &Release, root: &Root, out: &Path) -> Result<Outcome, Failure> {
    let refused = |error| Failure::refused("the draft", &error);
    let payload = release.to_payload();
    Release::from_payload(&payload).map_err(refused)?.check_against(root).map_err(refused)?;
    file::create_new(out, &payload, file::PUBLIC)?;
    let text = format!(
        "{}wrote {}: read it; then each authority runs `release sign`; {} signatures are needed",
        describe(release),
        out.display(),
        root.roles.release.threshold
    );
    Ok(Outcome { text, json: json!({ "draft": out.display().to_string(), "release": release }) })
}

fn limited<T, const MAX: usize>(items: Vec<T>, what: &str) -> Result<List<T, MAX>, Failure> {
    List::new(items).ok_or_else(|| Failure::usage(format!("a release has at most {MAX} {what}")))
}

fn model_of<'m>(models: &'m mut [Model], id: &Id) -> Result<&'m mut Model, Failure> {
    let model = models.iter_mut().find(|model| model.id == *id);
    model.ok_or_else(|| Failure::usage(format!("the release has no model {id}")))
}

/// Where the key of a model's sealed weights comes from, as `broker secret new` writes it.
fn read_weights(path: &Path) -> Result<Weights, Failure> {
    /// Sixteen brokers, each with a name of 128 bytes and a digest, and room for indentation.
    const LIMIT: usize = 16 << 10;
    serde_json::from_slice(&files::read(path, LIMIT)?).map_err(|error| Failure::Refused {
        what: path.display().to_string(),
        code: "form",
        problem: format!("expected a weights.json of `broker secret new`: {error}"),
    })
}

/// Which exchanges are kept, and under which rule they are opened.
fn read_retention(path: &Path) -> Result<Retention, Failure> {
    /// Sixteen brokers, reasons and receivers, each with a name of 128 bytes and a key, and room for indentation.
    const LIMIT: usize = 32 << 10;
    serde_json::from_slice(&files::read(path, LIMIT)?).map_err(|error| Failure::Refused {
        what: path.display().to_string(),
        code: "form",
        problem: format!("expected a retention in the form of docs/retention.md: {error}"),
    })
}

/// A safeguard policy's digest, in hexadecimal or of its file.
fn read_policy(policy: &str) -> Result<Sha256Digest, Failure> {
    if let Ok(digest) = policy.parse() {
        return Ok(digest);
    }
    let path = Path::new(policy);
    let bytes = files::read(path, MAX_POLICY_BYTES)?;
    match Policy::read(&bytes) {
        Ok(policy) => Ok(Sha256Digest::from_bytes(policy.digest())),
        Err(error) => Err(Failure::Refused {
            what: path.display().to_string(),
            code: "policy",
            problem: error.to_string(),
        }),
    }
}

fn safeguard_limit(given: &Named) -> Result<SafeguardLimit, Failure> {
    let action: String = given.value(1, "ACTION")?;
    let known = SafeguardAction::ALL.into_iter().filter(|action| *action != SafeguardAction::Allow);
    let known = known.into_iter().find(|known| known.name() == action);
    Ok(SafeguardLimit {
        id: given.value(0, "NAME")?,
        action: known.ok_or_else(|| {
            Failure::usage(format!("{}: {action}: expected flag, refuse or end", given.name))
        })?,
        count: given.value(2, "COUNT")?,
        within_seconds: given.value(3, "SECONDS")?,
    })
}

fn state_of(text: &str) -> Result<ModelState, Failure> {
    let states = [ModelState::Active, ModelState::Draining, ModelState::Suspended, ModelState::Revoked];
    let state = states.into_iter().find(|state| state.name() == text);
    state.ok_or_else(|| Failure::usage(format!("{text}: expected active, draining, suspended or revoked")))
}

/// A partner's key: its digest in hexadecimal, or the public key itself in a file.
fn key_digest(key: &str) -> Result<Sha256Digest, Failure> {
    match key.parse() {
        Ok(digest) => Ok(digest),
        Err(_) => public_key(Path::new(key)).map(|key| key.id()),
    }
}
