//! A clean room whose proof is genuine, and whose HTTP/2 does what the test says, frame by frame (RFC 9113).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cleanroom_attestation::channel::{FrameKind, RefusalCode};
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_channel::frames::Frame;
use cleanroom_partner::address::Address;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::liar::{Liar, Lie};
use crate::platform::{World, model_digest};

/// Types of frames (RFC 9113 section 6).
pub const DATA: u8 = 0;
/// The head of a request or response.
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A setting: how many streams the partner may open at once.
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
/// The code with which a peer says that it did not look at a request.
pub const REFUSED_STREAM: u32 = 7;

/// Three enclaves of one image under one root behind one address, or behind several. Every connection is handed
/// to the script.
pub struct ScriptedRoom {
    /// The platform.
    pub world: World,
    folder: tempfile::TempDir,
    addresses: usize,
    connections: Arc<AtomicUsize>,
}

type Scripted = Pin<Box<dyn Future<Output = ()> + Send>>;

impl ScriptedRoom {
    /// Listens. `script` gets the number of each connection, from 0, and the connection.
    pub async fn start<F>(script: impl Fn(usize, Connection) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_at(1, move |_, number, connection| script(number, connection)).await
    }

    /// Listens on several addresses. `script` gets the number of the address and that of the connection there,
    /// from 0, and the connection.
    pub async fn start_at<F>(
        addresses: usize,
        script: impl Fn(usize, usize, Connection) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let world = World::new();
        let mut enclaves = Vec::new();
        for _ in 0..3 {
            enclaves.push(Liar::boot(world.device(world.accepted.clone()), model_digest()).await);
        }
        let enclaves: Arc<[Liar]> = enclaves.into();
        let folder = tempfile::tempdir().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let script = Arc::new(script);
        for address in 0..addresses {
            let listener = UnixListener::bind(folder.path().join(format!("{address}.sock"))).unwrap();
            let (counted, script, enclaves) =
                (Arc::clone(&connections), Arc::clone(&script), Arc::clone(&enclaves));
            tokio::spawn(async move {
                let mut number = 0;
                while let Ok((stream, _)) = listener.accept().await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let connection = Connection { stream, enclaves: Arc::clone(&enclaves) };
                    let script: Scripted = Box::pin(script(address, number, connection));
                    tokio::spawn(script);
                    number += 1;
                }
            });
        }
        Self { world, folder, addresses, connections }
    }

    /// Where the host listens, the first of the addresses if there are several.
    #[must_use]
    pub fn address(&self) -> Address {
        self.at(0)
    }

    /// All addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        (0..self.addresses).map(|number| self.at(number)).collect()
    }

    fn at(&self, number: usize) -> Address {
        Address::Unix(self.folder.path().join(format!("{number}.sock")))
    }

    /// How many connections there were.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A connection of a partner of which nothing was read yet.
pub struct Connection {
    stream: UnixStream,
    enclaves: Arc<[Liar]>,
}

impl Connection {
    /// The stream, for a host without any enclave that only listens.
    #[must_use]
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Refuses as a host without any enclave can, with `code`. Gives everything that the partner sends then.
    pub async fn refuse(self, code: RefusalCode) -> Vec<u8> {
        let [enclave, ..] = &*self.enclaves else { panic!("there are some") };
        let (stream, _) = enclave.hello(self.stream).await;
        crate::liar::after(stream, Frame::new(FrameKind::Refusal, &code.encode()).bytes()).await
    }

    /// Proves the first enclave, and waits for `Finished`.
    pub async fn prove(self) -> Peer {
        self.prove_enclave(0, async {}).await
    }

    /// Proves one of the three enclaves. The evidence is sent when `late` ends.
    pub async fn prove_enclave(self, enclave: usize, late: impl Future<Output = ()>) -> Peer {
        let number = enclave;
        let enclave = &self.enclaves[number];
        let (mut stream, hello) = enclave.hello(self.stream).await;
        let (evidence, session) = enclave.proof(&stream, &hello, Lie::Nothing);
        late.await;
        evidence.write(&mut stream).await.unwrap();
        Frame::read(&mut stream, &[FrameKind::Finished]).await.unwrap();
        Peer { stream, session, enclaves: self.enclaves, enclave: number }
    }
}

/// The end of a proven connection at which HTTP/2 is scripted.
pub struct Peer {
    stream: TlsStream<UnixStream>,
    /// The session's transcript.
    pub session: Sha384Digest,
    enclaves: Arc<[Liar]>,
    enclave: usize,
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The stream's number.
    pub stream: u32,
    /// The content.
    pub content: Vec<u8>,
}

