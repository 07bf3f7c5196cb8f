//! The HTTP API as a client sees it: real requests, the real engine, the project's own model.

mod support;

use std::time::Duration;

use axum::body::Body;
use cleanroom_worker::api::Limits;
use http::HeaderValue;
use serde_json::{Value, json};
use support::{
    Api, CHAT, MODEL, TEXT, Then, chat, content, count, finish_reason, merged, partner, post, request,
    slow_body, text,
};

const QUESTION: &str = "What is attestation?";

// ---- What there is ----

#[tokio::test]
async fn the_model_is_listed_and_found_by_its_name() {
    let api = Api::new(1);
    let list = api.get("/v1/models").await.ok().await;
    assert_eq!(list["object"], "list");
    let [model] = list["data"].as_array().unwrap().as_slice() else { panic!("{list}") };
    assert_eq!((&model["id"], &model["object"]), (&json!(MODEL), &json!("model")));
    assert!(model["created"].is_u64() && model["owned_by"].is_string());
    let capabilities = &model["cleanroom_capabilities"];
    assert_eq!((&capabilities["chat"], &capabilities["embeddings"]), (&json!(true), &json!(false)));
    assert_eq!(&api.get("/v1/models/cleanroom/demo").await.ok().await, model);
    assert_eq!(&api.get("/v1/models/cleanroom%2Fdemo").await.ok().await, model, "as clients escape it");
}

#[tokio::test]
async fn the_router_answers_health_without_an_identity() {
    // In service, `who_is_not_listed_gets_evidence_and_nothing_else`: such a session gets 403.
    let request = http::Request::get("/healthz").body(Body::empty()).unwrap();
    assert_eq!(Api::new(1).send(request).await.ok().await, json!({"status": "ok"}));
}

// ---- What there is not ----

#[tokio::test]
async fn other_models_paths_and_methods_are_refused() {
    let api = Api::new(1);
    api.get("/v1/models/gpt-5").await.refused(404, "model_not_found", Some("model")).await;
    api.get("/v1/models/%ff").await.refused(404, "model_not_found", Some("model")).await;
    for path in [CHAT, TEXT] {
        let other = json!({"model": "gpt-5", "messages": [{"role": "user", "content": "x"}]});
        let other = if path == TEXT { json!({"model": "gpt-5", "prompt": "x"}) } else { other };
        api.post(path, &other).await.refused(404, "model_not_found", Some("model")).await;
    }
    for path in ["/", "/v1", "/v1/audio/speech", "/v1/chat/completions/"] {
        api.get(path).await.refused(404, "unknown_url", None).await;
    }
    let headers = api.get(CHAT).await.refused(405, "method_not_allowed", None).await;
    assert_eq!(headers["allow"], "POST");
    let headers = api.post("/v1/models", &json!({})).await.refused(405, "method_not_allowed", None).await;
    assert_eq!(headers["allow"], "GET,HEAD");
}

#[tokio::test]
async fn query_parameters_are_ignored() {
    let api = Api::new(1);
    api.get("/v1/models?limit=5").await.ok().await;
    api.post("/v1/completions?a", &text("x", &json!({}))).await.ok().await;
    let question = json!({
        "model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}],
    });
    assert_eq!(api.post("/v1/messages?beta=true", &question).await.ok().await["type"], "message");
}

#[tokio::test]
async fn refusals_are_in_the_dialect_of_who_asks() {
    let api = Api::new(1);
    for (method, path, status) in
        [("GET", "/v1/nothing", 404), ("GET", "/v1/messages", 405), ("GET", "/v1/models/claude", 404)]
    {
        let mut request = request(partner(1), method, path, Body::empty());
        request.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
        let answer = api.send(request).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.json().await["type"], "error", "{path}");
    }
}

