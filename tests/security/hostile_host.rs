//! The host is the adversary. Each case is refused before any application byte, with an error of its own.
//!
//! The partner here is the real one, on real sockets. The adversary is scripted; where it needs evidence it holds a genuine
//! security module of the very root that the partner trusts, which is more than a real host has.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use cleanroom_attestation::channel::FrameKind;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_channel::frames::Frame;
use cleanroom_channel::identity::Identity;
use cleanroom_channel::tls;
use cleanroom_partner::channel::{ChannelError, RelyingParty};
use cleanroom_partner::clock::now;
use cleanroom_tests::liar::{Liar, Lie, after};
use cleanroom_tests::official::{self, Package};
use cleanroom_tests::platform::{World, model_digest};
use cleanroom_worker::channel::Acceptor;
use rustls::crypto::aws_lc_rs::kx_group::{SECP384R1, X25519};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What the partner would send if it believed the other end.
const SECRET: &[u8] = b"a prompt that nobody else may read";

/// The partner tries to hold a session and, if it gets one, sends its secret.
async fn partner(party: &RelyingParty, stream: UnixStream) -> Result<(), ChannelError> {
    let attested = party.challenge(stream).await?.appraise(now())?.confirm().await?;
    let mut stream = attested.into_stream();
    stream.write_all(SECRET).await.unwrap();
    stream.shutdown().await.unwrap();
    Ok(())
}

/// Runs one lie; gives the partner's code and everything that the adversary could read after the evidence.
async fn meet_liar(lie: Lie) -> (Option<&'static str>, Vec<u8>) {
    let world = World::new();
    let party = world.partner();
    let committed = if lie == Lie::Model { Sha256Digest::of(&[b"other weights"]) } else { model_digest() };
    let liar = Liar::boot(world.device(world.accepted.clone()), committed).await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let adversary = tokio::spawn(async move {
        let (stream, hello) = liar.hello(theirs).await;
        let evidence = liar.evidence(&stream, &hello, lie);
        after(stream, evidence.bytes()).await
    });
    let code = partner(&party, ours).await.err().map(|error| {
        assert!(error.is_refusal(), "{lie:?}: {error}");
        error.code()
    });
    (code, adversary.await.unwrap())
}

#[tokio::test]
async fn the_control_without_a_lie_gets_the_secret() {
    // Without this, the cases below could pass because the adversary cannot read anything at all.
    let (code, received) = meet_liar(Lie::Nothing).await;
    assert_eq!(code, None);
    assert!(received.ends_with(SECRET));
    assert_eq!(received[0], FrameKind::Finished.code());
}

#[tokio::test]
async fn every_lie_has_its_own_refusal_and_gets_nothing() {
    for (lie, code) in LIES {
        let (actual, received) = meet_liar(lie).await;
        assert_eq!(actual, Some(code), "{lie:?}");
        assert_eq!(received, b"", "{lie:?}: the partner sent something");
    }
}

/// Each lie of an attester, and the code of its refusal.
const LIES: [(Lie, &str); 12] = [
    (Lie::PartnerLeaf, "session-mismatch"),
    (Lie::EnclaveLeaf, "session-mismatch"),
    (Lie::Binder, "session-mismatch"),
    (Lie::Group, "session-mismatch"),
    (Lie::Nonce, "nonce-mismatch"),
    (Lie::Purpose, "purpose-mismatch"),
    (Lie::ForeignUserData, "purpose-mismatch"),
    (Lie::Signature, "receipt-key-signature"),
    (Lie::ReceiptKey, "pcr17-mismatch"),
    (Lie::Model, "pcr16-mismatch"),
    (Lie::FlippedBit, "document-signature"),
    (Lie::Release, "unexpected-release"),
];

#[tokio::test]
async fn another_image_is_refused() {
    let world = World::new();
    let other = World::new();
    // The same root, another image: exactly what a host can start.
    let enclave = world.enclave(other_image(&world)).await;
    assert_eq!(refusal_by(&world.partner(), enclave).await, "pcr0-mismatch");
    // The same image under another root: a host's own security module.
    let enclave = other.enclave(world.accepted.clone()).await;
    assert_eq!(refusal_by(&world.partner(), enclave).await, "root-not-trusted");
}

fn other_image(world: &World) -> cleanroom_software_nsm::Measurements {
    let _ = world;
    cleanroom_software_nsm::Measurements::of_program(b"a modified program", "", b"")
}

