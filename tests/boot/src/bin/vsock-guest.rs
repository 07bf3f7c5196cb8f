//! The application of an image that only tests vsock: it sends and receives patterns as its peer tells it to.
//!
//! A connection begins with a [`Task`]; the rest depends on its kind.

use std::time::Duration;

use cleanroom_boot_tests::pattern::Pattern;
use cleanroom_boot_tests::task::{self, Kind, Task};
use cleanroom_link::{port, store};
use cleanroom_vsock::Gathered;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockStream};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // The host has a model for every enclave. This one wants none of it. An enclave whose port for partners answers is ready.
    let models = cleanroom_vsock::listen(VsockAddr::new(VMADDR_CID_ANY, port::MODEL))?;
    let (mut stream, _) = models.accept().await?;
    store::Description::read(&mut stream).await?;
    store::farewell(&mut stream).await;
    let listener = cleanroom_vsock::listen(VsockAddr::new(VMADDR_CID_ANY, port::PARTNERS))?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // What goes wrong shows at the other end.
            let _ = serve(stream).await;
        });
    }
}

async fn serve(mut stream: VsockStream) -> std::io::Result<()> {
    let mut header = [0; task::LENGTH];
    stream.read_exact(&mut header).await?;
    let task = Task::decode(&header).ok_or(std::io::ErrorKind::InvalidData)?;
    match task.kind {
        Kind::Receive => {
            tokio::time::sleep(Duration::from_millis(task.pause_ms.into())).await;
            let good = receive(&mut stream, &task).await?;
            stream.write_all(&[u8::from(good)]).await?;
            // The peer closes first.
            let _ = stream.read_u8().await;
        }
        Kind::Send => {
            if task.cap == 0 {
                send(&mut stream, &task).await?;
            } else {
                send(&mut Gathered::with_cap(&mut stream, task.cap as usize), &task).await?;
            }
            if task.close_half {
                stream.shutdown(std::net::Shutdown::Write)?;
            }
            let _ = stream.read_u8().await;
        }
    }
    Ok(())
}

async fn receive(stream: &mut VsockStream, task: &Task) -> std::io::Result<bool> {
    let mut pattern = Pattern::new(task.seed);
    let mut buffer = vec![0; 256 * 1024];
    let mut left = task.total;
    // A peer that closes its half says so with the end of the stream; any other with the number of bytes.
    while left > 0 || task.close_half {
        let count = stream.read(&mut buffer).await?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if count == 0 || !pattern.matches(bytes) {
            return Ok(count == 0 && left == 0);
        }
        left = left.saturating_sub(count as u64);
    }
    Ok(true)
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), task: &Task) -> std::io::Result<()> {
    let mut pattern = Pattern::new(task.seed);
    let mut buffer = vec![0; task.write as usize];
    let mut left = task.total;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(bytes) = buffer.get_mut(..length) else { break };
        pattern.fill(bytes);
        stream.write_all(bytes).await?;
        if task.flush {
            stream.flush().await?;
        }
        left -= length as u64;
    }
    stream.flush().await
}
