//! `cleanroom conformance`: one question of the verification contract, answered by this program's verifier.

use std::collections::BTreeMap;
use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use cleanroom_attestation::chain::Tier;
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::document::MAX_DOCUMENT_LENGTH;
use cleanroom_attestation::policy::{MAX_POLICY_LENGTH, Policy};
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{self, Axis, AxisStatus, Check, Expectation, Verdict, appraise};
use serde::{Deserialize, Serialize};

use crate::outcome::{Failure, Outcome};
use crate::output::Terminal;

/// The longest request, in bytes: a document in base64, a policy of which every character is escaped, and the rest.
const MAX_REQUEST_LENGTH: u64 = (2 * MAX_DOCUMENT_LENGTH + 6 * MAX_POLICY_LENGTH + 0x1_0000) as u64;

/// Answer one question of the verification contract, JSON in and JSON out
///
/// Reads one request from standard input and prints one answer, as docs/verification.md describes. The
/// request has a document, a policy, the session's expectations and a time. The answer has outcome, code and
/// axes. The exit code says the outcome too: 0 pass, 1 fail, 2 the request or its policy is malformed, 3
/// partial.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Conformance {}

const EXAMPLES: &str = "\
Examples:
  cleanroom conformance < request.json
  scripts/conformance cleanroom conformance
  scripts/conformance --only chain/ ./my-verifier --some-option

A request:
  {\"document\": \"<base64>\", \"policy\": \"<trust.toml>\", \"expected\": {\"nonce\": \"<hex>\"}, \"at_ms\": 1772366400000}

An answer:
  {\"outcome\": \"fail\", \"code\": \"nonce-mismatch\", \"failed\": [\"nonce-mismatch\"], \"axes\": {\"platform\": \"passed\", ...},
   \"tier\": \"production\", \"debug\": false, \"session\": \"nonce-mismatch\"}";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    document: String,
    policy: String,
    expected: Expected,
    at_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    nonce: Option<String>,
    user_data: Option<String>,
    public_key: Option<String>,
    pcr16: Option<Sha384Digest>,
    pcr17: Option<Sha384Digest>,
}

#[derive(Serialize)]
struct Answer<'a> {
    outcome: verdict::Outcome,
    code: Option<&'static str>,
    failed: Vec<&'static str>,
    axes: BTreeMap<&'static str, AxisStatus>,
    tier: Option<Tier>,
    debug: bool,
    session: &'a str,
}

/// The answer to a question that cannot be asked.
#[derive(Debug, Serialize)]
struct Invalid {
    outcome: &'static str,
    code: &'static str,
    message: String,
}

impl Invalid {
    fn new(code: &'static str, message: &dyn ToString) -> Self {
        Self { outcome: "invalid", code, message: message.to_string() }
    }
}

impl Conformance {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// [`Failure`] when standard input cannot be read or standard output cannot be written.
    pub fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let mut request = Vec::new();
        let input = io::stdin().take(MAX_REQUEST_LENGTH + 1).read_to_end(&mut request);
        input.map_err(|error| Failure::unreadable("standard input".as_ref(), &error))?;
        match judge(&request) {
            Ok(verdict) => {
                print(&answer(&verdict), terminal)?;
                Ok(match verdict.outcome() {
                    verdict::Outcome::Pass => Outcome::Pass,
                    verdict::Outcome::Partial => Outcome::Partial,
                    verdict::Outcome::Fail => Outcome::Refused,
                })
            }
            Err(invalid) => {
                print(&invalid, terminal)?;
                Ok(Outcome::Usage)
            }
        }
    }
}