#[tokio::test]
async fn several_prompts_get_their_answers_in_one() {
    let api = Api::new(4);
    let limits = json!({"max_tokens": 6, "n": 2});
    let both = api
        .post(TEXT, &text("x", &merged(limits.clone(), &json!({"prompt": ["Once", "The platform"]}))))
        .await;
    let both = both.ok().await;
    let mut usage = (0, 0);
    for (prompt, place) in [("Once", 0), ("The platform", 2)] {
        let alone = api.post(TEXT, &text(prompt, &limits)).await.ok().await;
        assert_eq!(both["choices"][place]["text"], alone["choices"][0]["text"]);
        assert_eq!(both["choices"][place + 1]["index"], place + 1);
        usage.0 += alone["usage"]["prompt_tokens"].as_u64().unwrap();
        usage.1 += alone["usage"]["completion_tokens"].as_u64().unwrap();
    }
    assert_eq!(both["usage"]["prompt_tokens"], usage.0, "each prompt counts once");
    assert_eq!(both["usage"]["completion_tokens"], usage.1);
    let tokens = api.post(TEXT, &text("x", &merged(limits, &json!({"prompt": [300, 301]})))).await.ok().await;
    assert_eq!(tokens["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn a_request_without_a_proven_partner_is_refused() {
    let api = Api::new(1);
    for (method, path) in
        [("GET", "/v1/models"), ("GET", "/v1/models/cleanroom/demo"), ("POST", CHAT), ("POST", TEXT)]
    {
        let request = http::Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        api.send(request).await.refused(403, "not_attested", None).await;
    }
    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        let request = http::Request::builder().method("POST").uri(path).body(Body::empty()).unwrap();
        let response = api.send(request).await.0;
        assert_eq!(response.status(), 403);
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let refusal: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(refusal["error"]["type"], "permission_error");
        assert_eq!(refusal["error"]["code"], "not_attested");
    }
}

// ---- Bodies ----

#[tokio::test]
async fn only_plain_json_is_read() {
    let api = Api::new(1);
    let with = |headers: &[(&'static str, &str)]| {
        let mut request =
            request(partner(1), "POST", TEXT, Body::from(text("x", &json!({"max_tokens": 1})).to_string()));
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request
    };
    for headers in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "application/jsonx")],
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
    ] {
        api.send(with(headers)).await.refused(415, "unsupported_media_type", None).await;
    }
    api.send(with(&[("content-type", "Application/JSON; charset=utf-8")])).await.ok().await;
}

fn upload(body: Body) -> http::Request<Body> {
    let mut request = request(partner(1), "POST", TEXT, body);
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    request
}

#[tokio::test]
async fn bodies_are_limited_in_size_whether_announced_or_not() {
    let mut limits = Limits::new(count(1));
    limits.body_bytes = 200;
    let api = Api::with_limits(1, limits);
    let fits = text("x", &json!({"max_tokens": 1}));
    let padded = |length: usize| format!("{fits}{}", " ".repeat(length - fits.to_string().len()));
    api.send(upload(Body::from(padded(200)))).await.ok().await;
    api.send(upload(Body::from(padded(201)))).await.refused(413, "body_too_large", None).await;
    // Endless, and without an announced length.
    api.send(upload(slow_body("          ", Then::More))).await.refused(413, "body_too_large", None).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_in_time_is_given_up() {
    let answer = Api::new(1).send(upload(slow_body("{", Then::Silence))).await;
    answer.refused(408, "body_timeout", None).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused() {
    Api::new(1).send(upload(slow_body("{", Then::Failure))).await.refused(400, "body_incomplete", None).await;
}

#[tokio::test(start_paused = true)]
async fn bodies_being_received_are_limited_in_number_for_each_partner() {
    let mut limits = Limits::new(count(4));
    limits.uploads.per_partner = count(1);
    let api = Api::with_limits(4, limits);
    let slow = tokio::spawn({
        let api = api.clone();
        async move { api.send(upload(slow_body("{", Then::Silence))).await.status() }
    });
    tokio::task::yield_now().await;
    let short = text("x", &json!({"max_tokens": 1}));
    api.post(TEXT, &short).await.refused(429, "rate_limit_exceeded", None).await;
    api.send(post(partner(2), TEXT, &short)).await.ok().await;
    assert_eq!(slow.await.unwrap(), 408);
    api.post(TEXT, &short).await.ok().await;
}

#[tokio::test]
async fn refusals_of_syntax_reach_the_client() {
    let api = Api::new(1);
    api.send(upload(Body::from("{"))).await.refused(400, "invalid_json", None).await;
    let tools = chat(QUESTION, &json!({"tools": [weather()]}));
    api.post(CHAT, &tools).await.refused(400, "unsupported_parameter", Some("tools")).await;
    let hot = text("x", &json!({"temperature": 3}));
    api.post(TEXT, &hot).await.refused(400, "invalid_value", Some("temperature")).await;
}

// ---- Answers ----

#[tokio::test]
async fn a_chat_is_answered_whole_and_streamed_alike() {
    let api = Api::new(1);
    let whole = api.post(CHAT, &chat(QUESTION, &json!({}))).await.ok().await;
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], MODEL);
    assert_eq!(whole["system_fingerprint"], "fp_d1d1d1d1d1d1d1d1");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let answer = content(std::slice::from_ref(&whole));
    assert!(answer.starts_with("Attestation proves"), "{answer}");

    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    let mut chunks = api.post(CHAT, &chat(QUESTION, &stream)).await.chunks().await;
    let usage = chunks.pop().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], whole["usage"]);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(content(&chunks), answer);
    assert_eq!(finish_reason(&chunks), "stop");
    assert!(chunks.len() > 5, "token by token");
    assert!(chunks.iter().all(|chunk| chunk["id"] == usage["id"]));
    assert_ne!(whole["id"], usage["id"]);
}

