//! The backend against a server that does what a test says, over a real Unix socket.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cleanroom_backend::{
    Backend, Bias, Clock, Conversation, EngineFacts, Event, FinishReason, Flavour, Form, Handle, Input,
    Message, Output, Owner, PrepareError, Sampling, SecretString, Settings, Sink, StartError, Task, Tool,
    ToolChoice, Usage,
};
use cleanroom_openai::{Failure, MAX_EVENT, OpenAi, SocketAt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What the server does with a connection once it has the request.
#[derive(Clone)]
enum Act {
    /// Sends these bytes and closes.
    Send(Vec<u8>),
    /// Sends these bytes and keeps the connection open until the other end closes it.
    Hold(Vec<u8>),
    /// Sends these bytes again and again until the other end closes.
    Flood(Vec<u8>, Vec<u8>),
}

/// A request as the server saw it.
struct Seen {
    path: String,
    body: Value,
}

/// A server, and the backend before it.
struct Scene {
    _folder: tempfile::TempDir,
    backend: OpenAi,
    seen: UnboundedReceiver<Seen>,
    /// One for each connection that the backend closed.
    closed: UnboundedReceiver<()>,
    connections: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<Failure>>>,
}

fn facts(flavour: Flavour) -> EngineFacts {
    EngineFacts {
        flavour,
        model: "served".to_owned(),
        context: NonZeroU32::new(1000).unwrap(),
        tools: true,
        reasoning: true,
        thinking_switch: true,
        effort: true,
        logprobs: true,
        silence: Duration::from_secs(60),
        start: Duration::from_secs(60),
    }
}

fn settings() -> Settings {
    Settings {
        threads: None,
        sequences: NonZeroUsize::new(2).unwrap(),
        per_owner: NonZeroUsize::new(1).unwrap(),
        queued: 1,
        kv_memory: 1,
        prefix_time: Duration::ZERO,
        clock: Clock::new(|| Duration::ZERO),
        engine: None,
    }
}

impl Scene {
    fn start(facts: EngineFacts, act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (saw, seen) = unbounded_channel();
        let (closes, closed) = unbounded_channel();
        let (act, connections) = (Arc::new(act), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (act, saw, closes) = (Arc::clone(&act), saw.clone(), closes.clone());
                tokio::spawn(serve(stream, act, saw, closes));
            }
        });
        let failures: Arc<Mutex<Vec<Failure>>> = Arc::default();
        let kept = Arc::clone(&failures);
        let report = Arc::new(move |failure| kept.lock().unwrap().push(failure));
        let backend = OpenAi::new(facts, Arc::new(SocketAt(path)), &settings(), report);
        Self { _folder: folder, backend, seen, closed, connections, failures }
    }

    /// The request that asked for an answer.
    async fn asked(&mut self) -> Seen {
        loop {
            let seen = self.seen.recv().await.unwrap();
            if seen.path.starts_with("/v1/") {
                return seen;
            }
        }
    }

    async fn run(&self, task: Task) -> Answer {
        let (sink, events) = sink(usize::MAX);
        let handles = self.backend.prepare(task).await.unwrap().start(vec![sink]).unwrap();
        events.whole(handles).await
    }
}

async fn serve(
    mut stream: UnixStream,
    act: Arc<dyn Fn(&str) -> Act + Send + Sync>,
    saw: UnboundedSender<Seen>,
    closes: UnboundedSender<()>,
) {
    let mut request = Vec::new();
    let (path, body) = loop {
        if stream.read_buf(&mut request).await.unwrap() == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
            break (
                head.split(' ').nth(1).unwrap().to_owned(),
                serde_json::from_str(body).unwrap_or_default(),
            );
        }
    };
    let _ = saw.send(Seen { path: path.clone(), body });
    let act = act(&path);
    match act {
        Act::Send(bytes) => _ = stream.write_all(&bytes).await,
        Act::Hold(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.read(&mut [0]).await;
        }
        Act::Flood(first, again) => {
            let mut result = stream.write_all(&first).await;
            while result.is_ok() {
                result = stream.write_all(&again).await;
            }
        }
    }
    let _ = closes.send(());
}

