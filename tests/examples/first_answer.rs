//! From the start of a host to the first answer that a partner gets: with a sealed model, and with the same model unsealed.
//!
//! `first_answer MODEL [ROUNDS]`. Everything is a process of its own: a lease service, two brokers, the host and its enclave. The
//! brokers can start only when the host has made its development root, so it is shown when they ran. Both rooms start in turn, each
//! time in a new folder; the best of each is shown.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot be set up has failed"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cleanroom_attestation::policy::Policy;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::Sessions;
use cleanroom_tests::ceremony::{Ceremony, Terms};
use cleanroom_tests::platform::model_id;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};

const ROUNDS: usize = 3;
/// Brokers that it takes to open the sealed model.
const BROKERS: u32 = 2;
/// Between two attempts of a partner whom the room does not serve yet.
const PAUSE: Duration = Duration::from_millis(2);
/// Longer than any start takes.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().expect("first_answer MODEL [ROUNDS]");
    let model = PathBuf::from(model).canonicalize().expect("MODEL is a file");
    let rounds = arguments.next().map_or(ROUNDS, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let bytes = std::fs::metadata(&model).unwrap().len();
    let mut rooms = [("unsealed", None, None::<Times>), ("sealed", Some(BROKERS), None)];
    for _ in 0..rounds {
        for (_, sealed, best) in &mut rooms {
            let times = Room::prepare(&model, *sealed).boot(sealed.unwrap_or_default()).await;
            if best.as_ref().is_none_or(|best| times.answered < best.answered) {
                *best = Some(times);
            }
        }
    }
    println!("a model of {bytes} bytes; seconds from the start of the host, best of {rounds}");
    println!("{:<10} {:>12} {:>16} {:>14}", "", "brokers run", "takes partners", "first answer");
    for (name, _, best) in rooms {
        let Times { brokers, ready, answered } = best.expect("one round at least");
        let brokers = brokers.map_or_else(String::new, |brokers| format!("{:.2}", brokers.as_secs_f64()));
        let [ready, answered] = [ready, answered].map(|time| time.as_secs_f64());
        println!("{name:<10} {brokers:>12} {ready:>16.2} {answered:>14.2}");
    }
}

/// Times since the start of the host.
struct Times {
    /// The brokers run, if the model is sealed.
    brokers: Option<Duration>,
    /// The host says that partners can connect.
    ready: Duration,
    /// A partner has an answer.
    answered: Duration,
}

/// What is there before the host starts.
struct Room(Ceremony);

impl Room {
    fn prepare(model: &Path, sealed: Option<u32>) -> Self {
        let terms = Terms { lease_seconds: 60, model: model.to_owned(), sealed, ..Terms::default() };
        let mut ceremony = Ceremony::new(terms);
        ceremony.serve(0);
        Self(ceremony)
    }

    /// Starts the host and as many brokers.
    async fn boot(mut self, brokers: u32) -> Times {
        let begun = Instant::now();
        let mut host = self.0.starting_host(true);
        (0..brokers).for_each(|index| self.0.serve_broker(index as usize));
        let brokers = (brokers > 0).then(|| begun.elapsed());
        let address = host.wait_for("ready: partners connect to ");
        let ready = begun.elapsed();
        let policy = self.0.policy("roots/1.json");
        while !self.answers(&policy, &address).await {
            assert!(begun.elapsed() < PATIENCE, "the room does not serve its partner");
            tokio::time::sleep(PAUSE).await;
        }
        Times { brokers, ready, answered: begun.elapsed() }
    }

    /// Whether a partner who proves the room gets an answer of one token.
    async fn answers(&self, policy: &Policy, address: &str) -> bool {
        let party = RelyingParty::new(self.0.identity(), policy.clone(), model_id()).unwrap();
        let Ok(session) = Sessions::new(party, address.parse().unwrap()).get().await else { return false };
        let question = serde_json::json!({
            "model": "demo", "max_tokens": 1, "messages": [{ "role": "user", "content": "Hi" }],
        });
        let request = Request::post("https://cleanroom/v1/chat/completions")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(question.to_string())))
            .unwrap();
        let Ok(response) = session.send(request).await else { return false };
        let is_served = response.status() == StatusCode::OK;
        response.into_body().collect().await.is_ok() && is_served
    }
}