#[tokio::test]
async fn debug_mode_is_refused() {
    let world = World::new();
    let enclave = world.enclave(world.accepted.clone().in_debug_mode()).await;
    assert_eq!(refusal_by(&world.partner(), enclave).await, "debug-enclave");
}

async fn refusal_by(party: &RelyingParty, enclave: Acceptor) -> &'static str {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let enclave = tokio::spawn(async move { enclave.accept(theirs).await.err().map(|error| error.code()) });
    let error = partner(party, ours).await.err().unwrap();
    // The enclave saw the partner leave without its Finished, so no request can follow.
    assert_eq!(enclave.await.unwrap(), Some("truncated"));
    assert!(error.is_refusal(), "{error}");
    error.code()
}

#[tokio::test]
async fn evidence_relayed_from_a_genuine_enclave_is_refused() {
    let world = World::new();
    let party = world.partner();
    let enclave = world.enclave(world.accepted.clone()).await;
    let (partner_end, host_end) = UnixStream::pair().unwrap();
    let (host_to_enclave, enclave_end) = UnixStream::pair().unwrap();
    let enclave = tokio::spawn(async move { enclave.accept(enclave_end).await.is_ok() });
    // The host ends the partner's TLS itself, opens its own to the genuine enclave, and passes the frames on.
    let host = tokio::spawn(relay(host_end, host_to_enclave));
    assert_eq!(partner(&party, partner_end).await.err().unwrap().code(), "session-mismatch");
    assert_eq!(host.await.unwrap(), b"");
    assert!(!enclave.await.unwrap(), "the enclave must not take the host for the partner");
}

/// Ends both connections' TLS and passes the frames on.
async fn relay(host_end: UnixStream, host_to_enclave: UnixStream) -> Vec<u8> {
    let host = Identity::generate().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&host).unwrap()));
    let connector = TlsConnector::from(Arc::new(tls::client_config(&host).unwrap()));
    let mut from_partner = acceptor.accept(host_end).await.unwrap();
    let mut to_enclave = connector.connect(tls::server_name(), host_to_enclave).await.unwrap();
    let hello = Frame::read(&mut from_partner, &[FrameKind::Hello]).await.unwrap();
    hello.write(&mut to_enclave).await.unwrap();
    let evidence = Frame::read(&mut to_enclave, &[FrameKind::Evidence]).await.unwrap();
    after(from_partner, evidence.bytes()).await
}

#[tokio::test]
async fn evidence_replayed_from_another_session_is_refused() {
    let world = World::new();
    let party = world.partner();
    let liar = Liar::boot(world.device(world.accepted.clone()), model_digest()).await;
    // One honest session, whose evidence the host keeps.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let honest = async {
        let (stream, hello) = liar.hello(theirs).await;
        let evidence = liar.evidence(&stream, &hello, Lie::Nothing);
        after(stream, evidence.bytes()).await;
        evidence
    };
    let (evidence, first) = tokio::join!(honest, partner(&party, ours));
    first.unwrap();
    // The same partner again, and the kept evidence.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let replay = async {
        let (stream, _) = liar.hello(theirs).await;
        after(stream, evidence.bytes()).await
    };
    let (received, second) = tokio::join!(replay, partner(&party, ours));
    assert_eq!(second.err().unwrap().code(), "nonce-mismatch");
    assert_eq!(received, b"");
}

/// The adversary answers the partner's `Hello` with raw bytes and hangs up.
async fn answer_with(answer: impl Fn(&Frame) -> Vec<u8>) -> &'static str {
    let world = World::new();
    let party = world.partner();
    let liar = Liar::boot(world.device(world.accepted.clone()), model_digest()).await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let adversary = async {
        let (mut stream, hello) = liar.hello(theirs).await;
        stream.write_all(&answer(&hello)).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received).await;
        received
    };
    let (received, result) = tokio::join!(adversary, partner(&party, ours));
    assert_eq!(received, b"");
    result.err().unwrap().code()
}

#[tokio::test]
async fn the_partners_own_messages_reflected_are_refused() {
    assert_eq!(answer_with(|hello| hello.bytes().to_vec()).await, "frame-unexpected");
}

