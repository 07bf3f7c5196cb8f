//! An enclave that opens and hashes, and a host's store, each a process.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use cleanroom_host::endpoint::EnclaveAddress;
use cleanroom_host::launcher::serve_model;
use cleanroom_sealing::Key;
use cleanroom_weights::{How, Limits};
use tokio::net::UnixListener;
use tokio::runtime::Builder;

use crate::seal::KEY;
use crate::{Outcome, this_program};

/// Settings of the allocator.
pub(crate) const MALLOC: &str = "GLIBC_TUNABLES";
/// The image's kernel gives huge pages to everybody (image/kernel/config); this machine's may wait to be asked.
pub(crate) const HUGE_PAGES: &str = "glibc.malloc.hugetlb=1";

/// What came of one opening.
pub(crate) struct Opened {
    pub(crate) seconds: f64,
    /// The most memory that the process had.
    pub(crate) peak_bytes: u64,
}

/// Opens `sealed` once with so many threads.
pub(crate) fn measure(sealed: &Path, threads: usize) -> Outcome<Opened> {
    let socket = sealed.with_file_name("store.sock");
    let _ = std::fs::remove_file(&socket);
    let mut enclave = Ends(
        Command::new(this_program()?)
            .arg("--enclave")
            .arg(&socket)
            .arg(threads.to_string())
            .env(MALLOC, HUGE_PAGES)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut lines = BufReader::new(enclave.0.stdout.take().ok_or("no output")?).lines();
    let ready = lines.next().ok_or("the enclave ended")??;
    if ready != "ready" {
        return Err(ready.into());
    }
    let store = Command::new(this_program()?).arg("--store").arg(&socket).arg(sealed).spawn()?;
    let _store = Ends(store);
    let line = lines.next().ok_or("the enclave opened nothing")??;
    let mut numbers = line.split(' ');
    let seconds = numbers.next().ok_or("no time")?.parse()?;
    let peak_bytes = numbers.next().ok_or("no memory")?.parse()?;
    Ok(Opened { seconds, peak_bytes })
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The enclave's process: from the first connection to the identity.
pub(crate) fn enclave(socket: &Path, threads: &str) -> Outcome<()> {
    let runtime = Builder::new_multi_thread().worker_threads(threads.parse()?).enable_all().build()?;
    runtime.block_on(async {
        let mut listener = UnixListener::bind(socket)?;
        println!("ready");
        // The first byte of the model cannot be asked for before the store connects.
        let opened = tokio::spawn(async move {
            let begun = Instant::now();
            let key = Key::from_bytes(&KEY);
            let weights =
                cleanroom_weights::open(&mut listener, How::Sealed(key), &Limits::for_bytes(u64::MAX))
                    .await?;
            Ok::<_, cleanroom_weights::WeightsError>((begun.elapsed(), weights))
        });
        let (took, weights) = opened.await??;
        println!("{} {}", took.as_secs_f64(), peak()?);
        eprintln!("# {} bytes, {}", weights.length(), weights.digest());
        Ok(())
    })
}

/// The most memory that this process had, in bytes.
fn peak() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    Ok(peak.ok_or("no peak")?.trim().parse::<u64>()? * 1024)
}

/// The store's process.
pub(crate) fn store(socket: &Path, file: &Path) -> Outcome<()> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve_model(&EnclaveAddress::Unix(socket.to_owned()), file));
    Ok(())
}
