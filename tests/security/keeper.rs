//! The keeper beside a worker that was taken over: it shows and signs what its own state permits, and ends with a worker that says
//! anything else.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use cleanroom_attestation::channel::{
    Binder, EvidenceFrame, FrameKind, HelloFrame, ModelId, Nonce, RefusalCode, Transcript, boot_measurement,
    encode_frame, length_prefixed,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::measurement::extended_once;
use cleanroom_attestation::model::model_digest;
use cleanroom_attestation::receipt::{Commitment, Finish, SignedReceipt};
use cleanroom_attestation::release::{Accepted, BootMillis, Refusal};
use cleanroom_channel::identity::Identity;
use cleanroom_guard::Clock;
use cleanroom_keeper::Halt;
use cleanroom_keeper::security_module::Device;
use cleanroom_keeper::{self as keeper, KeeperPlatform, WorkerEnd};
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_link::load::Load;
use cleanroom_protocol::{
    ChannelQuestion, EndQuestion, EndReason, Evidence, FromKeeper, FromWorker, HEADER_BYTES, Header,
    KeeperKind, Kind as _, ProtocolError, ReceiptQuestion, SessionTicket, Start, WorkerKind,
};
use cleanroom_tests::authorities::Authorities;
use cleanroom_tests::clean_room::Control;
use cleanroom_tests::platform::{SoftwareDevice, World, model_id};
use cleanroom_tests::store::Store;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// No model, and nobody but a worker would notice.
const MODEL: &[u8] = b"GGUF, or so it says";

/// The security module, which answers only while it is open, and nothing but errors while it fails.
struct Gate {
    device: SoftwareDevice,
    open: Arc<(Mutex<bool>, Condvar)>,
    fails: Arc<AtomicBool>,
}

impl Device for Gate {
    fn process(&mut self, request: Request) -> Response {
        let (open, changed) = &*self.open;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        match self.fails.load(Ordering::SeqCst) {
            true => Response::Error(ErrorCode::InternalError),
            false => self.device.process(request),
        }
    }
}

/// The end of the gate that the test has. Its end opens the gate, so that a test that fails ends.
struct Key(Arc<(Mutex<bool>, Condvar)>);

impl Key {
    fn set(&self, open: bool) {
        *self.0.0.lock().unwrap() = open;
        self.0.1.notify_all();
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.set(true);
    }
}

/// A keeper, and its worker's end of the connection in a stranger's hands.
struct Stage {
    worker: UnixStream,
    keeper: JoinHandle<Result<(), Halt>>,
    start: Start,
    leaf: Sha384Digest,
    device: SoftwareDevice,
    gate: Key,
    fails: Arc<AtomicBool>,
    control: UnixStream,
    /// The keeper's clock, in milliseconds.
    clock: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// Up to the point where the worker has the model.
    async fn before_ready(world: &World, configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (ours, mut worker) = UnixStream::pair().unwrap();
        let device = world.device(world.accepted.clone());
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let now = Arc::clone(&clock);
        let open = Arc::new((Mutex::new(true), Condvar::new()));
        let fails = Arc::new(AtomicBool::new(false));
        let platform = KeeperPlatform {
            device: Gate { device: device.clone(), open: Arc::clone(&open), fails: Arc::clone(&fails) },
            control: Some(listener),
            clock: Clock::from_fn(move || BootMillis(now.load(Ordering::SeqCst))),
            config: format!("version = 1\nmodel = \"demo\"\npartners = \"any\"\n{configuration}"),
            store: Store::plain(MODEL.to_vec()),
            model_limit: u64::MAX,
            worker: ours,
            open: || Ok(()),
        };
        let keeper = tokio::spawn(keeper::run(platform, std::future::pending()));
        let leaf = Sha384Digest::of(&[b"the worker's certificate"]);
        worker.write_all(&FromWorker::Leaf(leaf).frame(0)).await.unwrap();
        let (_, FromKeeper::Start(start)) = receive(&mut worker).await else { panic!("expected the start") };
        let control = UnixStream::connect(path).await.unwrap();
        Self { worker, keeper, start, leaf, device, gate: Key(open), fails, control, clock, _folder: folder }
    }

    async fn ready(world: &World, configuration: &str) -> Self {
        let mut stage = Self::before_ready(world, configuration).await;
        let mut model = vec![0; MODEL.len()];
        stage.worker.read_exact(&mut model).await.unwrap();
        assert_eq!(model, MODEL);
        stage.say(0, &FromWorker::Ready).await;
        assert!(matches!(receive(&mut stage.worker).await, (_, FromKeeper::Serve)));
        stage
    }