#[tokio::test]
async fn frames_out_of_order_or_shape_are_refused() {
    // Reordered: what the partner should send comes from the other side.
    assert_eq!(
        answer_with(|_| Frame::new(FrameKind::Finished, &[0; 48]).bytes().to_vec()).await,
        "frame-unexpected"
    );
    // Truncated: inside the header, inside the body, nothing at all.
    assert_eq!(answer_with(|_| vec![2, 0, 0]).await, "truncated");
    assert_eq!(answer_with(|_| vec![2, 0, 0, 0, 9, 1, 2]).await, "truncated");
    assert_eq!(answer_with(|_| Vec::new()).await, "truncated");
    // Oversized: refused at the header, before a byte of the body is read.
    assert_eq!(answer_with(|_| vec![2, 0xff, 0xff, 0xff, 0xff]).await, "frame-too-long");
    // Whole, and not what an Evidence frame has inside.
    assert_eq!(
        answer_with(|_| Frame::new(FrameKind::Evidence, b"junk").bytes().to_vec()).await,
        "frame-malformed"
    );
    assert_eq!(
        answer_with(|_| Frame::new(FrameKind::Refusal, &[9]).bytes().to_vec()).await,
        "frame-malformed"
    );
    // A kind that does not exist.
    assert_eq!(answer_with(|_| vec![77, 0, 0, 0, 0]).await, "frame-unexpected");
}

#[tokio::test]
async fn the_host_ending_tls_itself_without_an_enclave_is_refused() {
    let code = answer_with(made_up_evidence).await;
    assert!(code.starts_with("cbor-") || code.starts_with("envelope-"), "{code}");
}

/// Evidence without a document that any platform signed.
fn made_up_evidence(_: &Frame) -> Vec<u8> {
    let frame = cleanroom_attestation::channel::EvidenceFrame {
        document: b"a document of the host's own making",
        release: b"",
        lease: b"",
        model_digest: model_digest(),
        signature: &[0; 64],
    };
    Frame::new(FrameKind::Evidence, &frame.encode()).bytes().to_vec()
}

#[tokio::test]
async fn a_second_evidence_frame_breaks_the_session() {
    let world = World::new();
    let party = world.partner();
    let liar = Liar::boot(world.device(world.accepted.clone()), model_digest()).await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let adversary = async {
        let (stream, hello) = liar.hello(theirs).await;
        let evidence = liar.evidence(&stream, &hello, Lie::Nothing);
        after(stream, &[evidence.bytes(), evidence.bytes()].concat()).await
    };
    let session = async {
        let attested = party.challenge(ours).await.unwrap().appraise(now()).unwrap().confirm().await.unwrap();
        let lifetime = std::time::Duration::from_secs(60);
        let session = cleanroom_partner::session::Session::start(attested, lifetime).await.unwrap();
        let request = http::Request::new(http_body_util::Full::new(bytes::Bytes::from_static(SECRET)));
        session.send(request).await.err().unwrap().code()
    };
    let (received, code) = tokio::join!(adversary, session);
    assert_eq!(code, "connection-lost");
    assert!(!received.windows(SECRET.len()).any(|window| window == SECRET));
}

/// The partner meets a TLS server of another kind.
async fn meet_tls(config: rustls::ServerConfig) -> &'static str {
    let party = World::new().partner();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let adversary = async {
        let mut received = Vec::new();
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(theirs).await {
            let _ = stream.read_to_end(&mut received).await;
        }
        received
    };
    let (received, result) = tokio::join!(adversary, partner(&party, ours));
    assert_eq!(received, b"");
    let error = result.err().unwrap();
    assert!(error.is_refusal(), "{error}");
    error.code()
}

#[tokio::test]
async fn another_application_protocol_is_refused() {
    assert_eq!(meet_tls(speaking(vec![b"h2".to_vec()])).await, "tls-alpn");
    assert_eq!(meet_tls(speaking(Vec::new())).await, "tls-alpn");
}

/// A TLS server with other application protocols.
fn speaking(protocols: Vec<Vec<u8>>) -> rustls::ServerConfig {
    let mut config = tls::server_config(&Identity::generate().unwrap()).unwrap();
    config.alpn_protocols = protocols;
    config
}

#[tokio::test]
async fn another_group_is_refused() {
    assert_eq!(meet_tls(in_classical_groups()).await, "tls-profile");
}

