//! What an enclave's memory holds of a session that has ended: nothing, in no form in which a program may hold a text.
//!
//! Forms are UTF-8, UTF-16, base64, text with JSON's escapes, and tokens: a row of numbers of any integer type, or structures
//! that have them. The engine's own test (`scheduling::memory_search`) searches for activations as well.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use cleanroom_engine::Model;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::Sessions;
use cleanroom_tests::ceremony::{Ceremony, NAMES, Terms};
use cleanroom_tests::client::{json, question};
use cleanroom_tests::platform::model_id;
use cleanroom_tests::processes::only_child_of;
use cleanroom_tests::wait;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;

/// In the prompt, and nowhere else in the world. JSON escapes a part of it.
const MARKER: &str = "Zaunkoenig-7183\"Wiesenpieper-Kleiber";
/// Longer than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_session_is_left_in_the_enclaves_memory() {
    // A search takes long on a machine that is busy, and a session ends with its lease.
    let mut ceremony = Ceremony::new(Terms { lease_seconds: 60, ..Terms::default() });
    (0..NAMES.len()).for_each(|index| ceremony.serve(index));
    let (host, address) = ceremony.host(true);
    let keeper = host.only_child();
    let worker = worker_of(keeper).await;
    let [memory, keeper] = [worker, keeper].map(|process| {
        Memory::of(process)
            .expect("this test reads other processes' memory, which needs root or kernel.yama.ptrace_scope=0")
    });
    let marker = Form::all_of(MARKER);

    let party =
        || RelyingParty::new(ceremony.identity(), ceremony.policy("roots/1.json"), model_id()).unwrap();
    let session = wait::found("the enclave has its first lease", async || {
        Sessions::new(party(), address.parse().unwrap()).get().await.ok()
    })
    .await;
    // The first part of a request, up to the marker's end, and no more.
    let text = question(&format!("What is attestation? {MARKER}"), false);
    let escaped = MARKER.replace('"', "\\\"");
    let (first, rest) = text.split_at(text.find(&escaped).unwrap() + escaped.len());
    let (mut sender, body) = Channel::<Bytes>::new(2);
    let request = Request::post("https://cleanroom/v1/chat/completions")
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let response = tokio::spawn({
        let session = session.clone();
        async move { session.send(request).await }
    });
    sender.send_data(Bytes::copy_from_slice(first.as_bytes())).await.unwrap();
    // The worker holds what it got so far, and the search finds it. The keeper never does: it has the keys to all sessions' evidence,
    // and the search finds what the host told it at its start.
    wait::until("the search finds what is there", || memory.held(&marker).contains(&"escaped")).await;
    assert!(keeper.holds("CLEANROOM_STORE="), "the search finds what the keeper has");
    assert_eq!(keeper.held(&marker), [""; 0], "the keeper has seen the prompt");

    sender.send_data(Bytes::copy_from_slice(rest.as_bytes())).await.unwrap();
    drop(sender);
    let (status, answer) = json(response.await.unwrap().unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answer = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(answer.len() > 20, "an answer that can be searched for, got {answer:?}");
    let answer = Form::all_of(answer);
    assert_eq!(keeper.held(&marker), [""; 0], "the keeper has seen the prompt");
    assert_eq!(keeper.held(&answer), [""; 0], "the keeper has seen the answer");

    // While an answer comes, its prompt is there as tokens. A search that comes too late is repeated with another answer.
    let begun = Instant::now();
    loop {
        let response = session.send(endless(&format!("What is attestation? {MARKER}")).await).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        let _first = body.frame().await;
        if memory.held(&marker).contains(&"tokens") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "expected that the search finds the tokens");
    }
    drop(session);
    wait::until("the prompt is gone", || memory.held(&marker).is_empty()).await;
    wait::until("the answer is gone", || memory.held(&answer).is_empty()).await;
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The answer is whole.
    Finished,
    /// The enclave refuses the request, once it has read all of it.
    Refused,
    /// The client hangs up in the middle.
    Cut,
    /// The request's time is over in the middle.
    TimedOut,
    /// An authority halts the model.
    Halted,
}

impl End {
    /// The request that is to end so.
    fn request(self, text: &str) -> String {
        let text = serde_json::to_string(text).unwrap();
        let (members, max_tokens) = match self {
            Self::Finished => ("", 3),
            Self::Refused => ("\"nonsense\":1,", 3),
            Self::Cut | Self::TimedOut | Self::Halted => ("\"logit_bias\":{\"0\":-100,\"2\":-100},", 100_000),
        };
        format!(
            "{{{members}\"model\":\"demo\",\"stream\":true,\"max_tokens\":{max_tokens},\
             \"messages\":[{{\"role\":\"user\",\"content\":{text}}}]}}"
        )
    }

