//! The lease service of one authority, as its clients see it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::release::{AuthorityDocument, DENIALS_LIMIT, Denial, PayloadType, Root};
use cleanroom_link::control::ControlState;
use cleanroom_program::network;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::delivery::{Document, Fault, Found, parse};

/// How long a lease service may take for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest status, in bytes.
const STATUS_LIMIT: usize = 1 << 20;
/// The longest list of documents, in bytes: as many denials as an enclave can hold, with room to spare.
const LIST_LIMIT: usize = 16 << 20;
/// Roots in one answer.
const ROOTS: usize = 256;

/// The lease service of one authority: `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    address: String,
    /// How long it may take for one answer.
    time: Duration,
}

impl FromStr for Authority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match address {
            Some(address) if address.contains(':') && !address.contains('/') => {
                Ok(Self { address: address.to_owned(), time: PATIENCE })
            }
            _ => Err(
                "expected http://HOST:PORT; everything that a lease service says is signed, so it needs no \
                      TLS"
                .to_owned(),
            ),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}", self.address)
    }
}

/// What a service says that it has. The rest of its answer is for people.
#[derive(Deserialize)]
struct Status {
    root: Named,
    release: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    version: u64,
}

impl Authority {
    /// The same, which may take so long for one answer.
    pub(super) fn taking(self, time: Duration) -> Self {
        Self { time, ..self }
    }

    /// What the service has and an enclave in `state` may lack. Every document is read and counted here,
    /// before anybody hands it in.
    pub(super) async fn look(&self, state: &ControlState) -> Found {
        let mut found = Found::default();
        if let Err(fault) = self.look_into(state, &mut found).await {
            found.fault = Some(fault);
        }
        found
    }

    async fn look_into(&self, state: &ControlState, found: &mut Found) -> Result<(), Fault> {
        let denials = self.documents::<Denial>("/v1/denials", DENIALS_LIMIT, &mut found.denials).await;
        let newer = self.look_for_newer(state, found).await;
        denials.and(newer)
    }

    /// The roots and the release, if the service has newer ones than an enclave in `state`.
    async fn look_for_newer(&self, state: &ControlState, found: &mut Found) -> Result<(), Fault> {
        let status = self.call(Method::GET, "/v1/status", Vec::new(), STATUS_LIMIT).await;
        let status = status.map_err(Fault::Silence)?;
        let status = serde_json::from_slice::<Status>(&status)
            .map_err(|_| Fault::Rubbish("its status is not what a lease service says"))?;
        if status.root.version > state.root_version {
            self.documents::<Root>("/v1/roots", ROOTS, &mut found.roots).await?;
        }
        if status.release.is_some_and(|release| release.version > state.release_version) {
            let limit = AuthorityDocument::Release.envelope_limit();
            let release = self.call(Method::GET, "/v1/release", Vec::new(), limit).await;
            found.releases.push(release.map_err(Fault::Silence)?);
        }
        Ok(())
    }

    /// A lease for `request`, or why there is none.
    pub(super) async fn lease(&self, request: Vec<u8>) -> Result<Vec<u8>, String> {
        self.call(Method::POST, "/v1/lease", request, AuthorityDocument::Lease.envelope_limit()).await
    }

    /// The documents in a JSON array, byte for byte, up to the first member that is none.
    async fn documents<P: Document>(
        &self,
        path: &str,
        most: usize,
        documents: &mut Vec<Vec<u8>>,
    ) -> Result<(), Fault> {
        let answer = self.call(Method::GET, path, Vec::new(), LIST_LIMIT).await.map_err(Fault::Silence)?;
        // Megabytes of JSON are no work for a thread on which a lease is renewed.
        let read = tokio::task::spawn_blocking(move || read_documents::<P>(&answer, most));
        let (read, fault) = read.await.map_err(|error| Fault::Silence(error.to_string()))?;
        documents.extend(read);
        fault.map_or(Ok(()), |what| Err(Fault::Rubbish(what)))
    }

