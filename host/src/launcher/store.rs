//! The host's store: it gives the enclave the model's bytes, range by range, as the enclave asks for them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model::ModelDigester;
use cleanroom_link::store::{self, Description, Form, MAX_RANGE_BYTES, Source};
use cleanroom_vsock::WRITE_CAP;
use rustix::net::{Shutdown, shutdown};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::either::Either;

use super::LaunchError;
use crate::endpoint::EnclaveAddress;
use crate::relay::Dial as _;

/// Connections that the enclave may use at once.
const CONNECTIONS: usize = 4;
/// The pause before a connection that ended is made again.
const PAUSE: Duration = Duration::from_millis(20);
/// The same where a network is between the two.
const NETWORK_PAUSE: Duration = Duration::from_millis(500);
/// The largest write to a Unix socket or to TCP, in bytes.
const SOCKET_CAP: usize = 256 * 1024;
/// Room for an answer in a Unix socket, in bytes, so that the store is not woken for each part of it that the enclave has read.
const SOCKET_ROOM: usize = 2 * MAX_RANGE_BYTES;
/// The longest record of a sealed file, in bytes.
const RECORD_LIMIT: u64 = 1 << 20;
/// The end of the name of a sealed file.
const SEALED: &str = "sealed";

/// A file that is served.
struct ModelFile {
    file: File,
    description: Description,
}

impl ModelFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, description: Description { form: form(path), length } })
    }
}

impl Source for ModelFile {
    fn description(&self) -> Description {
        self.description
    }

    fn read_at(&self, offset: u64, output: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(output, offset)
    }
}

/// Serves the file at `model` to the store's port of an enclave until the enclave has all that it wants. An enclave
/// that halts instead ends, which its supervisor sees; so this tries for ever.
pub async fn serve_model(enclave: &EnclaveAddress, model: &Path) {
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn(connect_for_ever(enclave.clone(), model.to_owned()));
    }
    // The first one to hear a farewell ends the others.
    let _ = connections.join_next().await;
}

async fn connect_for_ever(enclave: EnclaveAddress, model: PathBuf) {
    let pause = if matches!(enclave, EnclaveAddress::Tcp { .. }) { NETWORK_PAUSE } else { PAUSE };
    loop {
        match serve_once(&enclave, &model).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(error = %error.kind(), "the enclave does not take the model yet"),
        }
        sleep(pause).await;
    }
}

async fn serve_once(enclave: &EnclaveAddress, model: &Path) -> io::Result<()> {
    let stream = enclave.dial_with_room(SOCKET_ROOM).await?;
    let model = ModelFile::open(model)?;
    let longest = enclave.longest_write();
    // Bytes that the system moves are in no copy, and in writes of any length.
    let direct = if longest == usize::MAX { stream.uncopied() } else { Err(stream) };
    match direct {
        Ok(Either::Left(Either::Left(socket))) => serve_on_a_thread(socket.into_std()?, model).await,
        Ok(Either::Left(Either::Right(socket))) => serve_on_a_thread(socket.into_std()?, model).await,
        Ok(Either::Right(vsock)) => store::serve(vsock, &Arc::new(model), WRITE_CAP).await,
        Err(stream) => store::serve(stream, &Arc::new(model), longest.min(SOCKET_CAP)).await,
    }
}

/// Lets the system move the file's bytes into the connection, on a thread that waits for both. The thread ends with this.
async fn serve_on_a_thread<S>(socket: S, model: ModelFile) -> io::Result<()>
where
    S: Read + Write + AsFd + Send + 'static,
{
    let _hangs_up = HangsUp(socket.as_fd().try_clone_to_owned()?);
    rustix::io::ioctl_fionbio(&socket, false)?;
    let served =
        tokio::task::spawn_blocking(move || store::serve_file(socket, &model.file, &model.description));
    served.await.map_err(io::Error::other)?
}