    async fn say(&mut self, id: u32, what: &FromWorker) {
        self.worker.write_all(&what.frame(id)).await.unwrap();
    }

    /// Asks for evidence of a session with the holder of `partner`.
    async fn channel(&mut self, model: &str, partner: &Identity) -> Result<Vec<u8>, RefusalCode> {
        self.say(7, &channel(model, partner)).await;
        match receive(&mut self.worker).await {
            (7, FromKeeper::Evidence(evidence)) => Ok(evidence.body),
            (7, FromKeeper::Refused(code)) => Err(code),
            (id, other) => panic!("expected an answer to question 7, got {other:?} to {id}"),
        }
    }

    /// How the keeper ends.
    async fn end(self) -> WorkerEnd {
        match self.keeper.await.unwrap() {
            Err(Halt::Worker(end)) => end,
            other => panic!("expected the keeper to halt, got {other:?}"),
        }
    }
}

async fn receive(worker: &mut UnixStream) -> (u32, FromKeeper) {
    let mut header = [0; HEADER_BYTES];
    worker.read_exact(&mut header).await.unwrap();
    let header = Header::<KeeperKind>::parse(header).unwrap();
    let mut body = vec![0; header.body_bytes()];
    worker.read_exact(&mut body).await.unwrap();
    (header.id(), FromKeeper::decode(header.kind(), &body).unwrap())
}

fn hello(model: &str) -> HelloFrame {
    HelloFrame { nonce: Nonce::from_bytes([1; 32]), model_id: ModelId::new(model).unwrap() }
}

fn channel(model: &str, partner: &Identity) -> FromWorker {
    let hello = encode_frame(FrameKind::Hello, &hello(model).encode());
    let binder = Binder::from_exported([2; 32]);
    let certificate = partner.certificate().to_vec();
    FromWorker::Channel(ChannelQuestion::new(hello, binder, certificate, 0x1302, 0x11ec).unwrap())
}

fn under(authorities: &Authorities) -> String {
    format!("[release]\nroot = '''{}'''\n", authorities.root_text())
}

/// A request that has ended, as a worker tells it.
fn receipt(session: SessionTicket) -> FromWorker {
    FromWorker::Receipt(ReceiptQuestion {
        session,
        id: "req-1".parse().unwrap(),
        request: Commitment { sha256: Sha256Digest::of(&[b"request"]), bytes: 7 },
        response: Commitment { sha256: Sha256Digest::of(&[b"response"]), bytes: 8 },
        finish: Finish::Finished,
        code: None,
        safeguard: None,
        started: BootMillis(u64::MAX),
        exchange: None,
    })
}

#[tokio::test]
async fn receipts_are_for_the_keepers_own_sessions_and_everything_but_the_request_is_the_keepers() {
    let changes: [fn(&mut SessionTicket); 3] = [
        |session| session.partner = Sha256Digest::of(&[b"another partner"]),
        |session| session.transcript = Sha384Digest::of(&[b"another session"]),
        |session| session.ticket[31] ^= 1,
    ];
    for change in changes {
        let mut stage = Stage::ready(&World::new(), "").await;
        let partner = Identity::generate().unwrap();
        stage.say(7, &channel("demo", &partner)).await;
        let (7, FromKeeper::Evidence(evidence)) = receive(&mut stage.worker).await else {
            panic!("no evidence")
        };
        let Evidence { transcript, ticket, .. } = evidence;
        let mut session = SessionTicket { transcript, partner: partner.key_digest(), ticket };
        let mut last = None;
        for number in 1..=3 {
            stage.say(number, &receipt(session)).await;
            let (id, FromKeeper::Receipt(envelope)) = receive(&mut stage.worker).await else {
                panic!("no receipt")
            };
            let signed = SignedReceipt::verify(&envelope, &stage.start.receipt_key).unwrap();
            let receipt = signed.receipt();
            assert_eq!((id, receipt.number), (number, u64::from(number)));
            // The boot record has the first place.
            assert_eq!((receipt.index, receipt.previous_sha256), (u64::from(number), last));
            assert_eq!((receipt.session, receipt.partner), (transcript, partner.key_digest()));
            assert_eq!((receipt.model.as_str(), receipt.model_sha256), ("demo", stage.start.model_digest));
            assert!(receipt.started_ms <= receipt.ended_ms, "a start in the future is none");
            last = Some(signed.digest());
        }
        change(&mut session);
        stage.say(9, &receipt(session)).await;
        assert_eq!(stage.worker.read(&mut [0]).await.unwrap_or(0), 0, "the keeper answers");
        assert!(matches!(stage.end().await, WorkerEnd::OutOfTurn(WorkerKind::Receipt)));
    }
}

