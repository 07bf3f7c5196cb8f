//! One boot of an image, watched from outside until it ends, serves, or has had its time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_attestation::measurement::SectionKind;
use cleanroom_host::endpoint::EnclaveAddress;
use cleanroom_host::launcher::qemu::{
    BootImage, Heartbeat, Machine, MachineSettings, Respond, until_serving,
};
use cleanroom_host::launcher::{LaunchError, StateFolder};
use cleanroom_link::port;
use cleanroom_software_nsm::serve::system_time_ms;
use cleanroom_software_nsm::{DevelopmentRoot, SoftwareNsm};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, timeout};

use crate::Error;

/// What the parent does when the enclave has booted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// Answers the heartbeat and brings the model.
    Helpful,
    /// Accepts the heartbeat's connection and says nothing.
    Silent,
    /// Is not there.
    Absent,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The machine ended by itself.
    Ended,
    /// The enclave took a partner's connection.
    Served,
    /// Neither, within the time it had.
    Neither,
}

/// An image in a folder of its own, ready to be booted again and again.
pub struct Bench {
    image: BootImage,
    state: StateFolder,
    root: Arc<DevelopmentRoot>,
}

impl Bench {
    /// Takes the image apart in `folder`.
    ///
    /// # Errors
    /// When the image or the folder cannot be used.
    pub fn new(image: &Path, folder: &Path) -> Result<Self, Error> {
        let state = StateFolder::take(folder)?;
        let image = BootImage::read(image, &state)?;
        Ok(Self { image, state, root: Arc::new(DevelopmentRoot::generate(system_time_ms())?) })
    }

    /// A security module as the image would have it.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn security_module(&self) -> Result<SoftwareNsm, Error> {
        Ok(SoftwareNsm::builder(Arc::clone(&self.root), self.image.measurements()).start(system_time_ms())?)
    }

    /// The same bench with only the first `length` bytes of the ramdisks: what a kernel has unpacked that ran
    /// out of memory.
    ///
    /// # Errors
    /// When the copy cannot be written.
    pub fn cut_ramdisks(&mut self, length: usize) -> Result<(), Error> {
        let whole = std::fs::read(self.state.path().join("ramdisks"))?;
        let cut = self.state.path().join("ramdisks-cut");
        std::fs::write(&cut, whole.get(..length).unwrap_or(&whole))?;
        self.image.files.ramdisks = cut;
        Ok(())
    }

    /// What the host's launcher says to so much memory.
    ///
    /// # Errors
    /// That the image does not fit.
    pub fn fits(&self, memory_mib: u32) -> Result<(), LaunchError> {
        self.image.fits(memory_mib)
    }

    /// Bytes of the ramdisks: of the first, and of all.
    #[must_use]
    pub fn ramdisk_lengths(&self) -> (usize, usize) {
        let ramdisks =
            self.image.measurement.sections.iter().filter(|section| section.kind == SectionKind::Ramdisk);
        let lengths: Vec<usize> =
            ramdisks.map(|section| usize::try_from(section.length).unwrap_or(0)).collect();
        (lengths.first().copied().unwrap_or(0), lengths.iter().sum())
    }

    /// A port of the machine.
    #[must_use]
    pub fn port(&self, port: u32) -> EnclaveAddress {
        EnclaveAddress::Hybrid { path: Machine::vsock_path_in(self.state.path()), port }
    }

    /// Boots the image and waits for how that ends, for at most `patience`. Gives what the console said, and
    /// how long it took.
    ///
    /// # Errors
    /// When the machine cannot be started.
    pub async fn boot(
        &self,
        settings: &MachineSettings,
        security_module: Option<Box<dyn Respond>>,
        parent: Parent,
        model: &Path,
        patience: Duration,
    ) -> Result<(Outcome, String, Duration), Error> {
        let vsock = Machine::vsock_path_in(self.state.path());
        // A parent that is absent leaves no socket of an earlier one.
        let mut heartbeat = Some(Heartbeat::listen(&vsock)?);
        if parent == Parent::Absent {
            heartbeat = None;
            let _ = std::fs::remove_file(format!("{}_9000", vsock.display()));
        }
        let begun = Instant::now();
        let (mut machine, mut console) =
            Machine::start(&self.image.files, settings, self.state.path(), security_module).await?;
        let (model_port, partner_port) = (self.port(port::MODEL), self.port(port::PARTNERS));
        let serves = async {
            match heartbeat.take() {
                Some(heartbeat) if parent == Parent::Helpful => heartbeat.answer().await?,
                heartbeat => {
                    let _open = heartbeat;
                    std::future::pending::<()>().await;
                }
            }
            until_serving(&model_port, &partner_port, model).await;
            Ok::<_, std::io::Error>(())
        };
        let mut said = Vec::new();
        let outcome = {
            let listen = async {
                // The console ends with the machine.
                let _ = console.read_to_end(&mut said).await;
            };
            tokio::select! {
                result = serves => result.map(|()| Outcome::Served)?,
                () = listen => Outcome::Ended,
                () = tokio::time::sleep(patience) => Outcome::Neither,
            }
        };
        let took = begun.elapsed();
        machine.kill();
        machine.wait().await?;
        // What was still in the pipe.
        let _ = timeout(Duration::from_secs(1), console.read_to_end(&mut said)).await;
        Ok((outcome, String::from_utf8_lossy(&said).into_owned(), took))
    }

    /// Boots the image as it should be, and gives the machine and its console once the enclave serves.
    ///
    /// # Errors
    /// When it does not serve within a minute.
    pub async fn start_serving(
        &self,
        settings: &MachineSettings,
        model: &Path,
    ) -> Result<(Machine, Receiver), Error> {
        let heartbeat = Heartbeat::listen(&Machine::vsock_path_in(self.state.path()))?;
        let module = Box::new(self.security_module()?);
        let (machine, console) =
            Machine::start(&self.image.files, settings, self.state.path(), Some(module)).await?;
        let serving = async {
            heartbeat.answer().await?;
            until_serving(&self.port(port::MODEL), &self.port(port::PARTNERS), model).await;
            Ok::<_, std::io::Error>(())
        };
        timeout(Duration::from_secs(60), serving).await??;
        Ok((machine, console))
    }
}