#[tokio::test]
async fn usage_counts_what_was_read_and_written() {
    let api = Api::new(1);
    let answer = api.post(TEXT, &text("The enclave", &json!({"max_tokens": 5}))).await.ok().await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 5);
    let prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert!(prompt > 0);
    assert_eq!(usage["total_tokens"], prompt + 5);
}

#[tokio::test]
async fn a_text_is_continued_by_sixteen_tokens_unless_told_otherwise() {
    let api = Api::new(1);
    let hot = json!({"temperature": 1, "seed": 3});
    let whole = api.post(TEXT, &text("Once upon a time", &hot)).await.ok().await;
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["usage"]["completion_tokens"], 16);
    let stream = merged(hot, &json!({"stream": true}));
    let chunks = api.post(TEXT, &text("Once upon a time", &stream)).await.chunks().await;
    assert_eq!(content(&chunks), content(&[whole]));
    assert_eq!(finish_reason(&chunks), "length");
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "nobody asked for it");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_answer_and_no_seed_another_each_time() {
    let api = Api::new(1);
    let ask = async |extra: Value| {
        let hot = merged(json!({"temperature": 1.8, "max_tokens": 24}), &extra);
        content(&[api.post(TEXT, &text("A story about", &hot)).await.ok().await])
    };
    let seven = ask(json!({"seed": 7})).await;
    assert_eq!(ask(json!({"seed": 7})).await, seven);
    assert_ne!(ask(json!({"seed": 8})).await, seven);
    assert_ne!(ask(json!({})).await, ask(json!({})).await);
    let greedy = ask(json!({"temperature": 0})).await;
    assert_eq!(ask(json!({"top_p": 0, "seed": 9})).await, greedy, "an empty nucleus is greedy");
}

#[tokio::test]
async fn a_stop_sequence_ends_the_answer_before_itself() {
    let api = Api::new(1);
    let full = content(&[api.post(CHAT, &chat(QUESTION, &json!({}))).await.ok().await]);
    let stop = full.split(' ').nth(4).unwrap();
    let expected = full.split(stop).next().unwrap();
    for (stop, stream) in [(json!(stop), false), (json!(["never there", stop]), true)] {
        let body = chat(QUESTION, &json!({"stop": stop, "stream": stream}));
        let answer = api.post(CHAT, &body).await;
        let answers = if stream { answer.chunks().await } else { vec![answer.ok().await] };
        assert_eq!(content(&answers), expected);
        assert_eq!(finish_reason(&answers), "stop");
    }
}

/// A chat request for JSON of this schema.
fn shaped(schema: &Value, extra: &Value) -> Value {
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
    chat(QUESTION, &merged(json!({"response_format": format}), extra))
}

