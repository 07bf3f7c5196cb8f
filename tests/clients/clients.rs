//! The official client packages, unmodified: against the API alone, and through the whole attested path.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use axum::Extension;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::model::model_digest;
use cleanroom_channel::identity::Identity;
use cleanroom_config::Limits;
use cleanroom_engine::{Engine, EngineConfig, Model};
use cleanroom_guard::Clock;
use cleanroom_native::Native;
use cleanroom_program::file::create_secret;
use cleanroom_tests::clean_room::{CleanRoom, model};
use cleanroom_tests::http_proxy::address_of_this_machine;
use cleanroom_tests::official::{self, Package, Way};
use cleanroom_tests::platform::{World, model_id};
use cleanroom_tests::processes::Running;
use cleanroom_worker::api::{self, Service};
use cleanroom_worker::{PartnerId, SessionIdentity};
use tokio::net::TcpListener;

/// Room for what the suite asks of one partner at once (eight), and for less than it tries in the end (64).
const SEQUENCES: usize = 4;
const QUEUED: usize = 8;

async fn run(package: Package, way: impl Into<Way>) {
    let way = way.into();
    let outcome = tokio::task::spawn_blocking(move || official::run(package, way)).await.unwrap();
    official::expect_passed(outcome.unwrap());
}

#[path = "../../enclave/engine/tests/support/embedding_model.rs"]
mod embedding_model;

#[path = "../../enclave/engine/tests/support/template_model.rs"]
mod template_model;

/// A model that calls tools and tells what it thinks.
fn tools_model() -> Vec<u8> {
    template_model::with_template(&model(), template_model::TOOLS_AND_THOUGHTS)
}

