use std::num::NonZeroUsize;
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_backend::Piece;
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::events::{FAREWELL, MAX_FRAME, QUIET};
use super::*;
use crate::admission::{Admission, AdmissionLimits};
use crate::api::chat;
use crate::api::request::Delivery;
use crate::api::shape::Identity;
use crate::session::PartnerId;

const STREAM: Delivery = Delivery::Stream { include_usage: false, include_obfuscation: true };

fn ends(delivery: Delivery) -> (Writer, Reader, Arc<Admission>) {
    let one = NonZeroUsize::MIN;
    let admission = Admission::new(AdmissionLimits { total: one, per_partner: one });
    let slot = admission.admit(PartnerId::from(Sha256Digest::from_bytes([1; 32]))).ok().unwrap();
    let identity = Identity { id: "1", created: 0, model: "m", fingerprint: "fp_0" };
    let shape = Shape::new(&chat::WORDING, &identity, delivery, 0, None);
    let (mut writers, reader) = answer(vec![(shape, slot)], 1);
    (writers.remove(0), reader, admission)
}

/// The ends of an answer with two choices.
fn two(delivery: Delivery) -> (Writer, Writer, Reader, Arc<Admission>) {
    let two = NonZeroUsize::new(2).unwrap();
    let admission = Admission::new(AdmissionLimits { total: two, per_partner: two });
    let identity = Identity { id: "1", created: 0, model: "m", fingerprint: "fp_0" };
    let choices = (0..2).map(|index| {
        let slot = admission.admit(PartnerId::from(Sha256Digest::from_bytes([1; 32]))).ok().unwrap();
        (Shape::new(&chat::WORDING, &identity, delivery, index, None), slot)
    });
    let (mut writers, reader) = answer(choices.collect(), 2);
    let second = writers.pop().unwrap();
    (writers.pop().unwrap(), second, reader, admission)
}

#[tokio::test]
async fn choices_come_in_order_whichever_ends_first_and_their_tokens_are_summed() {
    let (mut first, mut second, reader, admission) = two(Delivery::Whole);
    let usage = |completion_tokens| Usage { prompt_tokens: 5, cached_tokens: 0, completion_tokens };
    let end = |reason, tokens| Event::Finished { reason, usage: usage(tokens) };
    assert!(second.event(end(FinishReason::Length, 3)).is_continue());
    drop(second);
    assert_eq!(admission.taken(), 2, "what has ended is not read before all has");
    assert!(first.event(end(FinishReason::Stop, 4)).is_continue());
    let answer: serde_json::Value = serde_json::from_slice(&reader.whole().await.ok().unwrap()).unwrap();
    assert_eq!(admission.taken(), 0);
    let choices: Vec<_> = answer["choices"].as_array().unwrap().iter().collect();
    assert_eq!((&choices[0]["index"], &choices[0]["finish_reason"]), (&0.into(), &"stop".into()));
    assert_eq!((&choices[1]["index"], &choices[1]["finish_reason"]), (&1.into(), &"length".into()));
    assert_eq!(answer["usage"]["completion_tokens"], 7);
    assert_eq!(answer["usage"]["prompt_tokens"], 5);
}

