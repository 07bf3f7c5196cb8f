//! A whole clean room in this process: the enclave's own life on the real model, behind a relay that records and can cut.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model::model_digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::LeaseRequest;
use cleanroom_channel::identity::Identity;
use cleanroom_guard::Clock;
use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind};
use cleanroom_partner::address::Address;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::proxy::Proxy;
use cleanroom_partner::session::Sessions;
use cleanroom_runner::{Halt, Platform, run};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::official::Partner;
use crate::platform::{World, model_id};

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The bytes of the model that the project carries.
#[must_use]
pub fn model() -> Vec<u8> {
    std::fs::read(repository().join("models/demo.gguf")).expect("models/demo.gguf is part of the repository")
}

/// A running clean room and the relay before it.
pub struct CleanRoom {
    world: World,
    folder: tempfile::TempDir,
    /// The enclave's life.
    enclave: JoinHandle<Result<(), Halt>>,
    /// The identity of its model.
    model_digest: Sha256Digest,
    /// What the relay carried.
    pub recorder: Recorder,
}

/// A security module that still waits is let go, so that a test that fails ends.
impl Drop for CleanRoom {
    fn drop(&mut self) {
        self.world.hold(false);
    }
}

impl CleanRoom {
    /// Starts the enclave with `configuration` lines appended to the shortest configuration that admits everybody.
    pub async fn start(configuration: &str) -> Self {
        Self::start_on(World::new(), configuration, Clock::boot()).await
    }

    /// The same on the platform of `world`, with a clock.
    pub async fn start_on(world: World, configuration: &str, clock: Clock) -> Self {
        Self::start_with(world, configuration, clock, model()).await
    }

    /// The same with another model.
    pub async fn start_with(world: World, configuration: &str, clock: Clock, model: Vec<u8>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let enclave = folder.path().join("enclave.sock");
        let listener = UnixListener::bind(&enclave).unwrap();
        let config = if configuration.contains("partners") {
            format!("version = 1\nmodel = \"demo\"\n{configuration}\n")
        } else {
            format!("version = 1\nmodel = \"demo\"\npartners = \"any\"\n{configuration}\n")
        };
        let device = world.device(world.accepted.clone());
        let control = Some(UnixListener::bind(folder.path().join("control.sock")).unwrap());
        let model_digest = model_digest(&model);
        let platform = Platform { device, listener, control, clock, config, model };
        // An enclave that halts refuses connections, and the test that needs it fails.
        let life = tokio::spawn(async move { run(platform, std::future::pending()).await });
        let recorder = Recorder::start(folder.path().join("host.sock"), enclave).await;
        Self { world, folder, enclave: life, model_digest, recorder }
    }

    /// How the enclave ends.
    ///
    /// # Errors
    /// [`Halt`]: why it did not drain.
    pub async fn ended(&mut self) -> Result<(), Halt> {
        (&mut self.enclave).await.unwrap()
    }

    /// Where the host listens.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::Unix(self.folder.path().join("host.sock"))
    }

    /// The socket on which the host listens.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("host.sock")
    }

    /// A connection through the host.
    pub async fn stream(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    /// The host's end of the control connection.
    pub async fn control(&self) -> Control {
        Control(UnixStream::connect(self.folder.path().join("control.sock")).await.unwrap())
    }

    /// The platform.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// A proxy of a partner with a policy of its own.
    pub async fn proxy_under(&self, identity: &Identity, policy: Policy) -> SocketAddr {
        self.proxy_of(RelyingParty::new(identity, policy, model_id()).unwrap()).await
    }

    /// A partner with a key of its own.
    #[must_use]
    pub fn party(&self, identity: &Identity) -> RelyingParty {
        RelyingParty::new(identity, self.policy(), model_id()).unwrap()
    }

    /// The policy that accepts this clean room.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.world.policy_for(self.model_digest)
    }

    /// A partner with a key and the policy that accepts this clean room, as files.
    #[must_use]
    pub fn partner_files(&self) -> Partner {
        self.world.partner_files(self.folder.path(), self.model_digest, self.address().to_string())
    }

    /// A proxy of a partner with `identity`; gives its address.
    pub async fn proxy(&self, identity: &Identity) -> SocketAddr {
        self.proxy_of(self.party(identity)).await
    }

    /// A proxy of a partner; gives its address.
    pub async fn proxy_of(&self, party: RelyingParty) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sessions = Sessions::new(party, self.address());
        tokio::spawn(Proxy::new(sessions).serve(listener, std::future::pending()));
        address
    }
}