    /// What the answer has that ended so.
    const fn sign(self) -> &'static str {
        match self {
            Self::Finished => "[DONE]",
            Self::Refused => "unknown_parameter",
            Self::Cut => "data: ",
            Self::TimedOut => "request_time",
            Self::Halted => "denied",
        }
    }
}

/// The threads' stacks belong to what is searched.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_request_is_left_however_it_ends_while_others_go_on() {
    // Nothing is kept for later prompts, and an answer without an end takes longer than it may.
    let limits = "sequences = 2\nprefix_time = \"0s\"\nrequest_time = \"100ms\"";
    let mut ceremony = Ceremony::new(Terms { limits, lease_seconds: 60, ..Terms::default() });
    (0..NAMES.len()).for_each(|index| ceremony.serve(index));
    let (host, address) = ceremony.host(true);
    let keeper = host.only_child();
    let worker = worker_of(keeper).await;
    let [memory, keeper] = [worker, keeper].map(|process| Memory::of(process).unwrap());
    let policy = ceremony.policy("roots/1.json");
    let session = async || {
        wait::found("the enclave has its first lease", async || {
            let party = RelyingParty::new(ceremony.identity(), policy.clone(), model_id()).unwrap();
            Sessions::new(party, address.parse().unwrap()).get().await.ok()
        })
        .await
    };
    // The enclave is never idle: another session's answers follow one upon the other.
    let other = session().await;
    let busy = tokio::spawn(async move {
        while let Ok(response) = other.send(endless("What is a PCR?").await).await {
            let _ = response.into_body().collect().await;
        }
    });
    for (number, end) in
        [End::Finished, End::Refused, End::Cut, End::TimedOut, End::Halted].into_iter().enumerate()
    {
        let text = format!("Zilpzalp-{number}61\"Gartenrotschwanz-Kleiber");
        let forms = Form::all_of(&text);
        let session = session().await;
        if end == End::Halted {
            ceremony.halt("bank", &ceremony.urls());
        }
        let begun = Instant::now();
        loop {
            let body = end.request(&format!("What is attestation? {text}"));
            let mut answer = session.send(posted(body).await).await.unwrap().into_body();
            let heard = if end == End::Cut {
                answer.frame().await.and_then(|frame| frame.ok()?.into_data().ok()).unwrap_or_default()
            } else {
                answer.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default()
            };
            // On a machine that is busy, a request may end in another way.
            if memchr::memmem::find(&heard, end.sign().as_bytes()).is_some() {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{end:?}: {}", String::from_utf8_lossy(&heard));
        }
        drop(session);
        wait::until(&format!("{end:?}: the prompt is gone"), || memory.held(&forms).is_empty()).await;
        assert_eq!(keeper.held(&forms), [""; 0], "{end:?}: the keeper has seen the prompt");
    }
    busy.abort();
}

async fn posted(body: String) -> Request<Channel<Bytes>> {
    let (mut sender, channel) = Channel::new(2);
    sender.send_data(Bytes::from(body)).await.unwrap();
    Request::post("https://cleanroom/v1/chat/completions")
        .header("content-type", "application/json")
        .body(channel)
        .unwrap()
}