fn judge(request: &[u8]) -> Result<Verdict, Invalid> {
    if request.len() as u64 > MAX_REQUEST_LENGTH {
        return Err(Invalid::new("request", &format!("expected at most {MAX_REQUEST_LENGTH} bytes")));
    }
    let malformed = |error: &dyn ToString| Invalid::new("request", error);
    let request: Request = serde_json::from_slice(request).map_err(|error| malformed(&error))?;
    let document = STANDARD.decode(&request.document).map_err(|error| malformed(&error))?;
    let bytes = |text: Option<String>| text.map(hex::decode).transpose().map_err(|error| malformed(&error));
    let Expected { nonce, user_data, public_key, pcr16, pcr17 } = request.expected;
    let (nonce, user_data, public_key) = (bytes(nonce)?, bytes(user_data)?, bytes(public_key)?);
    let policy = Policy::from_toml(&request.policy).map_err(|error| Invalid::new("policy", &error))?;
    let expected = Expectation {
        nonce: nonce.as_deref(),
        user_data: user_data.as_deref(),
        public_key: public_key.as_deref(),
        pcr16,
        pcr17,
    };
    Ok(appraise(&document, &policy, &expected, Timestamp::from_millis(request.at_ms), None))
}

fn answer(verdict: &Verdict) -> Answer<'_> {
    Answer {
        outcome: verdict.outcome(),
        code: verdict.accepted().err().map(verdict::Rejection::code),
        failed: verdict.checks().iter().filter_map(Check::rejection).collect(),
        axes: Axis::ALL.into_iter().map(|axis| (axis.as_str(), verdict.axis(axis))).collect(),
        tier: verdict.tier(),
        debug: verdict.debug(),
        session: verdict.accepted_session().err().map_or("accepted", verdict::Rejection::code),
    }
}

fn print(answer: &impl Serialize, terminal: &mut Terminal) -> Result<(), Failure> {
    let text = serde_json::to_string(answer).map_err(|error| Failure {
        outcome: Outcome::Unreachable,
        code: "unwritable",
        message: format!("the answer could not be written: {error}"),
    })?;
    terminal.text(&(text + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request whose policy is `policy`, with `more` members.
    fn request(document: &str, policy: &str, expected: &str, more: &str) -> Vec<u8> {
        let policy = serde_json::to_string(policy).unwrap();
        format!(
            "{{\"document\":\"{document}\",\"policy\":{policy},\"expected\":{expected},\"at_ms\":0{more}}}"
        )
        .into_bytes()
    }

    fn policy() -> String {
        let pcr = "1".repeat(96);
        format!(
            "version = 1\n[[trust_anchor]]\nname = \"aws\"\n[[image]]\nname = \"x\"\n\
             pcr0 = \"{pcr}\"\npcr1 = \"{pcr}\"\npcr2 = \"{pcr}\"\n"
        )
    }

    #[test]
    fn a_question_is_answered() {
        let verdict = judge(&request("oA==", &policy(), "{\"nonce\":\"00\"}", "")).unwrap();
        let answer = serde_json::to_value(answer(&verdict)).unwrap();
        assert_eq!(answer["outcome"], "fail");
        assert_eq!(answer["code"], "cbor-unexpected-type");
        assert_eq!(answer["failed"], serde_json::json!(["cbor-unexpected-type"]));
        assert_eq!(answer["axes"]["platform"], "failed");
        assert_eq!(answer["axes"]["freshness"], "not-asked");
        assert_eq!(answer["session"], "cbor-unexpected-type");
        assert_eq!((&answer["tier"], &answer["debug"]), (&serde_json::Value::Null, &false.into()));
    }

    #[test]
    fn what_is_no_question_is_not_judged() {
        let code = |bytes: &[u8]| judge(bytes).unwrap_err().code;
        assert_eq!(code(b""), "request");
        assert_eq!(code(b"{}"), "request");
        assert_eq!(code(&request("?", &policy(), "{}", "")), "request");
        assert_eq!(code(&request("", &policy(), "{\"nonce\":\"0\"}", "")), "request");
        assert_eq!(code(&request("", &policy(), "{\"pcr16\":\"00\"}", "")), "request");
        assert_eq!(code(&request("", &policy(), "{\"pcr3\":\"00\"}", "")), "request");
        assert_eq!(code(&request("", &policy(), "{}", ",\"more\":1")), "request");
        assert_eq!(code(&request("", "", "{}", "")), "policy");
        let long = vec![b' '; usize::try_from(MAX_REQUEST_LENGTH).unwrap() + 1];
        assert!(judge(&long).unwrap_err().message.contains("at most"));
    }
}