#[tokio::test]
async fn one_choice_that_breaks_breaks_the_answer_and_stops_the_others() {
    let (first, mut second, reader, _admission) = two(Delivery::Whole);
    drop(first);
    assert!(finish(&mut second).is_break());
    assert!(matches!(reader.whole().await, Err(ApiError::Failed)));

    let (mut first, second, reader, _admission) = two(STREAM);
    assert!(finish(&mut first).is_continue());
    let mut body = reader.into_body(None, ());
    let seen = frame(&mut body).await;
    assert!(seen.contains(r#""index":1"#) && !seen.contains("[DONE]"), "{seen}");
    drop(second);
    assert!(frame(&mut body).await.contains("engine_failed"));
}

fn finish(writer: &mut impl Sink) -> ControlFlow<()> {
    writer.event(Event::Finished { reason: FinishReason::Stop, usage: Usage::default() })
}

async fn frame(body: &mut EventStream<()>) -> String {
    let data = body.frame().await.unwrap().ok().unwrap().into_data().ok().unwrap();
    String::from_utf8(data.to_vec()).unwrap()
}

#[tokio::test]
async fn what_is_ready_leaves_in_one_frame_and_then_the_stream_ends() {
    let (mut writer, reader, _admission) = ends(STREAM);
    assert!(finish(&mut writer).is_continue());
    drop(writer);
    let mut body = reader.into_body(None, ());
    assert!(!body.is_end_stream());
    let only = frame(&mut body).await;
    assert!(only.contains(r#""role":"assistant""#) && only.contains(r#""finish_reason":"stop""#));
    assert!(only.ends_with("data: [DONE]\n\n"));
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_engine_dies_tells_the_failure_and_is_broken_off() {
    let (writer, reader, _admission) = ends(STREAM);
    let mut body = reader.into_body(None, ());
    let mut seen = frame(&mut body).await;
    drop(writer);
    seen += &frame(&mut body).await;
    assert!(seen.contains(r#""code":"engine_failed""#), "{seen}");
    assert!(!seen.contains("[DONE]") && !seen.contains(r#""finish_reason":""#), "{seen}");
    assert!(!body.is_end_stream());
    assert!(body.frame().await.unwrap().is_err(), "the HTTP stream must not end cleanly");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_after_what_was_said_just_before_it() {
    for traffic in [None, Traffic::new(STEP, CADENCE)] {
        let (mut writer, reader, _admission) = ends(STREAM);
        writer.shape.piece(&mut writer.shared.lock().ready, "last words", &[]);
        drop(writer);
        let mut body = reader.into_body(traffic, ());
        let (mut seen, begun) = (String::new(), tokio::time::Instant::now());
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(frame) => seen += std::str::from_utf8(&frame.into_data().ok().unwrap()).unwrap(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ApiError::Failed));
        let (said, failed) = (seen.find("last words"), seen.find(r#""code":"engine_failed""#));
        assert!(said.is_some() && said < failed, "{seen}");
        assert!(begun.elapsed() >= FAREWELL, "what is broken off at once is lost on its way");
    }
}

#[tokio::test]
async fn a_whole_answer_whose_engine_dies_is_an_error() {
    let (writer, reader, _admission) = ends(Delivery::Whole);
    drop(writer);
    assert!(matches!(reader.whole().await, Err(ApiError::Failed)));
}

#[tokio::test]
async fn an_answer_whose_time_is_over_says_so_and_never_looks_complete() {
    let late = |writer: &mut Writer| {
        writer.event(Event::Finished { reason: FinishReason::Deadline, usage: Usage::default() })
    };
    let (mut writer, reader, admission) = ends(Delivery::Whole);
    let _ = late(&mut writer);
    assert!(matches!(reader.whole().await, Err(ApiError::RequestTime)));
    assert_eq!(admission.taken(), 0);

    let (mut writer, reader, _admission) = ends(STREAM);
    let _ = late(&mut writer);
    drop(writer);
    let mut body = reader.into_body(None, ());
    let only = frame(&mut body).await;
    assert!(only.contains(r#""code":"request_time""#), "{only}");
    assert!(!only.contains("[DONE]") && !only.contains(r#""finish_reason":""#), "{only}");
    assert!(body.frame().await.is_none());
}

fn say(sink: &mut impl Sink, text: &str) -> ControlFlow<()> {
    sink.event(Event::Text(Piece { text, tokens: &[] }))
}

#[tokio::test]
async fn what_is_written_aside_comes_in_order_and_to_its_end() {
    let (writer, reader, admission) = ends(Delivery::Whole);
    let mut aside = Aside::new(writer);
    for word in ["one ", "two ", "three"] {
        assert!(aside.token().is_continue());
        assert!(say(&mut aside, word).is_continue());
    }
    assert!(finish(&mut aside).is_continue());
    drop(aside);
    let answer: serde_json::Value = serde_json::from_slice(&reader.whole().await.ok().unwrap()).unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "one two three");
    assert_eq!(admission.taken(), 0);
}

#[tokio::test]
async fn a_backend_that_goes_breaks_an_answer_that_is_written_aside() {
    let (writer, reader, _admission) = ends(Delivery::Whole);
    let mut aside = Aside::new(writer);
    assert!(say(&mut aside, "one ").is_continue());
    drop(aside);
    assert!(matches!(reader.whole().await, Err(ApiError::Failed)));
}

#[tokio::test]
async fn a_backend_is_told_when_nobody_reads_what_is_written_aside() {
    let (writer, reader, admission) = ends(STREAM);
    let mut aside = Aside::new(writer);
    let abandoned = reader.abandon();
    while say(&mut aside, "one ").is_continue() {
        tokio::task::yield_now().await;
    }
    assert!(aside.token().is_break());
    drop(aside);
    abandoned.await;
    assert_eq!(admission.taken(), 0);
}

#[tokio::test]
async fn an_answer_is_abandoned_when_every_choice_is_gone() {
    let (first, second, reader, admission) = two(STREAM);
    let abandoned = reader.abandon();
    let mut abandoned = std::pin::pin!(abandoned);
    drop(first);
    assert!(ready_now(abandoned.as_mut()).is_none());
    assert_eq!(admission.taken(), 1);
    drop(second);
    assert_eq!(ready_now(abandoned), Some(()));
    assert_eq!(admission.taken(), 0);
}

/// What a future has, if it is ready now.
fn ready_now<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_waiting_reader_is_woken() {
    let (mut writer, reader, _admission) = ends(Delivery::Whole);
    let waiting = tokio::spawn(reader.whole());
    tokio::task::yield_now().await;
    let _ = finish(&mut writer);
    assert!(waiting.await.unwrap().is_ok());
}

#[test]
fn a_writer_whose_reader_has_gone_is_told_to_stop() {
    let (mut writer, reader, _admission) = ends(STREAM);
    drop(reader.into_body(None, ()));
    assert!(finish(&mut writer).is_break());
}

#[test]
fn the_place_is_kept_while_either_end_holds_on() {
    let (writer, reader, admission) = ends(STREAM);
    drop(reader);
    assert_eq!(admission.taken(), 1, "the engine still works on it");
    drop(writer);
    assert_eq!(admission.taken(), 0);

    let (mut writer, reader, admission) = ends(STREAM);
    let _ = finish(&mut writer);
    drop(writer);
    assert_eq!(admission.taken(), 1, "the answer still waits to be read");
    drop(reader);
    assert_eq!(admission.taken(), 0);
}

#[tokio::test]
async fn the_place_is_free_before_the_end_can_be_seen() {
    // The engine's thread has told the end, and not yet let go of its sink.
    let (mut writer, reader, admission) = ends(Delivery::Whole);
    let _ = finish(&mut writer);
    assert!(reader.whole().await.is_ok());
    assert_eq!(admission.taken(), 0);

    // The network has the last frame, and not yet let go of the body.
    let (mut writer, reader, admission) = ends(STREAM);
    let mut body = reader.into_body(None, ());
    assert!(!frame(&mut body).await.contains("[DONE]"));
    let _ = finish(&mut writer);
    assert_eq!(admission.taken(), 1);
    assert!(frame(&mut body).await.contains("[DONE]"));
    assert_eq!(admission.taken(), 0);
}

#[tokio::test]
async fn a_long_answer_leaves_in_bounded_frames_and_holds_its_place_until_the_last() {
    let (mut writer, reader, admission) = ends(STREAM);
    let text = "x".repeat(MAX_FRAME + 5);
    writer.shape.piece(&mut writer.shared.lock().ready, &text, &[]);
    let _ = finish(&mut writer);
    let mut body = reader.into_body(None, ());
    assert_eq!(frame(&mut body).await.len(), MAX_FRAME);
    assert!(!body.is_end_stream());
    assert_eq!(admission.taken(), 1);
    assert!(frame(&mut body).await.ends_with("data: [DONE]\n\n"));
    assert!(body.is_end_stream());
    assert_eq!(admission.taken(), 0);
}

const STEP: usize = 512;
const CADENCE: Duration = Duration::from_millis(50);

fn paced(reader: Reader) -> EventStream<()> {
    reader.into_body(Some(Traffic::new(STEP, CADENCE).unwrap()), ())
}

/// What a client of server-sent events makes of a stream: no comments, no empty events.
fn without_comments(stream: &str) -> String {
    let mut events = String::new();
    for line in stream.split_inclusive('\n').filter(|line| !line.starts_with(':')) {
        if line != "\n" || !(events.is_empty() || events.ends_with("\n\n")) {
            events += line;
        }
    }
    events
}

#[tokio::test(start_paused = true)]
async fn a_paced_stream_has_one_length_and_one_rhythm_whatever_is_said() {
    for pieces in
        [vec![STEP / 2, 0, 1, 0, 40], vec![3 * STEP], vec![0, 0, 0], vec![], vec![STEP - 1, STEP - 2]]
    {
        let (mut writer, reader, admission) = ends(STREAM);
        let (mut plain, plain_reader, _plain) = ends(STREAM);
        let mut body = paced(reader);
        let begun = tokio::time::Instant::now();
        let (mut stream, mut ticks) = (String::new(), 0_u32);
        let mut pieces = pieces.into_iter();
        let mut finished = false;
        while !finished || !body.is_end_stream() {
            match pieces.next() {
                Some(0) => {}
                Some(length) => {
                    for end in [&mut writer, &mut plain] {
                        end.shape.piece(&mut end.shared.lock().ready, &"x".repeat(length), &[]);
                    }
                }
                None if finished => {}
                None => {
                    finished = true;
                    let _ = (finish(&mut writer), finish(&mut plain));
                }
            }
            let frame = frame(&mut body).await;
            assert_eq!(frame.len(), STEP);
            assert_eq!(begun.elapsed(), CADENCE * ticks);
            ticks += 1;
            stream += &frame;
        }
        assert!(body.frame().await.is_none());
        assert_eq!(admission.taken(), 0);
        let expected = plain_reader.whole_stream().await;
        assert_eq!(without_comments(&stream), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_paced_stream_says_nothing_in_its_rhythm_too() {
    let (_writer, reader, _admission) =
        ends(Delivery::Stream { include_usage: false, include_obfuscation: false });
    let mut body = paced(reader);
    assert!(without_comments(&frame(&mut body).await).contains("assistant"));
    for _ in 0..3 {
        let before = tokio::time::Instant::now();
        let only = frame(&mut body).await;
        assert_eq!((without_comments(&only).as_str(), only.len()), ("", STEP));
        assert_eq!(before.elapsed(), CADENCE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_paced_stream_whose_engine_dies_is_broken_off_after_a_frame_like_all_others() {
    let (writer, reader, _admission) = ends(STREAM);
    let mut body = paced(reader);
    let mut seen = frame(&mut body).await;
    drop(writer);
    seen += &frame(&mut body).await;
    assert_eq!(seen.len(), 2 * STEP);
    assert!(seen.contains(r#""code":"engine_failed""#), "{seen}");
    assert!(!body.is_end_stream());
    assert!(body.frame().await.unwrap().is_err(), "the HTTP stream must not end cleanly");
}

impl Reader {
    /// Everything that a stream without a pace carries.
    async fn whole_stream(self) -> String {
        let body = self.into_body(None, ()).collect().await.ok().unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_news_says_that_it_is_there() {
    for (dialect_of, expected) in
        [("openai", ": ping\n\n"), ("anthropic", "event: ping\ndata: {\"type\":\"ping\"}\n\n")]
    {
        let (mut writer, mut reader, _admission) = ends(STREAM);
        if dialect_of == "anthropic" {
            reader.dialect = Dialect::Anthropic;
        }
        let mut body = reader.into_body(None, ());
        assert!(frame(&mut body).await.contains("assistant"));
        let start = tokio::time::Instant::now();
        for _ in 0..3 {
            assert_eq!(frame(&mut body).await, expected);
        }
        assert_eq!(start.elapsed(), 3 * QUIET);
        assert!(finish(&mut writer).is_continue());
        assert!(frame(&mut body).await.ends_with("data: [DONE]\n\n"));
        assert_eq!(start.elapsed(), 3 * QUIET, "news do not wait");
    }
}