#[tokio::test]
async fn an_answer_has_the_form_that_was_asked_for() {
    let api = Api::new(1);
    let schema = json!({"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 3});
    for stream in [false, true] {
        let hot = json!({"temperature": 2, "seed": 5, "stream": stream});
        let answer = api.post(CHAT, &shaped(&schema, &hot)).await;
        let answers = if stream { answer.chunks().await } else { vec![answer.ok().await] };
        assert_eq!(finish_reason(&answers), "stop");
        let items: Vec<u8> = serde_json::from_str(&content(&answers)).unwrap();
        assert!(
            (2..=3).contains(&items.len()) && items.iter().all(|item| [1, 2].contains(item)),
            "{items:?}"
        );
    }
    let object = chat(QUESTION, &json!({"response_format": {"type": "json_object"}, "max_tokens": 4}));
    assert!(content(&[api.post(CHAT, &object).await.ok().await]).starts_with('{'));
    let format =
        json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}, "max_tokens": 60});
    let message = api.post("/v1/messages", &chat(QUESTION, &format)).await.ok().await;
    let items: Vec<u8> = serde_json::from_str(message["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!((2..=3).contains(&items.len()));
}

#[tokio::test]
async fn a_schema_that_cannot_shape_an_answer_is_refused_and_takes_no_place() {
    let api = Api::new(1);
    for schema in [
        json!({"type": "string", "pattern": "a(?=b)"}),
        json!({"type": "string", "maxLength": 4_000_000_000_u32}),
        json!({"$ref": "#"}),
    ] {
        let param = Some("response_format.json_schema.schema");
        api.post(CHAT, &shaped(&schema, &json!({}))).await.refused(400, "invalid_schema", param).await;
        api.idle().await;
    }
}

#[tokio::test]
async fn tokens_come_with_probabilities_whole_and_streamed_alike() {
    let api = Api::new(1);
    let asked = json!({"logprobs": true, "top_logprobs": 2});
    let whole = api.post(CHAT, &chat(QUESTION, &asked)).await.ok().await;
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(tokens.len() as u64, whole["usage"]["completion_tokens"].as_u64().unwrap());
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|t| t["bytes"].as_array().unwrap())
        .map(|b| b.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), content(std::slice::from_ref(&whole)));
    for token in &tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"]), (2, &token["token"]), "greedy takes the likeliest");
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
    }
    let stream = api.post(CHAT, &chat(QUESTION, &merged(asked, &json!({"stream": true})))).await.text().await;
    let chunks = support::chunks(&stream);
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(streamed, tokens);
    let events: Vec<&str> = stream.split_terminator("\n\n").collect();
    let lengths: Vec<usize> = events[1..events.len() - 2].iter().map(|event| event.len()).collect();
    let usual = lengths.iter().filter(|length| **length == lengths[0]).count();
    assert!(usual * 10 > lengths.len() * 7, "most events look alike: {lengths:?}");

    let columns = json!({"logprobs": 2, "max_tokens": 12});
    let whole = api.post(TEXT, &text("The enclave", &columns)).await.ok().await;
    let logprobs = &whole["choices"][0]["logprobs"];
    let texts: Vec<&str> =
        logprobs["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(texts.concat(), content(std::slice::from_ref(&whole)));
    let mut offset = 0;
    for (index, token) in texts.iter().enumerate() {
        assert_eq!(logprobs["text_offset"][index], offset);
        offset += token.chars().count();
        assert_eq!(logprobs["top_logprobs"][index][token], logprobs["token_logprobs"][index]);
    }
}