#[tokio::test]
async fn the_model_is_committed_to_before_the_worker_has_a_byte_of_it() {
    let mut stage = Stage::before_ready(&World::new(), "").await;
    let digest = model_digest(MODEL);
    assert_eq!((stage.start.model_digest, stage.start.model_bytes), (digest, MODEL.len() as u64));
    let expected = extended_once(boot_measurement::model(&digest).as_bytes());
    match stage.device.process(Request::DescribePCR { index: boot_measurement::MODEL_PCR }) {
        Response::DescribePCR { lock: true, data } => assert_eq!(data, expected.as_bytes()),
        other => panic!("expected a locked PCR, got {other:?}"),
    }
}

#[tokio::test]
async fn evidence_is_made_of_the_keepers_own_leaf_model_and_receipt_key() {
    let (world, partner) = (World::new(), Identity::generate().unwrap());
    let mut stage = Stage::ready(&world, "").await;
    stage.say(3, &channel("demo", &partner)).await;
    let (3, FromKeeper::Evidence(evidence)) = receive(&mut stage.worker).await else { panic!("no evidence") };
    let transcript = Transcript {
        nonce: &Nonce::from_bytes([1; 32]),
        binder: &Binder::from_exported([2; 32]),
        enclave_leaf: stage.leaf,
        partner_leaf: partner.leaf_digest(),
        cipher_suite: 0x1302,
        group: 0x11ec,
        model_id: &model_id(),
        model_digest: model_digest(MODEL),
        release: None,
        lease: None,
        receipt_key: &stage.start.receipt_key,
    };
    assert_eq!(evidence.transcript, transcript.digest());
    let frame = EvidenceFrame::decode(&evidence.body).unwrap();
    assert_eq!((frame.model_digest, frame.release, frame.lease), (model_digest(MODEL), &[][..], &[][..]));
    assert_eq!(stage.channel("another", &partner).await, Err(RefusalCode::UnknownModel));
}

