//! One case: a template in which everything is right, and what a list of cases changes in it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Expected, Outcome, Request, Response, Vector};
use crate::{Cbor, Certificate, Forge, NOW, Name, pcr};

/// The challenge of cases that have one.
pub(super) const NONCE: &[u8] = b"thirty-two bytes of a challenge!";
/// The user data of cases that have some.
pub(super) const USER_DATA: &[u8] = b"transcript";
/// The public key of cases that have one.
pub(super) const PUBLIC_KEY: &[u8] = b"receipt key";
/// The module id of cases with a `NitroTPM`.
pub(super) const TPM_MODULE_ID: &str = "i-0123456789abcdef0-tpm0000000000000000";
/// The axes, in the order of a report.
const AXES: [&str; 6] = ["platform", "image", "deployment", "model", "freshness", "session"];

/// Changes the list of certificates, root first and leaf last.
type Rearrange = Box<dyn FnOnce(&mut Vec<Vec<u8>>)>;
/// Changes the document's bytes.
type Rewrite = Box<dyn FnOnce(&mut Vec<u8>)>;

/// Everything of a request, before it is made.
pub(super) struct Case {
    pub(super) forge: Forge,
    pub(super) rearrange: Option<Rearrange>,
    pub(super) rewrite: Option<Rewrite>,
    /// The policy; `{root}` stands for the SHA-256 of the forged root.
    pub(super) policy: String,
    pub(super) expected: Expected,
    pub(super) at_ms: u64,
}

impl Case {
    /// Registers that are zero are left out, and with `short` the leaf stands directly under the root: both keep the
    /// committed files small.
    fn new(short: bool) -> Self {
        let mut forge = Forge::new();
        [5, 6, 7].into_iter().chain(9..16).for_each(|index| forge.document.remove_pcr(index));
        if short {
            forge.chain.drain(1..4);
            let root = forge.certificate(0).subject.clone();
            forge.leaf().issuer = root;
        }
        Self {
            forge,
            rearrange: None,
            rewrite: None,
            policy: format!("version = 1\n{}{}", anchor("forge", "{root}"), image()),
            expected: Expected::default(),
            at_ms: NOW * 1000,
        }
    }

    /// The template of a certificate, 0 being the root and 4 the leaf.
    pub(super) fn certificate(&mut self, index: usize) -> &mut Certificate {
        self.forge.certificate(index)
    }

    /// Puts a field into the document.
    pub(super) fn put(&mut self, name: &str, value: Cbor) {
        self.forge.document.put(name, value);
    }

    /// Puts everything into the document that a session asks about, and asks about all of it and the deployment.
    pub(super) fn ask_everything(&mut self) {
        self.put("nonce", Cbor::bytes(NONCE));
        self.put("user_data", Cbor::bytes(USER_DATA));
        self.put("public_key", Cbor::bytes(PUBLIC_KEY));
        self.forge.document.put_pcr(16, &pcr(16));
        self.forge.document.put_pcr(17, &pcr(17));
        self.expected = Expected {
            nonce: Some(hex::encode(NONCE)),
            user_data: Some(hex::encode(USER_DATA)),
            public_key: Some(hex::encode(PUBLIC_KEY)),
            pcr16: Some(hex::encode(pcr(16))),
            pcr17: Some(hex::encode(pcr(17))),
        };
        self.policy += &deployment();
        self.policy += "[freshness]\nmax_age = \"5m\"\n";
    }

    /// Makes the document one of a `NitroTPM`, and has the policy name its image.
    pub(super) fn become_tpm(&mut self) {
        self.forge.document.become_tpm(TPM_MODULE_ID);
        self.forge.leaf().subject = Name::of(&format!("{TPM_MODULE_ID}.eu-forge-1.forged"));
        self.policy += &tpm_image(4, 7);
    }