impl Peer {
    /// Reads the partner's preface and sends our settings.
    pub async fn begin(&mut self, settings: &[(u16, u32)]) {
        let mut preface = [0; 24];
        self.stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.settings(settings).await;
    }

    /// Sends settings.
    pub async fn settings(&mut self, settings: &[(u16, u32)]) {
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()))
            .collect();
        self.write(SETTINGS, 0, 0, &settings).await;
    }

    /// Writes one frame.
    pub async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        let _ = self.stream.write_all(&frame).await;
        let _ = self.stream.flush().await;
    }

    /// Waits until the partner has taken our settings. Nothing else may come before.
    pub async fn settled(&mut self) {
        loop {
            let (kind, flags, _, payload) = self.frame().await.unwrap();
            match (kind, flags & ACK) {
                (SETTINGS, ACK) => return,
                (SETTINGS, _) => self.write(SETTINGS, ACK, 0, &[]).await,
                (PING, 0) => self.write(PING, ACK, 0, &payload).await,
                (DATA | HEADERS, _) => panic!("a request came before the settings were taken"),
                _ => {}
            }
        }
    }

    async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes([s0, s1, s2, s3]), payload))
    }

    /// The next frame of a request: its type, flags, stream and payload. `None` when the partner closed.
    /// Settings and pings are answered on the way.
    pub async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            let (kind, flags, stream, payload) = self.frame().await?;
            match (kind, flags & ACK) {
                (SETTINGS, 0) => self.write(SETTINGS, ACK, 0, &[]).await,
                (PING, 0) => self.write(PING, ACK, 0, &payload).await,
                (DATA | HEADERS, _) => {
                    return Some((kind, flags, stream, payload));
                }
                _ => {}
            }
        }
    }

    /// The next whole request. There must be one at a time.
    pub async fn request(&mut self) -> Option<Received> {
        let mut content = Vec::new();
        loop {
            let (kind, flags, stream, payload) = self.next().await?;
            if kind == DATA {
                content.extend(payload);
            }
            if flags & END_STREAM != 0 {
                return Some(Received { stream, content });
            }
        }
    }

    /// Begins an answer with status 200 and no length.
    pub async fn answer(&mut self, stream: u32, content_type: &str) {
        self.answer_with(stream, content_type, &[]).await;
    }

    /// The enclave of this connection, which can sign what it likes.
    #[must_use]
    pub fn enclave(&self) -> &Liar {
        &self.enclaves[self.enclave]
    }

    /// The same with further fields, whose names and values are shorter than 127 bytes.
    pub async fn answer_with(&mut self, stream: u32, content_type: &str, fields: &[(&str, &str)]) {
        // HPACK (RFC 7541): `:status: 200` is entry 8 of the static table; `content-type` is entry 31, with a
        // literal value.
        let mut head = vec![0x88, 0x0f, 31 - 15, u8::try_from(content_type.len()).unwrap()];
        head.extend(content_type.as_bytes());
        for (name, value) in fields {
            head.push(0);
            for text in [name, value] {
                head.push(u8::try_from(text.len()).unwrap());
                head.extend(text.as_bytes());
            }
        }
        self.write(HEADERS, END_HEADERS, stream, &head).await;
    }

    /// Goes on with an answer, and ends it if `last`.
    pub async fn content(&mut self, stream: u32, content: &[u8], last: bool) {
        self.write(DATA, if last { END_STREAM } else { 0 }, stream, content).await;
    }

    /// Answers everything with `{}`, and hands the requests to `seen`.
    pub async fn serve(&mut self, seen: impl Fn(Received)) {
        while let Some(request) = self.request().await {
            self.answer(request.stream, "application/json").await;
            self.content(request.stream, b"{}", true).await;
            seen(request);
        }
    }

    /// Says that no stream after `last` was looked at (GOAWAY).
    pub async fn go_away(&mut self, last: u32) {
        let payload = [last.to_be_bytes(), [0; 4]].concat();
        self.write(GOAWAY, 0, 0, &payload).await;
    }

    /// Ends a stream with an error code (`RST_STREAM`).
    pub async fn reset(&mut self, stream: u32, code: u32) {
        self.write(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    /// Waits until the partner closes the connection; gives what came until then.
    pub async fn rest(mut self) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}
