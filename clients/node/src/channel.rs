//! An attested channel to a clean room, for any number of requests.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cleanroom_partner::client::package::{self, request};
use napi::bindgen_prelude::{Either, Either3, Env, Object, Result};
use napi_derive::napi;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::answer::{Answer, Problem, Proof};
use crate::program::Failed;
use crate::runtime::{promise, runtime};

/// What a user sets.
#[napi(object)]
pub struct Settings {
    pub addresses: Vec<String>,
    pub policy: String,
    pub policy_sha256: Option<String>,
    pub key: String,
    pub model: Option<String>,
    pub proxy: Option<String>,
    pub receipts: Option<String>,
    pub record: Option<String>,
}

/// Keeps one proven session, and proves the clean room again when that is due.
#[napi]
pub struct Channel(package::Channel);

/// Reads the files that the settings name, and connects to nothing.
#[napi]
pub fn open(settings: Settings) -> Result<Either<Channel, Failed>> {
    runtime()?;
    let Settings { addresses, policy, policy_sha256, key, model, proxy, receipts, record } = settings;
    let settings = package::Settings {
        addresses,
        policy: PathBuf::from(policy),
        policy_sha256,
        key: PathBuf::from(key),
        model,
        proxy,
        receipts: receipts.map(PathBuf::from),
        record: record.map(PathBuf::from),
    };
    Ok(match package::Channel::open(settings) {
        Ok(channel) => Either::A(Channel(channel)),
        Err(failure) => Either::B(failure.into()),
    })
}

/// Ends a request that is under way.
#[napi]
pub struct Abort(Arc<Notify>);

#[napi]
impl Abort {
    #[napi(constructor)]
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// Without effect when there is an answer.
    #[napi]
    pub fn abort(&self) {
        self.0.notify_one();
    }
}

#[napi]
impl Channel {
    /// The model that answers.
    #[napi(getter)]
    pub fn model(&self) -> String {
        self.0.model().to_string()
    }

    /// SHA-256 of the partner's key, in hexadecimal.
    #[napi(getter)]
    pub fn partner(&self) -> String {
        self.0.partner().to_string()
    }

    /// Proves the clean room, unless it is proven already. Gives a `Proof` or a `Problem`.
    #[napi]
    pub fn prove<'e>(&self, env: &'e Env) -> Result<Object<'e>> {
        let channel = self.0.clone();
        promise(env, async move {
            match channel.prove().await {
                Ok(proof) => Either::A(Proof(proof)),
                Err(problem) => Either::B(Problem(problem)),
            }
        })
    }

    /// Sends a request on a proven session. Gives an `Answer` or a `Problem`, or nothing when it was aborted.
    ///
    /// The body is copied, and the copy is zeroised when it is sent. Headers are name, value, name, value.
    #[napi]
    pub fn send<'e>(
        &self,
        env: &'e Env,
        method: String,
        path: String,
        headers: Vec<String>,
        body: &[u8],
        abort: &Abort,
    ) -> Result<Object<'e>> {
        let body = Bytes::from_owner(Zeroizing::new(body.to_vec()));
        let headers = headers.chunks_exact(2).filter_map(|pair| match pair {
            [name, value] => Some((name.as_bytes(), value.as_bytes())),
            _ => None,
        });
        let request = request(&method, &path, headers, body);
        let (channel, abort) = (self.0.clone(), Arc::clone(&abort.0));
        promise(env, async move {
            let request = match request {
                Ok(request) => request,
                Err(problem) => return Either3::B(Problem(problem)),
            };
            tokio::select! {
                answer = channel.send(request) => match answer {
                    Ok(answer) => Either3::A(Answer(answer)),
                    Err(problem) => Either3::B(Problem(problem)),
                },
                () = abort.notified() => Either3::C(()),
            }
        })
    }
}