#[tokio::test]
async fn a_request_gets_as_many_choices_as_it_asks_for() {
    let api = Api::new(4);
    let several =
        |extra: Value| merged(json!({"n": 3, "temperature": 1.8, "seed": 7, "max_tokens": 12}), &extra);
    let whole = api.post(TEXT, &text("Once upon a time", &several(json!({})))).await.ok().await;
    let choices = whole["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2], "{texts:?}");
    let alone = api.post(TEXT, &text("Once upon a time", &several(json!({"n": 1})))).await.ok().await;
    assert_eq!(alone["choices"][0]["text"], texts[0]);
    assert_eq!(whole["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"]);
    assert_eq!(whole["usage"]["completion_tokens"], 36);
    let asked = several(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let chunks = api.post(TEXT, &text("Once upon a time", &asked)).await.chunks().await;
    let streamed = |index: u64| -> String {
        let choices = chunks.iter().filter_map(|chunk| chunk["choices"].get(0));
        choices
            .filter(|choice| choice["index"] == index)
            .map(|choice| choice["text"].as_str().unwrap())
            .collect()
    };
    assert_eq!([0, 1, 2].map(streamed), texts.as_slice());
    assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
}

#[tokio::test]
async fn every_choice_takes_a_place() {
    let api = Api::endless(3);
    let (_, body) = api
        .post(TEXT, &text("x", &json!({"n": 2, "stream": true, "max_tokens": 400})))
        .await
        .first_frame()
        .await;
    api.until_active(2).await;
    api.post(TEXT, &text("x", &json!({"n": 2}))).await.refused(429, "rate_limit_exceeded", None).await;
    api.until_active(2).await;
    drop(body);
    api.idle().await;
    api.post(TEXT, &text("x", &json!({"n": 4}))).await.refused(400, "invalid_value", Some("n")).await;
}

#[tokio::test]
async fn texts_have_embeddings_where_the_model_is_made_for_them() {
    let api = Api::embedding(1);
    let ask = async |extra: Value| api.post("/v1/embeddings", &merged(json!({"model": MODEL}), &extra)).await;
    let several = ask(json!({"input": ["Attestation", "Enclave"], "dimensions": 256})).await.ok().await;
    let data = several["data"].as_array().unwrap();
    assert_eq!(
        (data.len(), &data[1]["index"], data[0]["embedding"].as_array().unwrap().len()),
        (2, &json!(1), 256)
    );
    assert_eq!(several["usage"]["prompt_tokens"], several["usage"]["total_tokens"]);
    api.idle().await;
    let one = ask(json!({"input": "Enclave"})).await.ok().await;
    assert_eq!(one["data"][0]["embedding"], data[1]["embedding"]);
    ask(json!({"input": "x", "dimensions": 8})).await.refused(400, "invalid_value", Some("dimensions")).await;
    ask(json!({"input": [4_000_000]})).await.refused(400, "invalid_value", Some("input")).await;
    ask(json!({"input": ""})).await.refused(400, "invalid_value", Some("input")).await;
    let long = "The clean room proves itself. ".repeat(400);
    ask(json!({"input": ["x", long]})).await.refused(400, "context_length_exceeded", Some("input")).await;
    api.idle().await;
    // The same model still answers.
    api.post(TEXT, &text("x", &json!({"max_tokens": 1}))).await.ok().await;
    let other = Api::new(1).post("/v1/embeddings", &json!({"model": MODEL, "input": "x"})).await;
    other.refused(400, "no_embeddings", Some("model")).await;
}

#[tokio::test]
async fn roles_and_parts_reach_the_template() {
    let api = Api::new(1);
    let ask = async |messages: Value| {
        let body = json!({"model": MODEL, "messages": messages, "temperature": 0});
        let answer = api.post(CHAT, &body).await.ok().await;
        (content(std::slice::from_ref(&answer)), answer["usage"]["prompt_tokens"].as_u64().unwrap())
    };
    let plain = ask(json!([{"role": "user", "content": QUESTION}])).await;
    let parts = json!([{"type": "text", "text": "What is "}, {"type": "text", "text": "attestation?"}]);
    assert_eq!(ask(json!([{"role": "user", "content": parts}])).await, plain);
    let turn =
        |role: &str| json!([{"role": role, "content": "Be brief."}, {"role": "user", "content": QUESTION}]);
    let system = ask(turn("system")).await;
    assert!(system.1 > plain.1);
    assert_eq!(ask(turn("developer")).await, system);
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused() {
    let api = Api::new(1);
    for length in [2_000, 400_000] {
        let long = "enclave ".repeat(length / 8 * 8);
        let refused = api.post(CHAT, &chat(&long[..length], &json!({}))).await;
        if length < 100_000 && refused.status() == 200 {
            continue;
        }
        refused.refused(400, "context_length_exceeded", Some("messages")).await;
    }
    let long = "word ".repeat(3_000);
    api.post(TEXT, &text(&long, &json!({})))
        .await
        .refused(400, "context_length_exceeded", Some("prompt"))
        .await;
    assert_eq!(api.service.active(), 0);
}

#[tokio::test]
async fn an_empty_prompt_is_refused() {
    Api::new(1).post(TEXT, &text("", &json!({}))).await.refused(400, "invalid_value", Some("prompt")).await;
}

// ---- Admission ----

/// A stream. Its place is taken until somebody reads it.
fn unread() -> Value {
    text("Once upon a time", &json!({"stream": true}))
}

#[tokio::test]
async fn a_full_house_refuses_at_once_and_says_when_to_come_back() {
    let mut limits = Limits::new(count(1));
    limits.retry_after = Duration::from_secs(3);
    let api = Api::with_limits(1, limits);
    let running = api.post(TEXT, &unread()).await;
    assert_eq!(running.status(), 200);
    for body in [unread(), text("x", &json!({}))] {
        let headers =
            api.send(post(partner(2), TEXT, &body)).await.refused(429, "rate_limit_exceeded", None).await;
        assert_eq!(headers["retry-after"], "3");
    }
    // Without room, the body is not even read: this one would never end.
    let headers =
        api.send(upload(slow_body("{", Then::Silence))).await.refused(429, "rate_limit_exceeded", None).await;
    assert_eq!(headers["retry-after"], "3");
    assert_eq!(api.service.active(), 1);
    drop(running);
    api.idle().await;
    api.post(TEXT, &text("x", &json!({"max_tokens": 1}))).await.ok().await;
}

#[tokio::test]
async fn one_partner_cannot_shut_another_out() {
    let api = Api::with_limits(4, Limits::new(count(4)));
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(api.post(TEXT, &unread()).await);
    }
    api.post(TEXT, &unread()).await.refused(429, "rate_limit_exceeded", None).await;
    api.send(post(partner(2), TEXT, &text("x", &json!({"max_tokens": 1})))).await.ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_at_once_get_what_each_would_get_alone() {
    let api = Api::new(8);
    let body =
        |seed: usize| text("A story about", &json!({"temperature": 1, "seed": seed, "max_tokens": 40}));
    let mut alone = Vec::new();
    for seed in 0..8 {
        alone.push(content(&[api.post(TEXT, &body(seed)).await.ok().await]));
    }
    let together = futures_util::future::join_all((0..8).map(|seed| {
        let api = api.clone();
        async move { content(&[api.post(TEXT, &body(seed)).await.ok().await]) }
    }));
    assert_eq!(together.await, alone);
    api.idle().await;
}

// ---- Tools and thoughts ----

/// A tool with a schema that leaves little to say.
fn weather() -> Value {
    let properties = json!({
        "city": {"type": "string", "maxLength": 4},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 5},
    });
    let parameters = json!({
        "type": "object", "properties": properties, "required": ["city", "unit", "days"], "additionalProperties": false,
    });
    json!({"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": parameters}})
}

fn is_weather(arguments: &Value) -> bool {
    let json = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    json.is_some_and(|weather| {
        weather["city"].as_str().is_some_and(|city| city.chars().count() <= 4)
            && weather["unit"].as_str().is_some_and(|unit| ["C", "F"].contains(&unit))
            && weather["days"].as_i64().is_some_and(|days| (1..=5).contains(&days))
    })
}

#[tokio::test]
async fn a_call_that_must_come_has_the_form_of_its_schema_whole_and_streamed() {
    let api = Api::with_tools(2);
    for (seed, choice) in
        [(1, json!("required")), (2, json!({"type": "function", "function": {"name": "get_weather"}}))]
    {
        let asked = json!({
            "tools": [weather()], "tool_choice": choice, "parallel_tool_calls": false, "temperature": 1.5, "seed": seed,
            "max_tokens": 300,
        });
        let whole = api.post(CHAT, &chat(QUESTION, &asked)).await.ok().await;
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
        assert_eq!(choice["message"]["content"], Value::Null);
        let [call] = choice["message"]["tool_calls"].as_array().unwrap().as_slice() else {
            panic!("{whole}")
        };
        assert_eq!(call["function"]["name"], "get_weather");
        assert!(is_weather(&call["function"]["arguments"]), "{call}");

        let streamed = merged(asked, &json!({"stream": true}));
        let chunks = api.post(CHAT, &chat(QUESTION, &streamed)).await.chunks().await;
        assert_eq!(finish_reason(&chunks), "tool_calls");
        let parts: Vec<&Value> =
            chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/tool_calls/0")).collect();
        assert_eq!(parts[0]["function"]["name"], "get_weather");
        assert!(parts.len() > 2, "arguments come in pieces");
        let arguments: String =
            parts.iter().filter_map(|part| part["function"]["arguments"].as_str()).collect();
        assert_eq!(arguments, call["function"]["arguments"].as_str().unwrap());
        assert_eq!(content(&chunks), "");
    }
}

#[tokio::test]
async fn tools_that_may_be_called_change_the_prompt_and_those_that_may_not_do_not() {
    let api = Api::with_tools(1);
    let tokens = |answer: Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let plain = tokens(api.post(CHAT, &chat(QUESTION, &json!({}))).await.ok().await);
    let none = json!({"tools": [weather()], "tool_choice": "none"});
    assert_eq!(tokens(api.post(CHAT, &chat(QUESTION, &none)).await.ok().await), plain);
    let auto = api.post(CHAT, &chat(QUESTION, &json!({"tools": [weather()]}))).await.ok().await;
    assert!(auto["choices"][0]["message"]["content"].is_string(), "text stays text: {auto}");
    assert!(tokens(auto) > plain);
    // A schema that is not understood is an error where it was to be kept to, and else any object.
    let odd = |strict: bool| {
        let parameters = json!({"type": "object", "minProperties": 1});
        json!({"tools": [{"type": "function", "function": {"name": "f", "strict": strict, "parameters": parameters}}]})
    };
    api.post(CHAT, &chat(QUESTION, &odd(true))).await.refused(400, "invalid_schema", Some("tools")).await;
    api.post(CHAT, &chat(QUESTION, &odd(false))).await.ok().await;
}

#[tokio::test]
async fn a_conversation_with_calls_goes_on_in_both_apis() {
    let api = Api::with_tools(1);
    let history = json!({"max_tokens": 4, "tools": [weather()], "messages": [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\":\"x\"}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]});
    let openai = api.post(CHAT, &chat(QUESTION, &history)).await.ok().await;
    let function = weather()["function"].clone();
    let history = json!({"model": MODEL, "max_tokens": 4,
    "tools": [{"name": "get_weather", "description": "d", "input_schema": function["parameters"]}],
    "messages": [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"city": "x"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "3"}]},
    ]});
    let anthropic = api.post("/v1/messages", &history).await.ok().await;
    let usage = &anthropic["usage"];
    let cached = usage["cache_read_input_tokens"].as_u64().unwrap_or(0);
    assert_eq!(
        openai["usage"]["prompt_tokens"],
        usage["input_tokens"].as_u64().unwrap() + cached,
        "both are the same prompt"
    );
}

#[tokio::test]
async fn thoughts_are_told_apart_from_what_is_said() {
    let api = Api::with_tools(1);
    // This model never ends what it thinks, so all of it is a thought.
    let asked = json!({"max_tokens": 12, "enable_thinking": true});
    let thinking = api.post(CHAT, &chat(QUESTION, &asked)).await.ok().await;
    let message = &thinking["choices"][0]["message"];
    assert_eq!(message["content"], "");
    assert!(!message["reasoning_content"].as_str().unwrap().is_empty(), "{thinking}");
    let streamed = merged(asked, &json!({"stream": true}));
    let chunks = api.post(CHAT, &chat(QUESTION, &streamed)).await.chunks().await;
    let thought: String = chunks
        .iter()
        .filter_map(|chunk| chunk.pointer("/choices/0/delta/reasoning_content")?.as_str())
        .collect();
    assert_eq!(thought, message["reasoning_content"].as_str().unwrap());
    let not = api
        .post(CHAT, &chat(QUESTION, &json!({"max_tokens": 12, "reasoning_effort": "none"})))
        .await
        .ok()
        .await;
    assert!(not["choices"][0]["message"].get("reasoning_content").is_none(), "{not}");
    let template = json!({"max_tokens": 12, "chat_template_kwargs": {"enable_thinking": true}});
    let told = api.post(CHAT, &chat(QUESTION, &template)).await.ok().await;
    assert_eq!(told["choices"][0]["message"]["reasoning_content"], message["reasoning_content"]);

    let ask = |thinking: Value| {
        json!({
            "model": MODEL, "max_tokens": 12, "temperature": 0, "thinking": thinking,
            "messages": [{"role": "user", "content": QUESTION}],
        })
    };
    let on =
        api.post("/v1/messages", &ask(json!({"type": "enabled", "budget_tokens": 1024}))).await.ok().await;
    assert_eq!(on["content"][0]["type"], "thinking", "{on}");
    assert_eq!(on["content"][0]["thinking"], message["reasoning_content"]);
    let off = api.post("/v1/messages", &ask(json!({"type": "disabled"}))).await.ok().await;
    assert_eq!(off["content"][0]["type"], "text", "{off}");
}