    /// One request on a connection of its own, and the body of an answer with status 200.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<u8>, String> {
        match self.exchange(method, path, body, limit).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// One request on a connection of its own, and the answer.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: usize,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let Self { address, time } = self;
        let exchange = async {
            let stream = network::connect(address).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri(path).header(header::HOST, address);
            let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), limit).collect().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body.to_bytes().to_vec()))
        };
        match timeout(*time, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it did not answer within {} s", time.as_secs())),
        }
    }
}

/// What an answer says that grants nothing.
pub(crate) fn refusal(status: StatusCode, body: &[u8]) -> String {
    format!("it answered {status}: {}", reason(body))
}

/// The documents in a JSON array up to the first member that is none, and what is wrong with that one.
fn read_documents<P: Document>(answer: &[u8], most: usize) -> (Vec<Vec<u8>>, Option<&'static str>) {
    let mut members = Members { most, longest: P::TYPE.envelope_limit(), members: Vec::new() };
    let read = serde_json::Deserializer::from_slice(answer).deserialize_seq(&mut members);
    let mut documents = Vec::new();
    for member in members.members {
        let member = member.get().as_bytes();
        if parse::<P>(member).is_none() {
            return (documents, Some(no_document(P::TYPE)));
        }
        documents.push(member.to_vec());
    }
    let fault = read.is_err().then_some("its list of documents is none, or too long");
    (documents, fault)
}

const fn no_document(payload_type: PayloadType) -> &'static str {
    match payload_type {
        PayloadType::Root => "its list of roots has something else in it",
        PayloadType::Denial => "its list of denials has something else in it",
        _ => "its list of documents has something else in it",
    }
}

/// Collects members of an array until there are too many or one is too long.
struct Members<'de> {
    most: usize,
    longest: usize,
    members: Vec<&'de RawValue>,
}

impl<'de> Visitor<'de> for &mut Members<'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of at most {} documents", self.most)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(member) = members.next_element_seed(Member)? {
            if self.members.len() == self.most || member.get().len() > self.longest {
                return Err(serde::de::Error::custom("too much"));
            }
            self.members.push(member);
        }
        Ok(())
    }
}

struct Member;

impl<'de> DeserializeSeed<'de> for Member {
    type Value = &'de RawValue;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Deserialize::deserialize(deserializer)
    }
}

/// The code in a service's refusal; nothing else of it reaches a log.
fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: Code,
    }
    #[derive(Deserialize)]
    struct Code {
        code: String,
    }
    let code = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.error.code).unwrap_or_default();
    let plain = |code: &String| {
        code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    Some(code).filter(plain).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::denial;
    use super::*;

    #[test]
    fn authorities_are_plain_http_addresses() {
        assert_eq!(
            "http://127.0.0.1:8700/".parse::<Authority>().unwrap().to_string(),
            "http://127.0.0.1:8700"
        );
        for bad in ["https://a:1", "a:1", "http://a", "http://a:1/v1"] {
            assert!(bad.parse::<Authority>().is_err(), "{bad}");
        }
    }

    #[test]
    fn documents_are_counted_and_read_before_they_are_handed_on() {
        let list = |members: &[Vec<u8>]| [b"[", members.join(&b","[..]).as_slice(), b"]"].concat();
        let (one, two) = (denial(1), denial(2));
        let read = |members: &[Vec<u8>], most| read_documents::<Denial>(&list(members), most);
        assert_eq!(read(&[], 2), (Vec::new(), None));
        assert_eq!(read(&[one.clone(), two.clone()], 2), (vec![one.clone(), two.clone()], None));
        // Good documents before a bad one are not lost.
        let (documents, fault) = read(&[one.clone(), b"\"rubbish\"".to_vec(), two.clone()], 3);
        assert_eq!((documents, fault.is_some()), (vec![one.clone()], true));
        let (documents, fault) = read(&[one.clone(), two], 1);
        assert_eq!((documents, fault.is_some()), (vec![one], true));
        for nonsense in [&b"{}"[..], b"", b"[", b"[1", b"[\"\xff\"]"] {
            let (documents, fault) = read_documents::<Denial>(nonsense, 9);
            assert!(documents.is_empty() && fault.is_some(), "{nonsense:?}");
        }
    }
}