#[tokio::test]
async fn what_is_not_of_the_protocol_ends_the_enclave() {
    let header = |code: u8, length: u32| [&[code, 0, 0, 0, 0][..], &length.to_be_bytes()].concat();
    let framed = |code: u8, body: &[u8]| [header(code, body.len() as u32).as_slice(), body].concat();
    // "Sign these bytes" is nothing that can be said.
    let sign = framed(5, &length_prefixed(&[&[1; 48], b"chatcmpl-1", b"these bytes"]));
    let other = framed(0x7f, b"");
    // How much there is to do is one of three answers.
    let load = framed(10, &length_prefixed(&[&[3]]));
    let no_receipt = framed(9, b"");
    let empty = framed(3, b"");
    let longer = framed(2, &length_prefixed(&[b"and more"]));
    for (bytes, expected) in [
        (sign, ProtocolError::Malformed(5)),
        (other, ProtocolError::Kind(0x7f)),
        (load, ProtocolError::Malformed(10)),
        (no_receipt, ProtocolError::Malformed(9)),
        (empty, ProtocolError::Malformed(3)),
        (
            header(3, 1 << 30),
            ProtocolError::TooLong { code: 3, limit: WorkerKind::Channel.limit(), actual: 1 << 30 },
        ),
        (longer, ProtocolError::TooLong { code: 2, limit: 0, actual: 12 }),
    ] {
        let mut stage = Stage::ready(&World::new(), "").await;
        stage.worker.write_all(&bytes).await.unwrap();
        match stage.end().await {
            WorkerEnd::Protocol(error) => assert_eq!(error, expected),
            other => panic!("expected {expected:?}, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn whoever_speaks_out_of_turn_ends_the_enclave() {
    let other_leaf = FromWorker::Leaf(Sha384Digest::of(&[b"another certificate"]));
    let transcript = Sha384Digest::of(&[b"t"]);
    let reason = EndReason::from(Refusal::LeaseLapsed);
    // Without release control nothing is ever ended.
    let end = FromWorker::End(EndQuestion { transcript, stream: "msg_1".to_owned(), reason });
    for said in [other_leaf, FromWorker::Ready, FromWorker::Drained, FromWorker::Done, end] {
        let mut stage = Stage::ready(&World::new(), "").await;
        stage.say(0, &said).await;
        match stage.end().await {
            WorkerEnd::OutOfTurn(kind) => assert_eq!(kind, said.kind()),
            other => panic!("expected {:?} to be out of turn, got {other:?}", said.kind()),
        }
    }
    // No evidence before the model is loaded.
    let mut stage = Stage::before_ready(&World::new(), "").await;
    stage.say(0, &FromWorker::Public(Nonce::from_bytes([1; 32]))).await;
    assert!(matches!(stage.end().await, WorkerEnd::OutOfTurn(WorkerKind::Public)));
    // A worker that gives up says why, one that goes says nothing.
    let mut stage = Stage::before_ready(&World::new(), "").await;
    stage.say(0, &FromWorker::Failed("no memory".to_owned())).await;
    assert!(matches!(stage.end().await, WorkerEnd::Failed(reason) if reason == "no memory"));
    let mut stage = Stage::ready(&World::new(), "").await;
    stage.worker.shutdown().await.unwrap();
    assert!(matches!(stage.end().await, WorkerEnd::Gone));
}

#[tokio::test]
async fn questions_beyond_what_the_security_module_takes_are_refused() {
    // A public statement answers everybody, so there is one, and one whose answer is on its way.
    const AT_ONCE: u32 = 2;
    let mut stage = Stage::ready(&World::new(), "").await;
    stage.gate.set(false);
    for id in 0..=AT_ONCE {
        stage.say(id, &FromWorker::Public(Nonce::from_bytes([1; 32]))).await;
    }
    let refused = receive(&mut stage.worker).await;
    assert!(matches!(refused, (AT_ONCE, FromKeeper::Refused(RefusalCode::Busy))), "{refused:?}");
    stage.gate.set(true);
    let mut answered = Vec::new();
    for _ in 0..AT_ONCE {
        let (id, answer) = receive(&mut stage.worker).await;
        assert!(matches!(answer, FromKeeper::Public(_)), "{answer:?}");
        answered.push(id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..AT_ONCE).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_worker_that_does_not_follow_wins_no_session_after_a_halt() {
    let (world, authorities) = (World::new(), Authorities::new());
    let partner = Identity::generate().unwrap();
    let mut stage = Stage::ready(&world, &under(&authorities)).await;
    let refused = |refusal| Err(RefusalCode::NotServed(refusal));
    assert_eq!(stage.channel("demo", &partner).await, refused(Refusal::NoRelease));

    let (control, worker) = (stage.control, stage.worker);
    let mut control = Control::over(control);
    let release =
        authorities.sign(&authorities.release(1, world.image(), model_digest(MODEL), partner.key_digest()));
    // An honest worker confirms a release, the beginning of a lease, and the lease.
    let mut worker = confirming(worker, 3, async {
        let accepted = ControlAnswer::Accepted(Accepted::New);
        assert_eq!(control.send(ControlKind::RELEASE, &release).await, accepted);
        let request = control.ask().await;
        let lease = authorities.lease(&request, &release, &[]);
        assert_eq!(control.send(ControlKind::LEASE, &lease).await, accepted);
    })
    .await;
    worker.write_all(&channel("demo", &partner).frame(1)).await.unwrap();
    let (1, FromKeeper::Evidence(evidence)) = receive(&mut worker).await else { panic!("no evidence") };
    let frame = EvidenceFrame::decode(&evidence.body).unwrap();
    assert_eq!(frame.release, release, "the release that the keeper holds");

    // From here on the worker ignores what it is told. A stranger gets evidence and nothing else, so that anybody can audit.
    let (denial, _) = authorities.deny_model();
    control.throw(ControlKind::DENIAL, &denial).await;
    assert!(matches!(receive(&mut worker).await, (_, FromKeeper::Change(_))));
    worker.write_all(&channel("demo", &partner).frame(2)).await.unwrap();
    let answer = receive(&mut worker).await;
    let expected = RefusalCode::NotServed(Refusal::ModelDenied);
    assert!(matches!(answer, (2, FromKeeper::Refused(code)) if code == expected), "{answer:?}");
    // The end of a stream is still signed, for a reason of the list.
    let (transcript, reason) = (evidence.transcript, EndReason::from(Refusal::ModelDenied));
    let end = FromWorker::End(EndQuestion { transcript, stream: "msg_1".to_owned(), reason });
    worker.write_all(&end.frame(3)).await.unwrap();
    let answer = receive(&mut worker).await;
    let digest = Some(Sha256Digest::of(&[b""]));
    assert!(
        matches!(&answer, (3, FromKeeper::SignedEnd(end)) if end.release.is_some() && end.release != digest),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_worker_that_does_not_confirm_a_change_ends_the_enclave() {
    let (world, authorities) = (World::new(), Authorities::new());
    let mut stage = Stage::ready(&world, &under(&authorities)).await;
    let (denial, _) = authorities.deny_model();
    let (ours, other) = UnixStream::pair().unwrap();
    drop(other);
    let mut control = Control::over(std::mem::replace(&mut stage.control, ours));
    control.throw(ControlKind::DENIAL, &denial).await;
    assert!(matches!(receive(&mut stage.worker).await, (_, FromKeeper::Change(_))));
    // It says nothing. The machine sleeps, and timers stand still: the keeper looks at its clock every second.
    tokio::time::pause();
    let within = u64::try_from(keeper::CONFIRM_WITHIN.as_millis()).unwrap();
    stage.clock.fetch_add(within - 1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!stage.keeper.is_finished());
    stage.clock.fetch_add(1, Ordering::SeqCst);
    assert!(matches!(stage.end().await, WorkerEnd::Unconfirmed));
}

/// A stage, and a host that probes it.
async fn probed() -> (Stage, Control) {
    let mut stage = Stage::ready(&World::new(), "").await;
    let (ours, _) = UnixStream::pair().unwrap();
    let control = Control::over(std::mem::replace(&mut stage.control, ours));
    (stage, control)
}

#[tokio::test]
async fn an_enclave_works_when_its_worker_and_its_security_module_do() {
    let (mut stage, mut control) = probed().await;
    for load in [Load::Full, Load::Idle] {
        control.throw(ControlKind::Probe, b"").await;
        assert!(matches!(receive(&mut stage.worker).await, (_, FromKeeper::Probe)));
        stage.say(0, &FromWorker::Alive(load)).await;
        assert_eq!(control.answer().await, ControlAnswer::Alive(load));
        // A host that asks at once gets the same answer, and the worker is left in peace.
        assert_eq!(control.send(ControlKind::Probe, b"").await, ControlAnswer::Alive(load));
        stage.clock.fetch_add(500, Ordering::SeqCst);
    }
    stage.fails.store(true, Ordering::SeqCst);
    control.throw(ControlKind::Probe, b"").await;
    assert!(matches!(receive(&mut stage.worker).await, (_, FromKeeper::Probe)));
    stage.say(0, &FromWorker::Alive(Load::Idle)).await;
    assert_eq!(control.answer().await, ControlAnswer::Refused("security-module".to_owned()));
}

#[tokio::test]
async fn a_worker_that_stands_still_is_told_to_the_host_and_may_come_back() {
    let (mut stage, mut control) = probed().await;
    control.throw(ControlKind::Probe, b"").await;
    assert!(matches!(receive(&mut stage.worker).await, (_, FromKeeper::Probe)));
    tokio::time::pause();
    let within = u64::try_from(keeper::ALIVE_WITHIN.as_millis()).unwrap();
    stage.clock.fetch_add(within, Ordering::SeqCst);
    let silent = ControlAnswer::Refused("worker-silent".to_owned());
    assert_eq!(control.answer().await, silent);
    tokio::time::resume();
    // The question stands. The worker is not asked a second time, and its answer counts for the next probe.
    stage.clock.fetch_add(500, Ordering::SeqCst);
    control.throw(ControlKind::Probe, b"").await;
    stage.say(0, &FromWorker::Alive(Load::Busy)).await;
    assert_eq!(control.answer().await, ControlAnswer::Alive(Load::Busy));
    stage.say(0, &FromWorker::Alive(Load::Busy)).await;
    assert!(matches!(stage.end().await, WorkerEnd::OutOfTurn(WorkerKind::Alive)));
}

/// Confirms `count` changes while `doing` is done.
async fn confirming(mut worker: UnixStream, count: usize, doing: impl Future<Output = ()>) -> UnixStream {
    let confirm = async {
        for _ in 0..count {
            let (id, FromKeeper::Change(_)) = receive(&mut worker).await else { panic!("expected a change") };
            worker.write_all(&FromWorker::Done.frame(id)).await.unwrap();
        }
    };
    tokio::join!(confirm, doing);
    worker
}