/// A TLS server without X25519MLKEM768.
fn in_classical_groups() -> rustls::ServerConfig {
    let provider = rustls::crypto::CryptoProvider {
        kx_groups: vec![X25519, SECP384R1],
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let key = Identity::generate().unwrap();
    let private = rustls::pki_types::pem::PemObject::from_pem_slice(key.to_pem().as_bytes()).unwrap();
    rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.certificate().clone()], private)
        .unwrap()
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let party = World::new().partner();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (rest, result) = tokio::join!(answer_in_tls_1_2(&mut theirs), partner(&party, ours));
    assert_eq!(result.err().unwrap().code(), "tls-profile");
    // Nothing but an alert (content type 21) follows.
    assert_eq!(rest.first(), Some(&21));
    assert!(rest.len() <= 7, "{rest:?}");
}

/// Gives everything that follows.
async fn answer_in_tls_1_2(theirs: &mut UnixStream) -> Vec<u8> {
    let mut hello = vec![0; 5];
    theirs.read_exact(&mut hello).await.unwrap();
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    theirs.read_exact(&mut vec![0; length]).await.unwrap();
    // A ServerHello of TLS 1.2 (RFC 5246 section 7.4.1.3): no extension says 1.3.
    let mut body = vec![0x03, 0x03];
    body.extend([0x42; 32]);
    body.push(0);
    body.extend([0xc0, 0x2c, 0]);
    let handshake = [&[2, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
    let record = [&[22, 3, 3, 0, u8::try_from(handshake.len()).unwrap()][..], &handshake].concat();
    theirs.write_all(&record).await.unwrap();
    let mut rest = Vec::new();
    let _ = theirs.read_to_end(&mut rest).await;
    rest
}

/// What a host does with a connection. It gives everything that it could read after its answer.
type Trick = Box<dyn Fn(UnixStream) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> + Send + Sync>;

fn trick<F, Fut>(play: F) -> Trick
where
    F: Fn(UnixStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Vec<u8>> + Send + 'static,
{
    Box::new(move |stream| Box::pin(play(stream)))
}

/// All tricks of this file that end before the proof.
async fn tricks(world: &World) -> Vec<(String, Trick)> {
    let mut tricks = Vec::new();
    for (lie, _) in LIES {
        let committed =
            if lie == Lie::Model { Sha256Digest::of(&[b"other weights"]) } else { model_digest() };
        let liar = Arc::new(Liar::boot(world.device(world.accepted.clone()), committed).await);
        tricks.push((format!("{lie:?}"), lying(liar, lie)));
    }
    for (name, enclave) in [
        ("another image", world.enclave(other_image(world)).await),
        ("debug mode", world.enclave(world.accepted.clone().in_debug_mode()).await),
        ("another root", World::new().enclave(world.accepted.clone()).await),
    ] {
        tricks.push((name.to_owned(), enclave_of(enclave)));
    }
    tricks.push(("relayed".to_owned(), relaying(world.enclave(world.accepted.clone()).await)));
    let liar = Arc::new(Liar::boot(world.device(world.accepted.clone()), model_digest()).await);
    let kept = Arc::new(kept_evidence(world, &liar).await);
    let (replaying, evidence) = (Arc::clone(&liar), Arc::clone(&kept));
    tricks.push((
        "replayed".to_owned(),
        trick(move |stream| {
            let (liar, evidence) = (Arc::clone(&replaying), Arc::clone(&evidence));
            async move { after(liar.hello(stream).await.0, evidence.bytes()).await }
        }),
    ));
    let frame = |kind, body: &[u8]| Frame::new(kind, body).bytes().to_vec();
    let answers = [
        ("out of order", frame(FrameKind::Finished, &[0; 48])),
        ("half a header", vec![2, 0, 0]),
        ("half a body", vec![2, 0, 0, 0, 9, 1, 2]),
        ("nothing", Vec::new()),
        ("oversized", vec![2, 0xff, 0xff, 0xff, 0xff]),
        ("junk", frame(FrameKind::Evidence, b"junk")),
        ("an unknown refusal", frame(FrameKind::Refusal, &[9])),
        ("an unknown kind", vec![77, 0, 0, 0, 0]),
    ];
    for (name, answer) in answers {
        tricks.push((name.to_owned(), answering(&liar, move |_| answer.clone())));
    }
    tricks.push(("reflected".to_owned(), answering(&liar, |hello| hello.bytes().to_vec())));
    tricks.push(("made up".to_owned(), answering(&liar, made_up_evidence)));
    for (name, config) in [
        ("h2 alone", speaking(vec![b"h2".to_vec()])),
        ("no protocol", speaking(Vec::new())),
        ("classical groups", in_classical_groups()),
    ] {
        tricks.push((name.to_owned(), speaking_tls(config)));
    }
    let old = trick(|mut stream| async move {
        let rest = answer_in_tls_1_2(&mut stream).await;
        // An alert (content type 21) is all that may follow.
        if rest.first() == Some(&21) && rest.len() <= 7 { Vec::new() } else { rest }
    });
    tricks.push(("TLS 1.2".to_owned(), old));
    tricks
}

fn lying(liar: Arc<Liar>, lie: Lie) -> Trick {
    trick(move |stream| {
        let liar = Arc::clone(&liar);
        async move {
            let (stream, hello) = liar.hello(stream).await;
            let evidence = liar.evidence(&stream, &hello, lie);
            after(stream, evidence.bytes()).await
        }
    })
}

fn answering(liar: &Arc<Liar>, answer: impl Fn(&Frame) -> Vec<u8> + Send + Sync + 'static) -> Trick {
    let (liar, answer) = (Arc::clone(liar), Arc::new(answer));
    trick(move |stream| {
        let (liar, answer) = (Arc::clone(&liar), Arc::clone(&answer));
        async move {
            let (mut stream, hello) = liar.hello(stream).await;
            stream.write_all(&answer(&hello)).await.unwrap();
            let _ = stream.shutdown().await;
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received).await;
            received
        }
    })
}

fn enclave_of(enclave: Acceptor) -> Trick {
    let enclave = Arc::new(enclave);
    trick(move |stream| {
        let enclave = Arc::clone(&enclave);
        async move { enclave.accept(stream).await.map_or_else(|_| Vec::new(), |_| b"a session".to_vec()) }
    })
}

fn relaying(enclave: Acceptor) -> Trick {
    let enclave = Arc::new(enclave);
    trick(move |stream| {
        let enclave = Arc::clone(&enclave);
        async move {
            let (host, enclaves) = UnixStream::pair().unwrap();
            tokio::spawn(async move { enclave.accept(enclaves).await.is_ok() });
            relay(stream, host).await
        }
    })
}

fn speaking_tls(config: rustls::ServerConfig) -> Trick {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    trick(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut received = Vec::new();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read_to_end(&mut received).await;
            }
            received
        }
    })
}