    /// The request; and a document, right in itself, under the same certificates above the leaf.
    fn request(mut self) -> (Request, Vec<u8>) {
        let mut certificates = self.forge.certificates();
        let root = sha256(certificates.first().expect("a chain has a root"));
        if let Some(rearrange) = self.rearrange.take() {
            rearrange(&mut certificates);
        }
        let sibling = self.sibling(&certificates);
        let mut document = self.forge.document_with(&certificates);
        if let Some(rewrite) = self.rewrite.take() {
            rewrite(&mut document);
        }
        let request = Request {
            document: STANDARD.encode(document),
            policy: self.policy.replace("{root}", &root),
            expected: self.expected,
            at_ms: self.at_ms,
        };
        (request, sibling)
    }

    fn sibling(&self, certificates: &[Vec<u8>]) -> Vec<u8> {
        let [authorities @ .., (issuer, key), _] = self.forge.chain.as_slice() else { return Vec::new() };
        let mut forge = Forge::new();
        let mut leaf = forge.chain.pop().expect("a chain has a leaf");
        leaf.0.issuer = issuer.subject.clone();
        forge.chain = [authorities, &[(issuer.clone(), key.clone()), leaf]].concat();
        let mut bundle = certificates.to_vec();
        bundle.pop();
        bundle.extend(forge.certificates().pop());
        forge.document_with(&bundle)
    }
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

/// A development anchor of a policy.
pub(super) fn anchor(name: &str, sha256: &str) -> String {
    format!("[[trust_anchor]]\nname = \"{name}\"\ntier = \"development\"\nsha256 = \"{sha256}\"\n")
}

/// The image of forged documents.
pub(super) fn image() -> String {
    image_of("forged image", [0, 1, 2])
}

/// An image of a policy with the values of these registers of [`pcr`].
pub(super) fn image_of(name: &str, values: [u8; 3]) -> String {
    let [pcr0, pcr1, pcr2] = values.map(|value| hex::encode(pcr(value)));
    format!("[[image]]\nname = \"{name}\"\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n")
}

/// An image of a policy that accepts enclaves in debug mode.
pub(super) fn debug_image() -> String {
    "[[image]]\nname = \"bench\"\ndebug = true\n".to_owned()
}

/// A `NitroTPM` image of a policy, with these values of [`pcr`] in registers 4 and 7 and with zero in register 12.
pub(super) fn tpm_image(four: u8, seven: u8) -> String {
    let [four, seven, zero] = [pcr(four), pcr(seven), [0; 48]].map(hex::encode);
    format!(
        "[[nitrotpm_image]]\nname = \"forged ami\"\npcrs = {{ 4 = \"{four}\", 7 = \"{seven}\", 12 = \"{zero}\" }}\n"
    )
}

/// The deployment of forged documents.
pub(super) fn deployment() -> String {
    let [pcr3, pcr4, pcr8] = [3, 4, 8].map(|index| hex::encode(pcr(index)));
    format!("[deployment]\npcr3 = [\"{pcr3}\"]\npcr4 = [\"{pcr4}\"]\npcr8 = [\"{pcr8}\"]\n")
}

/// What is expected of a case.
#[derive(Clone, Copy)]
pub(super) enum Answer<'a> {
    /// Nothing that was asked fails.
    Accepted,
    /// As [`Self::Accepted`], of an enclave in debug mode.
    AcceptedDebug,
    /// The document is not genuine: one code, and nothing else is looked at.
    NotGenuine(&'a str),
    /// The document is genuine and something that was asked does not hold: axis and code of each.
    Fails(&'a [(&'a str, &'a str)]),
    /// As [`Self::Fails`], of an enclave in debug mode.
    FailsDebug(&'a [(&'a str, &'a str)]),
    /// The policy is refused.
    PolicyRefused,
}

/// The cases, as they are made.
#[derive(Default)]
pub(super) struct List {
    short_chains: bool,
    vectors: Vec<(Vector, Vec<u8>)>,
}

impl List {
    /// The cases that are added from now on have a chain of root and leaf alone.
    pub(super) fn shorten_chains(&mut self) {
        self.short_chains = true;
    }

    /// Adds a case: what it is called, which rules it holds (separated by spaces), what is special about it, what is
    /// expected, and how the template becomes it.
    pub(super) fn add(
        &mut self,
        id: impl Into<String>,
        rules: &str,
        about: impl Into<String>,
        answer: Answer<'_>,
        change: impl FnOnce(&mut Case),
    ) {
        let mut case = Case::new(self.short_chains);
        change(&mut case);
        let (request, sibling) = case.request();
        let response = respond(&request, answer);
        let rules = rules.split(' ').map(str::to_owned).collect();
        let vector = Vector { id: id.into(), rules, about: about.into(), request, response };
        self.vectors.push((vector, sibling));
    }

    pub(super) fn into_vectors(self) -> Vec<(Vector, Vec<u8>)> {
        self.vectors
    }
}

/// The answer in full. It follows from the question and from what the case says about itself; no verifier is asked.
fn respond(request: &Request, answer: Answer<'_>) -> Response {
    let (genuine, debug, failures): (bool, bool, Vec<(&str, &str)>) = match answer {
        Answer::PolicyRefused => {
            return Response {
                outcome: Outcome::Invalid,
                code: Some("policy".to_owned()),
                failed: None,
                axes: None,
                tier: None,
                debug: None,
                session: None,
            };
        }
        Answer::Accepted => (true, false, Vec::new()),
        Answer::AcceptedDebug => (true, true, Vec::new()),
        Answer::NotGenuine(code) => (false, false, vec![("platform", code)]),
        Answer::Fails(failures) => (true, false, failures.to_vec()),
        Answer::FailsDebug(failures) => (true, true, failures.to_vec()),
    };
    let axes: BTreeMap<String, String> = AXES
        .into_iter()
        .map(|axis| {
            let status = if failures.iter().any(|(failed, _)| *failed == axis) {
                "failed"
            } else if genuine && is_asked(request, axis) {
                "passed"
            } else {
                "not-asked"
            };
            (axis.to_owned(), status.to_owned())
        })
        .collect();
    let code = failures.first().map(|(_, code)| (*code).to_owned());
    let outcome = match &code {
        Some(_) => Outcome::Fail,
        None if axes.values().all(|status| status == "passed") => Outcome::Pass,
        None => Outcome::Partial,
    };
    let session = code.clone().unwrap_or_else(|| {
        if is_enough_for_a_session(&request.expected) { "accepted" } else { "session-not-asked" }.to_owned()
    });
    Response {
        outcome,
        code,
        failed: Some(failures.iter().map(|(_, code)| (*code).to_owned()).collect()),
        axes: Some(axes),
        tier: genuine.then(|| "development".to_owned()),
        debug: Some(debug),
        session: Some(session),
    }
}

fn is_asked(request: &Request, axis: &str) -> bool {
    let expected = &request.expected;
    match axis {
        "deployment" => request.policy.contains("[deployment]"),
        "model" => expected.pcr16.is_some(),
        "freshness" => expected.nonce.is_some() || request.policy.contains("max_age"),
        "session" => {
            expected.user_data.is_some() || expected.public_key.is_some() || expected.pcr17.is_some()
        }
        _ => true,
    }
}

/// Hexadecimal digits of the shortest nonce that makes a session fresh: 16 bytes.
const SESSION_NONCE_DIGITS: usize = 32;

fn is_enough_for_a_session(expected: &Expected) -> bool {
    let Expected { nonce, user_data, public_key, pcr16, pcr17 } = expected;
    nonce.as_ref().is_some_and(|nonce| nonce.len() >= SESSION_NONCE_DIGITS)
        && user_data.is_some()
        && public_key.is_some()
        && pcr16.is_some()
        && pcr17.is_some()
}