/// Shuts a connection down when it is dropped, so that nobody waits for its other end any more.
struct HangsUp(OwnedFd);

impl Drop for HangsUp {
    fn drop(&mut self) {
        // The other end may have hung up before.
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

/// The form of the file at `path`, which is in its name.
fn form(path: &Path) -> Form {
    if path.extension().is_some_and(|end| end == SEALED) { Form::Sealed } else { Form::Plain }
}

/// The model's identity: of a plain file, computed in memory that does not grow with the model; of a sealed one, what the
/// record beside it says.
pub(super) fn digest_of_model(path: &Path) -> Result<Sha256Digest, LaunchError> {
    let (what, path, digest) = match form(path) {
        Form::Plain => ("model", path.to_owned(), computed(path)),
        Form::Sealed => {
            let mut record = path.as_os_str().to_owned();
            record.push(".json");
            let record = PathBuf::from(record);
            let digest = File::open(path).and_then(|_| recorded(&record));
            ("record of the sealed model", record, digest)
        }
    };
    digest.map_err(|source| LaunchError::Read { what, path, source })
}

fn computed(path: &Path) -> io::Result<Sha256Digest> {
    let mut file = File::open(path)?;
    let mut digester = ModelDigester::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digester.finish()),
            Ok(count) => digester.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What `cleanroom-authority seal` writes beside a sealed file, as far as the host needs it.
#[derive(Deserialize)]
struct Record {
    model_sha256: Sha256Digest,
}

fn recorded(path: &Path) -> io::Result<Sha256Digest> {
    let mut text = Vec::new();
    File::open(path)?.take(RECORD_LIMIT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice::<Record>(&text)?.model_sha256)
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::model::model_digest;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, UnixListener};
    use tokio::time::timeout;

    use super::*;

    /// Serves a file at `address` to an enclave that `accepted` is a connection to, and no longer than it reads some of it.
    async fn hangs_up<S>(address: &str, accepted: impl Future<Output = io::Result<S>>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        std::fs::write(&model, vec![7; MAX_RANGE_BYTES]).unwrap();
        let enclave = address.parse::<EnclaveAddress>().unwrap();
        let serving = tokio::spawn(async move { serve_model(&enclave, &model).await });
        let mut stream = accepted.await.unwrap();
        let description = Description::read(&mut stream).await.unwrap();
        assert_eq!(description, Description { form: Form::Plain, length: MAX_RANGE_BYTES as u64 });
        let mut range = vec![0; 1000];
        store::ask(&mut stream, 3, &mut range).await.unwrap();
        assert!(range.iter().all(|byte| *byte == 7));
        serving.abort();
        // A thread that still waited for a question would hold the connection open.
        let end = timeout(Duration::from_secs(60), stream.read(&mut range)).await.unwrap();
        assert!(matches!(end, Ok(0)), "{end:?}");
    }

    #[tokio::test]
    async fn a_store_that_is_given_up_hangs_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let listener = UnixListener::bind(&path).unwrap();
        let accepted = async { listener.accept().await.map(|(stream, _)| stream) };
        hangs_up(&format!("unix:{}", path.display()), accepted).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp:{}", listener.local_addr().unwrap());
        hangs_up(&address, async { listener.accept().await.map(|(stream, _)| stream) }).await;
    }

    #[test]
    fn a_sealed_file_has_the_identity_that_its_record_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("model"), "weights").unwrap();
        assert_eq!(digest_of_model(&path("model")).unwrap(), model_digest(b"weights"));
        std::fs::write(path("model.sealed"), "anything").unwrap();
        assert!(matches!(digest_of_model(&path("model.sealed")), Err(LaunchError::Read { .. })));
        let digest = model_digest(b"weights");
        std::fs::write(path("model.sealed.json"), format!(r#"{{"bytes":7,"model_sha256":"{digest}"}}"#))
            .unwrap();
        assert_eq!(digest_of_model(&path("model.sealed")).unwrap(), digest);
    }
}