/// The host's end of a control connection.
pub struct Control<S = UnixStream>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Control<S> {
    /// Over a connection to an enclave's control socket.
    #[must_use]
    pub const fn over(stream: S) -> Self {
        Self(stream)
    }

    /// Sends one frame and leaves the answer unread.
    pub async fn throw(&mut self, kind: ControlKind, body: &[u8]) {
        self.0.write_all(&kind.frame(body)).await.unwrap();
    }

    /// Sends one frame and reads the answer.
    pub async fn send(&mut self, kind: ControlKind, body: &[u8]) -> ControlAnswer {
        self.throw(kind, body).await;
        self.answer().await
    }

    /// Reads the answer to a frame that was thrown.
    pub async fn answer(&mut self) -> ControlAnswer {
        let mut header = [0; CONTROL_HEADER_BYTES];
        self.0.read_exact(&mut header).await.unwrap();
        let (code, length) = ControlAnswer::parse_header(header).unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        ControlAnswer::parse(code, &body).unwrap()
    }

    /// Asks for a nonce.
    pub async fn ask(&mut self) -> LeaseRequest {
        match self.send(ControlKind::Ask, b"").await {
            ControlAnswer::Ask(request) => request,
            other => panic!("expected a nonce, got {other:?}"),
        }
    }
}

/// A relay between two Unix sockets that keeps every byte, and can cut every connection.
#[derive(Clone)]
pub struct Recorder {
    bytes: Arc<Mutex<Vec<u8>>>,
    from_enclave: Arc<Mutex<Vec<u8>>>,
    cut: watch::Sender<Option<usize>>,
    refuses: Arc<AtomicBool>,
}

impl Recorder {
    /// Listens at `at` and carries to `to`.
    pub async fn start(at: PathBuf, to: PathBuf) -> Self {
        let recorder = Self {
            bytes: Arc::default(),
            from_enclave: Arc::default(),
            cut: watch::channel(None).0,
            refuses: Arc::default(),
        };
        let listener = UnixListener::bind(at).unwrap();
        let this = recorder.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if this.refuses.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(target) = UnixStream::connect(&to).await else { continue };
                let (from_partner, to_partner) = stream.into_split();
                let (from_enclave, to_enclave) = target.into_split();
                tokio::spawn(this.clone().carry(from_partner, to_enclave, None));
                let answers = Some(Arc::clone(&this.from_enclave));
                tokio::spawn(this.clone().carry(from_enclave, to_partner, answers));
            }
        });
        recorder
    }

    async fn carry(
        self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        direction: Option<Arc<Mutex<Vec<u8>>>>,
    ) {
        let mut cut = self.cut.subscribe();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = tokio::select! {
                _ = cut.wait_for(|limit| limit.is_some_and(|limit| self.len() >= limit)) => return,
                read = from.read(&mut buffer) => read,
            };
            let Ok(count @ 1..) = read else { break };
            for bytes in direction.iter().chain([&self.bytes]) {
                bytes.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
            // Nobody has to look at how much was carried unless connections are to be cut.
            if self.cut.borrow().is_some() {
                self.cut.send_modify(|_| {});
            }
            if to.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }

    /// The lengths of the TLS records that came from the enclave, which every host can read in their headers (RFC 8446 section 5.1). There
    /// must have been one connection only.
    #[must_use]
    pub fn records_from_enclave(&self) -> Vec<u16> {
        let bytes = self.from_enclave.lock().unwrap();
        let (mut lengths, mut rest) = (Vec::new(), bytes.as_slice());
        while let [_, _, _, high, low, after @ ..] = rest {
            let length = u16::from_be_bytes([*high, *low]);
            lengths.push(length);
            rest = after.get(usize::from(length)..).unwrap_or_default();
        }
        lengths
    }

    /// How many bytes were carried so far, in both directions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.lock().unwrap().len()
    }

    /// Whether nothing was carried yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts every connection as soon as `more` further bytes were carried.
    pub fn cut_after(&self, more: usize) {
        let limit = self.len() + more;
        self.cut.send_replace(Some(limit));
    }

    /// Closes every new connection at once from now on.
    pub fn refuse(&self) {
        self.refuses.store(true, Ordering::SeqCst);
    }

    /// Whether `needle` was carried in the clear.
    #[must_use]
    pub fn saw(&self, needle: &[u8]) -> bool {
        assert!(!needle.is_empty());
        self.bytes.lock().unwrap().windows(needle.len()).any(|window| window == needle)
    }
}