fn response(media_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\nconnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn events(all: &[Value]) -> Vec<u8> {
    all.iter().flat_map(|event| format!("data: {event}\n\n").into_bytes()).collect()
}

fn stream(all: &[Value]) -> Vec<u8> {
    response("text/event-stream; charset=utf-8", &[events(all), b"data: [DONE]\n\n".to_vec()].concat())
}

fn delta(members: impl Into<Value>) -> Value {
    let members: Value = members.into();
    json!({"choices": [{"index": 0, "delta": members}]})
}

fn says(text: &str) -> Value {
    delta(json!({"content": text}))
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn usage(prompt: u32, completion: u32) -> Value {
    json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": 3}}})
}

/// What `path` is answered with, where prompts have 7 tokens and answers are `bytes`.
fn answers(act: Act) -> impl Fn(&str) -> Act + Send + Sync + 'static {
    move |path| match path {
        "/tokenize" => {
            Act::Send(response("application/json", br#"{"count":7,"max_model_len":1000,"tokens":[1,2]}"#))
        }
        "/apply-template" => Act::Send(response("application/json", br#"{"prompt":"<user>hello"}"#)),
        "/health" => Act::Send(response("application/json", b"{}")),
        _ => act.clone(),
    }
}

fn chat(conversation: Conversation) -> Task {
    task(Input::Chat(conversation), Form::Text, &[])
}

fn hello() -> Conversation {
    Conversation {
        messages: vec![Message::new("user", SecretString::new("hello"))],
        ..Conversation::default()
    }
}

fn task(input: Input, form: Form, stop: &[&str]) -> Task {
    Task {
        owner: Owner([1; 32]),
        share: NonZeroU8::MIN,
        input,
        output: Output::Answer {
            max_tokens: Some(16),
            sampling: Sampling { seed: 5, ..Sampling::GREEDY },
            bias: Bias::default(),
            form,
            logprobs: None,
            stop: stop.iter().map(|stop| SecretString::new(stop)).collect(),
        },
        time: Duration::from_secs(60),
    }
}

enum Happened {
    Said(String),
    Finished(FinishReason, Usage),
}

struct TestSink {
    permits: usize,
    happened: UnboundedSender<Happened>,
}

impl Sink for TestSink {
    fn token(&mut self) -> ControlFlow<()> {
        let Some(left) = self.permits.checked_sub(1) else { return ControlFlow::Break(()) };
        self.permits = left;
        ControlFlow::Continue(())
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let _ = self.happened.send(match event {
            Event::Text(piece) => Happened::Said(piece.text.to_owned()),
            Event::Reasoning(text) => Happened::Said(format!("[thinks {text}]")),
            Event::Call(name) => Happened::Said(format!("[calls {name}]")),
            Event::Arguments(text) => Happened::Said(format!("[with {text}]")),
            Event::Embedding(_) => panic!("nobody asked for one"),
            Event::Finished { reason, usage } => Happened::Finished(reason, usage),
        });
        ControlFlow::Continue(())
    }
}

/// A sink that permits so many tokens.
fn sink(permits: usize) -> (Box<dyn Sink>, Events) {
    let (happened, events) = unbounded_channel();
    (Box::new(TestSink { permits, happened }), Events(events))
}

struct Events(UnboundedReceiver<Happened>);

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    text: String,
    end: Option<(FinishReason, Usage)>,
}

impl Events {
    /// Everything, once the sink is gone.
    async fn whole(mut self, handles: Vec<Handle>) -> Answer {
        let mut answer = Answer { text: String::new(), end: None };
        while let Some(happened) = self.0.recv().await {
            match happened {
                Happened::Said(text) => answer.text.push_str(&text),
                Happened::Finished(reason, usage) => answer.end = Some((reason, usage)),
            }
        }
        drop(handles);
        answer
    }
}

fn ended(
    reason: FinishReason,
    prompt_tokens: u32,
    cached_tokens: u32,
    completion_tokens: u32,
) -> Option<(FinishReason, Usage)> {
    Some((reason, Usage { prompt_tokens, cached_tokens, completion_tokens }))
}

#[tokio::test]
async fn an_answer_comes_in_pieces_with_its_usage() {
    let all = [
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"reasoning_content": "hm"})),
        says("He"),
        says("llo"),
        finish("stop"),
        usage(9, 4),
    ];
    for flavour in [Flavour::Vllm, Flavour::LlamaServer, Flavour::OpenAi] {
        let mut scene = Scene::start(facts(flavour), answers(Act::Send(stream(&all))));
        let answer = scene.run(chat(hello())).await;
        assert_eq!(answer.text, "[thinks hm]Hello", "{flavour:?}");
        assert_eq!(answer.end, ended(FinishReason::Stop, 9, 3, 4), "{flavour:?}");
        let Seen { path, body } = scene.asked().await;
        assert_eq!(path, "/v1/chat/completions");
        assert_eq!(body["model"], "served");
        assert_eq!(body["messages"], json!([{"role": "user", "content": "hello"}]));
        assert_eq!((&body["max_tokens"], &body["temperature"]), (&json!(16), &json!(0.0)));
        assert_eq!((&body["stream"], &body["stream_options"]["include_usage"]), (&json!(true), &json!(true)));
        // What an engine's or a model's own defaults could be is said.
        assert_eq!(body.get("top_k").is_some(), flavour != Flavour::OpenAi);
        assert_eq!(body.get("repetition_penalty").is_some(), flavour == Flavour::Vllm);
        assert_eq!(body.get("cache_prompt"), (flavour == Flavour::LlamaServer).then_some(&json!(false)));
    }
}

#[tokio::test]
async fn prompts_are_counted_before_they_are_read() {
    let all = [json!({"choices": [{"text": "x", "finish_reason": "length"}]})];
    for (flavour, tokens) in [(Flavour::Vllm, 7), (Flavour::LlamaServer, 2), (Flavour::OpenAi, 5 + 32)] {
        let mut scene = Scene::start(facts(flavour), answers(Act::Send(stream(&all))));
        let text = || task(Input::Text(SecretString::new("hello")), Form::Text, &[]);
        let prepared = scene.backend.prepare(text()).await.unwrap();
        assert_eq!(prepared.prompt_tokens(), tokens, "{flavour:?}");
        let answer = scene.run(text()).await;
        // An engine that tells no usage is taken at what was counted.
        let counted = u32::try_from(tokens).unwrap();
        assert_eq!(answer.end, ended(FinishReason::Length, counted, 0, 1), "{flavour:?}");
        assert_eq!(scene.asked().await.body["prompt"], "hello");
    }
    let scene = Scene::start(
        EngineFacts { context: NonZeroU32::new(7).unwrap(), ..facts(Flavour::Vllm) },
        answers(Act::Send(vec![])),
    );
    let error = scene.backend.prepare(chat(hello())).await.unwrap().start(vec![sink(0).0]).err();
    assert_eq!(error, Some(StartError::PromptTooLong { tokens: 7, limit: 6 }));
}

#[tokio::test]
async fn tools_schemas_and_parameters_are_said_in_the_engines_words() {
    let call = |index: u32, name: Option<&str>, arguments: &str| {
        delta(json!({"tool_calls": [{"index": index, "function": {"name": name, "arguments": arguments}}]}))
    };
    let all = [
        call(0, Some("weather"), ""),
        call(0, None, "{\"city\":"),
        call(0, None, "\"Oslo\"}"),
        call(1, Some("time"), ""),
        finish("tool_calls"),
    ];
    let mut scene = Scene::start(facts(Flavour::Vllm), answers(Act::Send(stream(&all))));
    let tool = |name: &str, parameters: Option<&str>| Tool {
        name: SecretString::new(name),
        description: None,
        parameters: parameters.map(SecretString::new),
        strict: false,
    };
    let conversation = Conversation {
        tools: vec![tool("weather", Some(r#"{"type": "object"}"#)), tool("time", None)],
        choice: ToolChoice::Named(0),
        parallel: true,
        thinks: Some(false),
        effort: Some("low"),
        variables: Some(SecretString::new(r#"{"style":"short"}"#)),
        ..hello()
    };
    let schema = Form::JsonSchema(SecretString::new(r#"{"type":"object","properties":{}}"#));
    let answer = scene.run(task(Input::Chat(conversation), schema, &[])).await;
    assert_eq!(answer.text, r#"[calls weather][with {"city":"Oslo"}][calls time][with {}]"#);
    let body = scene.asked().await.body;
    assert_eq!(body["tools"][0]["function"], json!({"name": "weather", "parameters": {"type": "object"}}));
    assert_eq!(body["tool_choice"], json!({"type": "function", "function": {"name": "weather"}}));
    assert_eq!(body["parallel_tool_calls"], true);
    assert_eq!(body["chat_template_kwargs"], json!({"enable_thinking": false, "style": "short"}));
    assert_eq!(body["reasoning_effort"], "low");
    assert_eq!(body["response_format"]["json_schema"]["schema"]["type"], "object");
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_and_the_engines_work() {
    let act = Act::Hold(response("text/event-stream", &events(&[says("one AN"), says("D two")])));
    let mut scene = Scene::start(facts(Flavour::OpenAi), answers(act));
    let answer = scene.run(task(Input::Chat(hello()), Form::Text, &["no", "AND"])).await;
    assert_eq!((answer.text.as_str(), answer.end), ("one ", ended(FinishReason::StopString(1), 41, 0, 2)));
    scene.closed.recv().await.unwrap();
}

#[tokio::test]
async fn whoever_lets_go_of_an_answer_ends_the_engines_work() {
    let act = Act::Hold(response("text/event-stream", &events(&[says("one")])));
    let mut scene = Scene::start(facts(Flavour::OpenAi), answers(act));
    let (sink, mut events) = sink(usize::MAX);
    let handles = scene.backend.prepare(chat(hello())).await.unwrap().start(vec![sink]).unwrap();
    assert!(matches!(events.0.recv().await, Some(Happened::Said(_))));
    drop(handles);
    scene.closed.recv().await.unwrap();
    assert!(events.0.recv().await.is_none(), "no end is told");
}

#[tokio::test]
async fn nothing_is_said_that_is_not_permitted() {
    // Three events, of which the second has three tokens.
    let with = |text: &str, tokens: u32| {
        json!({"choices": [{"delta": {"content": text}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": tokens}})
    };
    let all = events(&[with("a", 1), with("bcd", 4), with("e", 5)]);
    for (permits, expected) in [(0, ""), (1, "a"), (3, "a"), (4, "abcd")] {
        let act = Act::Hold(response("text/event-stream", &all));
        let mut scene = Scene::start(facts(Flavour::Vllm), answers(act));
        let (sink, events) = sink(permits);
        let handles = scene.backend.prepare(chat(hello())).await.unwrap().start(vec![sink]).unwrap();
        assert_eq!(events.whole(handles).await, Answer { text: expected.to_owned(), end: None });
        // The question how many tokens there are, and the answer.
        scene.closed.recv().await.unwrap();
        scene.closed.recv().await.unwrap();
    }
    // Tokens that the engine tells of in the end alone count as well.
    let act = Act::Send(stream(&[says("a"), finish("stop"), usage(7, 3)]));
    let scene = Scene::start(facts(Flavour::Vllm), answers(act));
    let (sink, events) = sink(2);
    let handles = scene.backend.prepare(chat(hello())).await.unwrap().start(vec![sink]).unwrap();
    assert_eq!(events.whole(handles).await, Answer { text: "a".to_owned(), end: None });
}

#[tokio::test]
async fn caches_are_salted_for_each_owner() {
    let mut scene = Scene::start(facts(Flavour::Vllm), answers(Act::Send(stream(&[finish("stop")]))));
    let owner = |name: u8| Task { owner: Owner([name; 32]), ..chat(hello()) };
    let present = (scene.backend.presence(Owner([1; 32])), scene.backend.presence(Owner([2; 32])));
    let mut salts = Vec::new();
    for name in [1, 1, 2, 3, 3] {
        let _ = scene.run(owner(name)).await;
        let salt = scene.asked().await.body["cache_salt"].as_str().unwrap().to_owned();
        assert_eq!(salt.len(), 64);
        salts.push(salt);
    }
    assert_eq!(salts[0], salts[1], "an owner finds its own prompts");
    let distinct: std::collections::HashSet<_> = salts.iter().collect();
    assert_eq!(distinct.len(), 4, "and nobody finds another's: {salts:?}");
    scene.backend.forget(Owner([1; 32]));
    let _ = scene.run(owner(1)).await;
    let after = scene.asked().await.body["cache_salt"].as_str().unwrap().to_owned();
    assert!(!salts.contains(&after), "what is forgotten is not found");
    drop(present);

    let other = Scene::start(facts(Flavour::Vllm), answers(Act::Send(stream(&[finish("stop")]))));
    let (_present, mut scene) = (other.backend.presence(Owner([2; 32])), other);
    let _ = scene.run(owner(2)).await;
    assert!(
        !salts.contains(&scene.asked().await.body["cache_salt"].as_str().unwrap().to_owned()),
        "another boot"
    );
}

#[tokio::test]
async fn what_the_engine_cannot_do_is_refused_by_name_before_it_is_asked() {
    let plain = EngineFacts { logprobs: false, ..facts(Flavour::OpenAi) };
    let scene = Scene::start(plain, answers(Act::Send(vec![])));
    let with = |sampling: Sampling, logprobs: Option<u8>| {
        let mut task = chat(hello());
        let Output::Answer { sampling: to, logprobs: scores, .. } = &mut task.output else {
            panic!("an answer")
        };
        (*to, *scores) = (sampling, logprobs);
        task
    };
    let conversation = |change: fn(&mut Conversation)| {
        let mut conversation = hello();
        change(&mut conversation);
        chat(conversation)
    };
    for (expected, task) in [
        ("top_k", with(Sampling { top_k: 1, ..Sampling::GREEDY }, None)),
        ("min_p", with(Sampling { min_p: 0.5, ..Sampling::GREEDY }, None)),
        ("logprobs", with(Sampling::GREEDY, Some(0))),
        ("enable_thinking", conversation(|conversation| conversation.thinks = Some(true))),
        (
            "chat_template_kwargs",
            conversation(|conversation| conversation.variables = Some(SecretString::new("{}"))),
        ),
        ("response_format", task(Input::Text(SecretString::new("x")), Form::JsonObject, &[])),
    ] {
        match scene.backend.prepare(task).await.err() {
            Some(PrepareError::Cannot { param, .. }) => assert_eq!(param, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let embedding = Task { output: Output::Embedding, ..chat(hello()) };
    let error = scene.backend.prepare(embedding).await.unwrap().start(vec![sink(0).0]).err();
    assert_eq!(error, Some(StartError::NoEmbeddings));
    assert_eq!(scene.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn every_way_to_fail_has_a_name_and_ends_without_a_finish_reason() {
    let head = response("text/event-stream", b"");
    let text = |bytes: &[u8]| Act::Send([&head, bytes].concat());
    let status =
        |status: &str| Act::Send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes());
    let said = events(&[says("x")]);
    let cases = [
        ("dies before it answers", Act::Send(vec![]), Failure::Broken),
        ("speaks no HTTP", Act::Send(b"\x16\x03\x01\x00nonsense\r\n\r\n".to_vec()), Failure::Broken),
        ("dies in its head", Act::Send(b"HTTP/1.1 200 OK\r\ncontent-ty".to_vec()), Failure::Broken),
        ("a head without end", Act::Flood(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: yyyyyyyyyyyyyyyy\r\n".to_vec()), Failure::Broken),
        ("an error", status("500 No"), Failure::Status(500)),
        ("a refusal", status("400 No"), Failure::Status(400)),
        ("a redirection", status("302 No"), Failure::Status(302)),
        ("another media type", Act::Send(response("application/json", b"{}")), Failure::NotEvents),
        ("dies in the middle", text(&said), Failure::EndedEarly),
        ("dies in a chunk", Act::Send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nffff\r\nda".to_vec()), Failure::Broken),
        ("ends without a reason", Act::Send(stream(&[says("x")])), Failure::EndedEarly),
        ("gives up", Act::Send(stream(&[says("x"), finish("abort")])), Failure::FinishReason),
        ("no JSON", text(b"data: {\n\n"), Failure::Nonsense),
        ("no text", text(b"data: \xff\xfe\n\n"), Failure::Nonsense),
        ("an error among events", text(b"data: {\"error\":{\"message\":\"x\"}}\n\n"), Failure::Reported),
        ("a line without end", Act::Flood(head.clone(), vec![b'x'; 4096]), Failure::LineTooLong { limit: MAX_EVENT }),
        ("events without end", Act::Flood(head.clone(), said.clone()), Failure::TooMuch),
        ("empty events without end", Act::Flood(head.clone(), events(&[says("")])), Failure::TooMuch),
        ("text after the end", Act::Send(stream(&[finish("stop"), says("x")])), Failure::TooMuch),
        ("text without end", text(&events(&[says(&"x".repeat(200_000))])), Failure::TooMuch),
        ("more tokens than wanted", Act::Send(stream(&[says("x"), finish("stop"), usage(7, 99)])), Failure::TooMuch),
        ("an unknown tool", Act::Send(stream(&[delta(json!({"tool_calls": [{"function": {"name": "rm"}}]}))])), Failure::Call),
    ];
    for (what, act, expected) in cases {
        let scene = Scene::start(facts(Flavour::OpenAi), answers(act));
        let answer = scene.run(chat(hello())).await;
        assert_eq!(answer.end, None, "{what}");
        assert_eq!(*scene.failures.lock().unwrap(), [expected], "{what}");
    }
}

#[tokio::test]
async fn an_engine_that_hangs_or_only_comments_is_given_up() {
    let head = response("text/event-stream", b"");
    let silence = Duration::from_millis(100);
    for (what, act) in [
        ("no head", Act::Hold(vec![])),
        ("no event", Act::Hold(head.clone())),
        ("no second event", Act::Hold([head.clone(), events(&[says("x")])].concat())),
        ("comments", Act::Flood(head, b": still there\n\n".to_vec())),
    ] {
        let scene = Scene::start(EngineFacts { silence, ..facts(Flavour::OpenAi) }, answers(act));
        assert_eq!(scene.run(chat(hello())).await.end, None, "{what}");
        assert_eq!(*scene.failures.lock().unwrap(), [Failure::Silent], "{what}");
    }
    // The request's own time comes first, and is no failure of the engine.
    let scene = Scene::start(facts(Flavour::OpenAi), answers(Act::Hold(vec![])));
    let answer = scene.run(Task { time: Duration::from_millis(50), ..chat(hello()) }).await;
    assert_eq!(answer.end, ended(FinishReason::Deadline, 41, 0, 0));
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_told_from_a_prompt_that_it_refuses() {
    let scene = Scene::start(facts(Flavour::Vllm), |_| {
        Act::Send(b"HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n".to_vec())
    });
    assert!(matches!(scene.backend.prepare(chat(hello())).await.err(), Some(PrepareError::Prompt(_))));
    for (body, failure) in [(&b"{}"[..], Failure::Nonsense), (b"{\"count\":-1}", Failure::Nonsense)] {
        let scene =
            Scene::start(facts(Flavour::Vllm), move |_| Act::Send(response("application/json", body)));
        assert_eq!(scene.backend.prepare(chat(hello())).await.err(), Some(PrepareError::Unavailable));
        assert_eq!(*scene.failures.lock().unwrap(), [failure]);
    }
    let nowhere = Arc::new(SocketAt("/nowhere/engine.sock".into()));
    let backend = OpenAi::new(facts(Flavour::Vllm), nowhere, &settings(), Arc::new(|_| {}));
    assert_eq!(backend.prepare(chat(hello())).await.err(), Some(PrepareError::Unavailable));
    assert_eq!(backend.health().await, Err(Failure::Unreachable));
}

#[tokio::test]
async fn owners_take_turns_and_the_queue_has_an_end() {
    let act = Act::Hold(response("text/event-stream", &events(&[says("x")])));
    let mut scene = Scene::start(facts(Flavour::OpenAi), answers(act));
    let start = async |scene: &Scene, name: u8| {
        let task = Task { owner: Owner([name; 32]), ..chat(hello()) };
        let (sink, events) = sink(usize::MAX);
        scene.backend.prepare(task).await.unwrap().start(vec![sink]).map(|handles| (handles, events))
    };
    let mut first = start(&scene, 1).await.unwrap();
    let mut waiting = start(&scene, 1).await.unwrap();
    let mut second = start(&scene, 2).await.unwrap();
    for (_, events) in [&mut first, &mut second] {
        assert!(matches!(events.0.recv().await, Some(Happened::Said(_))));
    }
    assert!(waiting.1.0.try_recv().is_err(), "one answer of an owner runs at once");
    assert_eq!(scene.connections.load(Ordering::SeqCst), 2);
    assert_eq!(start(&scene, 3).await.err(), Some(StartError::Busy));
    drop(first);
    assert!(matches!(waiting.1.0.recv().await, Some(Happened::Said(_))));
    scene.closed.recv().await.unwrap();
}

#[tokio::test]
async fn an_engine_that_is_well_takes_steps_and_one_that_is_not_does_not() {
    let scene = Scene::start(facts(Flavour::Vllm), answers(Act::Send(vec![])));
    assert!(scene.backend.step().await);
    let scene = Scene::start(facts(Flavour::Vllm), |_| Act::Hold(vec![]));
    let step = scene.backend.step();
    let waited = tokio::time::timeout(Duration::from_millis(100), step).await;
    assert!(waited.is_err(), "nothing moves");
    let step = scene.backend.step();
    drop(scene.backend);
    assert!(!step.await, "there is no backend any more");
}
