//! The enclave as a process of its own, so that its memory and its processors' time are nobody else's.
//!
//! The program starts itself again as `bench-channel serve-…`. The child says what a partner needs on standard output, a line
//! that says `ready` last, and ends when its standard input does.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cleanroom_attestation::model::model_digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_channel::identity::Identity;
use cleanroom_channel::tls;
use cleanroom_guard::Clock;
use cleanroom_runner::{Platform, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::clean_room::{MODEL, World, read_policy};

/// The last line before the child serves.
const READY: &str = "ready";

/// First argument of a child that is an enclave; socket, model and configuration follow.
pub(crate) const SERVE_ENCLAVE: &str = "serve-enclave";
/// First argument of a child that only ends TLS; the socket follows.
pub(crate) const SERVE_PLAIN: &str = "serve-plain";

/// A child that listens on a Unix socket. It ends when this is dropped.
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
    said: String,
    _folder: tempfile::TempDir,
}

impl Server {
    /// An enclave that serves `model`, with `limits` as the lines of its configuration's section.
    pub(crate) fn enclave(model: &Path, limits: &str) -> Result<Self, Box<dyn Error>> {
        Self::start(SERVE_ENCLAVE, |command| command.arg(model).arg(limits))
    }

    /// A server that ends TLS and keeps the connections.
    pub(crate) fn plain() -> Result<Self, Box<dyn Error>> {
        Self::start(SERVE_PLAIN, |command| command)
    }

    fn start(
        what: &str,
        arguments: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("server.sock");
        let mut command = Command::new(std::env::current_exe()?);
        arguments(command.arg(what).arg(&socket)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("the child has no standard output")?;
        let mut said = String::new();
        for line in BufReader::new(output).lines() {
            let line = line?;
            if line == READY {
                return Ok(Self { child, socket, said, _folder: folder });
            }
            said += &line;
            said.push('\n');
        }
        Err(format!("{what} ended before it was ready: {}", child.wait()?).into())
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The policy that accepts the enclave.
    pub(crate) fn policy(&self) -> Result<Policy, Box<dyn Error>> {
        read_policy(&self.said)
    }

    /// Bytes of memory that the process has and shares with nobody.
    pub(crate) fn private_bytes(&self) -> Result<u64, Box<dyn Error>> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let mut kibibytes = 0;
        for line in std::fs::read_to_string(path)?.lines() {
            if let Some(number) =
                line.strip_prefix("Private_").and_then(|rest| rest.split_whitespace().nth(1))
            {
                kibibytes += number.parse::<u64>()?;
            }
        }
        Ok(kibibytes * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It would wait for its sessions to end, and their other ends may be on the thread that waits here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The life of a child that is an enclave.
pub(crate) fn serve_enclave(socket: &Path, model: &Path, limits: &str) -> Result<(), Box<dyn Error>> {
    let world = World::new()?;
    let model = std::fs::read(model)?;
    let (device, _) = world.device()?;
    let config = format!("version = 1\nmodel = \"{MODEL}\"\npartners = \"any\"\n[limits]\n{limits}\n");
    let policy = world.policy(model_digest(&model));
    runtime()?.block_on(async {
        let listener = UnixListener::bind(socket)?;
        println!("{policy}{READY}");
        Ok(run(
            Platform { device, listener, control: None, clock: Clock::boot(), config, model },
            end_of_input(),
        )
        .await?)
    })
}

/// The life of a child that only ends TLS: it sends back one byte and keeps the connection.
pub(crate) fn serve_plain(socket: &Path) -> Result<(), Box<dyn Error>> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&Identity::generate()?)?));
    runtime()?.block_on(async {
        let listener = UnixListener::bind(socket)?;
        println!("{READY}");
        let accept = async {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    while let Ok(byte) = stream.read_u8().await {
                        stream.write_u8(byte).await?;
                        stream.flush().await?;
                    }
                    std::io::Result::Ok(())
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = end_of_input() => {}
        }
        Ok(())
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn end_of_input() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let _ = end.await;
}