/// The address of the API by itself, with a partner as the channel would have proven one.
async fn api_alone(model: Vec<u8>) -> String {
    let sequences = NonZeroUsize::new(SEQUENCES).unwrap();
    let config = EngineConfig { max_queued: QUEUED, ..EngineConfig::new(NonZeroUsize::MIN, sequences) };
    let engine = Engine::start(Arc::new(Model::from_gguf(&model).unwrap()), config).unwrap();
    let limits = Limits { sequences, queued: QUEUED, ..Limits::default() };
    let service = Service::new(Native::shared(engine), model_id(), model_digest(&model), &limits);
    let partner = PartnerId::from(Sha256Digest::of(&[b"key"]));
    let router = api::router(Arc::new(service)).layer(Extension(SessionIdentity {
        partner,
        transcript: Sha384Digest::of(&[b"session"]),
        ticket: [0; 32],
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/v1")
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_against_the_api_alone() {
    run(Package::OpenAi, api_alone(model()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_against_the_api_of_a_model_that_gives_embeddings() {
    let model = embedding_model::for_embeddings(&model(), 1);
    run(Package::OpenAiEmbeddings, api_alone(model).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_against_the_api_alone() {
    run(Package::Anthropic, api_alone(model()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_and_anthropic_call_tools_of_the_api_alone() {
    run(Package::Tools, api_alone(tools_model()).await).await;
}

/// A whole clean room, and its proxy, for a model that calls tools.
async fn attested_tools() -> (CleanRoom, String) {
    let limits = format!("[limits]\nsequences = {SEQUENCES}\nqueued = {QUEUED}");
    let clean_room = CleanRoom::start_with(World::new(), &limits, Clock::boot(), tools_model()).await;
    let proxy = clean_room.proxy(&Identity::generate().unwrap()).await;
    (clean_room, format!("http://{proxy}/v1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn frameworks_through_the_attested_path() {
    let (_clean_room, base_url) = attested_tools().await;
    run(Package::Frameworks, base_url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vercel_sdk_through_the_attested_path() {
    let (_clean_room, base_url) = attested_tools().await;
    run(Package::Vercel, base_url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_through_the_attested_path() {
    let clean_room = CleanRoom::start(&format!("[limits]\nsequences = {SEQUENCES}\nqueued = {QUEUED}")).await;
    let proxy = clean_room.proxy(&Identity::generate().unwrap()).await;
    run(Package::OpenAi, format!("http://{proxy}/v1")).await;
    run(Package::Anthropic, format!("http://{proxy}/v1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_at_an_address_that_others_can_reach_and_at_a_unix_socket() {
    let Some(here) = address_of_this_machine() else { return };
    let clean_room = CleanRoom::start("").await;
    let _ = clean_room.partner_files();
    let (folder, room) = (clean_room.path().parent().unwrap().to_owned(), clean_room.address().to_string());
    let token = "7d1f0c6a9b3e24715f1d0c6a9b3e2471";
    create_secret(&folder.join("token"), token.as_bytes()).unwrap();
    let run = move || {
        let mut alone =
            Running::start("cleanroom", &folder, &["connect", &room, "--listen", "unix:proxy.sock"]);
        let public = ["connect", &room, "--listen", "0.0.0.0:0", "--token-file", "token", "--json"];
        let mut public = Running::start("cleanroom", &folder, &public);
        let listen: SocketAddr =
            public.wait_for("\"listen\": \"").split('"').next().unwrap().parse().unwrap();
        assert!(alone.wait_for("ready").contains("unix:proxy.sock"));
        let url = format!("http://{}/v1", SocketAddr::new(here, listen.port()));
        let socket = folder.join("proxy.sock");
        let variables = [("CLEANROOM_TOKEN", token), ("CLEANROOM_SOCKET", socket.to_str().unwrap())];
        let outcome = official::run_with(Package::Listen, url, &variables);
        assert!(public.stop().success() && alone.stop().success());
        assert!(!socket.exists(), "the proxy takes its socket away");
        outcome
    };
    official::expect_passed(tokio::task::spawn_blocking(run).await.unwrap().unwrap());
}

/// A clean room for the package `cleanroom`, which proves it in process.
async fn in_process(model: Vec<u8>) -> (CleanRoom, Way) {
    let limits = format!("[limits]\nsequences = {SEQUENCES}\nqueued = {QUEUED}");
    let clean_room = CleanRoom::start_with(World::new(), &limits, Clock::boot(), model).await;
    let partner = clean_room.partner_files();
    (clean_room, partner.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_in_process() {
    let (_clean_room, way) = in_process(model()).await;
    run(Package::OpenAi, way.clone()).await;
    run(Package::Anthropic, way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_in_process() {
    let (_clean_room, way) = in_process(tools_model()).await;
    run(Package::Tools, way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frameworks_in_process() {
    let (_clean_room, way) = in_process(tools_model()).await;
    run(Package::Frameworks, way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_in_process() {
    let (_clean_room, way) = in_process(embedding_model::for_embeddings(&model(), 1)).await;
    run(Package::OpenAiEmbeddings, way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_receipts_and_exceptions_of_the_package_and_its_pages() {
    let (_clean_room, way) = in_process(model()).await;
    run(Package::Cleanroom, way.clone()).await;
    run(Package::Documentation, way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_on_node_in_process() {
    let (_clean_room, way) = in_process(model()).await;
    run(Package::Node("openai"), way.clone()).await;
    run(Package::Node("anthropic"), way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_and_the_vercel_sdk_on_node_in_process() {
    let (_clean_room, way) = in_process(tools_model()).await;
    run(Package::Node("tools"), way.clone()).await;
    run(Package::Node("agents"), way.clone()).await;
    run(Package::Vercel, way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_on_node_in_process() {
    let (_clean_room, way) = in_process(embedding_model::for_embeddings(&model(), 1)).await;
    run(Package::Node("embeddings"), way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_receipts_and_exceptions_of_the_node_package_and_its_pages() {
    let (_clean_room, way) = in_process(model()).await;
    run(Package::NodeCleanroom, way.clone()).await;
    run(Package::NodeTypes, way.clone()).await;
    run(Package::NodeDocumentation, way).await;
}