/// The evidence of an honest session with somebody else.
async fn kept_evidence(world: &World, liar: &Liar) -> Frame {
    let party = world.partner();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let honest = async {
        let (stream, hello) = liar.hello(theirs).await;
        let evidence = liar.evidence(&stream, &hello, Lie::Nothing);
        after(stream, evidence.bytes()).await;
        evidence
    };
    tokio::join!(honest, partner(&party, ours)).0
}

/// Plays a trick on whoever connects to `at`, and keeps what it could read.
fn serve(trick: Trick, at: &Path) -> Arc<Mutex<Vec<u8>>> {
    let (read, trick) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::new(trick));
    let (kept, listener) = (Arc::clone(&read), UnixListener::bind(at).unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (kept, trick) = (Arc::clone(&kept), Arc::clone(&trick));
            tokio::spawn(async move {
                let received = trick(stream).await;
                kept.lock().unwrap().extend(received);
            });
        }
    });
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_package_refuses_every_trick_with_the_programs_code_and_sends_nothing() {
    refuses_every_trick(Package::HostileHost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_package_refuses_every_trick_with_the_programs_code_and_sends_nothing() {
    refuses_every_trick(Package::NodeHostileHost).await;
}

async fn refuses_every_trick(package: Package) {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let party = world.partner();
    let (mut hosts, mut recorders) = (Vec::new(), Vec::new());
    for (number, (name, trick)) in tricks(&world).await.into_iter().enumerate() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (received, refused) = tokio::join!(trick(theirs), partner(&party, ours));
        assert_eq!(received, b"", "{name}");
        let path = folder.path().join(format!("{number}.sock"));
        hosts.push((name.clone(), format!("unix:{}", path.display()), refused.err().unwrap().code()));
        recorders.push((name, serve(trick, &path)));
    }
    let files = world.partner_files(folder.path(), model_digest(), hosts[0].1.clone());
    let hosts = serde_json::to_string(&hosts).unwrap();
    let ran = tokio::task::spawn_blocking(move || {
        official::run_with(package, files, &[("CLEANROOM_HOSTS", &hosts)])
    });
    official::expect_passed(ran.await.unwrap().unwrap());
    for (name, read) in recorders {
        assert_eq!(*read.lock().unwrap(), b"", "{name}: the package sent something");
    }
}