/// A question whose answer goes on until the context is full, in pieces.
async fn endless(text: &str) -> Request<Channel<Bytes>> {
    let question = serde_json::json!({
        "model": "demo",
        "stream": true,
        "logit_bias": { "0": -100, "2": -100 },
        "messages": [{ "role": "user", "content": text }],
    });
    let (mut sender, body) = Channel::new(2);
    sender.send_data(Bytes::from(question.to_string())).await.unwrap();
    Request::post("https://cleanroom/v1/chat/completions")
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

/// The counter-proof of the search itself: every form is found in the memory of a process that holds it, and no other.
#[test]
fn every_form_of_a_text_is_found_where_it_is() {
    let forms = Form::all_of(MARKER);
    assert_eq!(forms.len(), 7);
    let rows = |width: usize, stride: usize| -> Vec<u8> {
        let row = |token: &u32| [&token.to_le_bytes()[..width], &vec![0xa5; stride - width]].concat();
        tokens(MARKER).iter().flat_map(row).collect()
    };
    let mut plants: Vec<(&str, Vec<u8>)> =
        forms.iter().filter(|form| !form.is_tokens).map(|form| (form.name, form.bytes.clone())).collect();
    for (width, stride) in [(2, 2), (4, 4), (4, 8), (4, 24), (2, 6)] {
        plants.push(("tokens", rows(width, stride)));
    }
    for (name, bytes) in plants {
        // This program keeps what it reads until there is no more, and its end does not come here.
        let mut process = Command::new("tail")
            .args(["-c", "100000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let memory = Memory::of(process.id()).unwrap();
        assert_eq!(memory.held(&forms), [""; 0]);
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(&bytes).unwrap();
        wait::until_blocking(&format!("the search finds {name}"), || memory.held(&forms).contains(&name));
        drop(stdin);
        assert!(process.wait().unwrap().success());
    }
}

/// One form in which a text may be held.
struct Form {
    name: &'static str,
    bytes: Vec<u8>,
    /// 16-bit numbers at equal distances.
    is_tokens: bool,
}

/// Longest distance of two tokens in a list of structures, in bytes.
const MAX_STRIDE: usize = 64;

impl Form {
    fn all_of(text: &str) -> Vec<Self> {
        let form = |name, bytes: Vec<u8>| Self { name, bytes, is_tokens: false };
        let escaped = serde_json::to_string(text).unwrap();
        let mut forms = vec![
            form("text", text.as_bytes().to_vec()),
            form("escaped", escaped.trim_matches('"').as_bytes().to_vec()),
            form("UTF-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ];
        // Where the text begins in a group of three bytes decides how it is written.
        for (name, skipped) in [("base64", 0), ("base64, a byte later", 1), ("base64, two bytes later", 2)] {
            let whole = (text.len() - skipped) / 3 * 3;
            let bytes = &text.as_bytes()[skipped..skipped + whole];
            forms.push(form(name, STANDARD_NO_PAD.encode(bytes).into_bytes()));
        }
        // Without the ends, which may be one token with what stands beside them.
        let tokens = tokens(text);
        let inner = tokens.get(2..tokens.len().saturating_sub(2)).unwrap_or_default();
        assert!(inner.len() >= 8, "enough tokens to be no accident, got {}", inner.len());
        let bytes = inner.iter().flat_map(|token| (*token as u16).to_le_bytes()).collect();
        forms.push(Self { name: "tokens", bytes, is_tokens: true });
        forms
    }

    fn is_in(&self, memory: &[u8]) -> bool {
        if !self.is_tokens {
            return memchr::memmem::find(memory, &self.bytes).is_some();
        }
        let (halves, needle) = (memory.as_chunks::<2>().0, self.bytes.as_chunks::<2>().0);
        let first = (0..halves.len()).filter(|at| halves[*at] == needle[0]);
        let mut found = first.filter(|at| {
            let is_at = |stride| (1..needle.len()).all(|n| halves.get(at + n * stride) == Some(&needle[n]));
            (1..=MAX_STRIDE / 2).any(is_at)
        });
        found.next().is_some()
    }
}

/// The demo model's tokens of a text in the middle of another.
fn tokens(text: &str) -> Vec<u32> {
    let model = Model::from_gguf(include_bytes!("../../models/demo.gguf")).unwrap();
    model.tokens_of_text(&format!(" {text}")).to_vec()
}

/// The keeper's one child, which starts a moment after the host can connect.
async fn worker_of(keeper: u32) -> u32 {
    wait::until("the keeper has one worker", || only_child_of(keeper).is_some()).await;
    only_child_of(keeper).unwrap()
}

/// The memory of another process.
struct Memory {
    process: u32,
    memory: File,
}

impl Memory {
    fn of(process: u32) -> io::Result<Self> {
        let memory = File::open(format!("/proc/{process}/mem"))?;
        Ok(Self { process, memory })
    }

    /// The forms that are in memory that the process may write to.
    fn held<'f>(&self, forms: &'f [Form]) -> Vec<&'f str> {
        let mut held = vec![false; forms.len()];
        self.each_piece(|piece| {
            held.iter_mut()
                .zip(forms)
                .filter(|(held, _)| !**held)
                .for_each(|(held, form)| *held = form.is_in(piece));
        });
        forms.iter().zip(held).filter(|(_, held)| *held).map(|(form, _)| form.name).collect()
    }

    /// Whether `needle` is in memory that the process may write to.
    fn holds(&self, needle: &str) -> bool {
        let mut held = false;
        self.each_piece(|piece| held |= memchr::memmem::find(piece, needle.as_bytes()).is_some());
        held
    }

    /// Reads the memory that the process may write to.
    fn each_piece(&self, mut each: impl FnMut(&[u8])) {
        const PIECE: usize = 4 << 20;
        /// Pieces overlap, so that nothing is cut in two. What is searched for is shorter.
        const OVERLAP: usize = 16 << 10;
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.process)).unwrap();
        let mut buffer = vec![0; PIECE + OVERLAP];
        for line in
            maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|may| may.starts_with("rw")))
        {
            let (from, rest) = line.split_once('-').unwrap();
            let (to, _) = rest.split_once(' ').unwrap();
            let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
            for start in (from..to).step_by(PIECE) {
                let length = usize::try_from(to - start).unwrap().min(buffer.len());
                // What goes away in the meantime is gone.
                if self.memory.read_exact_at(&mut buffer[..length], start).is_ok() {
                    each(&buffer[..length]);
                }
            }
        }
    }
}
