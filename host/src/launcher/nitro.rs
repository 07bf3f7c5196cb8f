//! The `nitro` tier: the image in an AWS Nitro Enclave, started with AWS's own `nitro-cli`.
//!
//! The host checks the image's digest before each start. Afterwards it checks that the enclave has the
//! image's PCRs and is not in debug mode. All of this is for the operator, who would otherwise serve
//! refusals: a partner believes only what Nitro signs.

mod cli;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::measurement::{Measurement, Measurer};
use cleanroom_link::port;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use cli::{Advice, NitroCli, NitroError};

use super::description::Description;
use super::program::read_file;
use super::qemu::until_serving;
use super::state::StateFolder;
use super::store::digest_of_model;
use super::{Enclave, Exit, How, LaunchError, Launcher, leftovers, off_thread, once_ready};
use crate::drain;
use crate::endpoint::EnclaveAddress;
use cli::{Described, RunRequest};

/// The file in the state folder that has the id of the enclave that was started last.
const ENCLAVE_ID: &str = "enclave-id";
/// The pause between two looks whether the enclave is still there.
const LOOK: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The enclave image file.
    pub image: PathBuf,
    /// SHA-384 that the image file must have. Without it, it must keep the one that it has when the host
    /// starts.
    pub image_sha384: Option<Sha384Digest>,
    /// The model file.
    pub model: PathBuf,
    /// The enclave's context id: 4 or more, and no other enclave's on this instance.
    pub cid: u32,
    /// Memory of the enclave, MiB. The instance's allocator must have set it aside.
    pub memory_mib: u32,
    /// Processors of the enclave; an even number, where the instance has two threads to a core.
    pub processors: u32,
    /// AWS's program.
    pub nitro_cli: PathBuf,
    /// Where the host keeps what it tells about the enclave.
    pub state: PathBuf,
}

/// Starts Nitro Enclaves from one image.
pub struct Nitro {
    settings: Settings,
    cli: NitroCli,
    image: Image,
    /// The name under which its enclaves run. It is the same for the same state folder, so that an enclave
    /// which an earlier life of this host left behind is found. Where nitro-cli tells no names, it is found by
    /// the id in the state folder.
    name: String,
    description: Description,
    state: StateFolder,
}

/// What is known of the image file.
struct Image {
    sha384: Sha384Digest,
    measurement: Measurement,
}

impl Image {
    fn read(path: &Path) -> Result<Self, LaunchError> {
        let bytes = read_file("image", path)?;
        let mut measurer = Measurer::new();
        let measurement = measurer
            .update(&bytes)
            .and_then(|()| measurer.finish())
            .map_err(|error| LaunchError::Image { path: path.to_owned(), error: Box::new(error) })?;
        Ok(Self { sha384: Sha384Digest::of(&[&bytes]), measurement })
    }

    fn require(&self, expected: Sha384Digest, path: &Path) -> Result<(), LaunchError> {
        if self.sha384 == expected {
            return Ok(());
        }
        let (expected, actual) = (Box::new(expected), Box::new(self.sha384));
        Err(LaunchError::ImageDigest { path: path.to_owned(), expected, actual })
    }
}

impl Nitro {
    /// Measures the image and writes `measurements.json` to the state folder.
    ///
    /// # Errors
    /// [`LaunchError`] says which of the settings cannot be used.
    pub fn prepare(settings: &Settings) -> Result<Self, LaunchError> {
        Self::prepare_in(settings, StateFolder::take(&settings.state)?)
    }

    /// As [`Self::prepare`], in a state folder that was taken already.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_in(settings: &Settings, state: StateFolder) -> Result<Self, LaunchError> {
        let image = Image::read(&settings.image)?;
        if let Some(expected) = settings.image_sha384 {
            image.require(expected, &settings.image)?;
        }
        let measurement = &image.measurement;
        let description = Description {
            pcr0: measurement.pcr0.to_string(),
            pcr1: measurement.pcr1.to_string(),
            pcr2: measurement.pcr2.to_string(),
            pcr4: None,
            development_root_sha256: None,
            model_sha256: digest_of_model(&settings.model)?.to_string(),
            command_line: measurement.command_line.clone(),
        };
        description.write(&state)?;
        let cli = NitroCli::new(&settings.nitro_cli);
        let name = name_for(&state);
        Ok(Self { settings: settings.clone(), cli, image, name, description, state })
    }

    /// What the host says about the enclave.
    #[must_use]
    pub const fn description(&self) -> &Description {
        &self.description
    }

    /// Where partners' connections go.
    #[must_use]
    pub const fn partner_port(&self) -> EnclaveAddress {
        self.port(port::PARTNERS)
    }

    /// Where the host hands in what the authorities sign.
    #[must_use]
    pub const fn control_port(&self) -> EnclaveAddress {
        self.port(port::CONTROL)
    }

    const fn port(&self, port: u32) -> EnclaveAddress {
        EnclaveAddress::Vsock { cid: self.settings.cid, port }
    }

    /// Ends an enclave that an earlier life of this host left behind, and sees that no other has the context
    /// id.
    async fn make_room(&self) -> Result<(), NitroError> {
        let recorded = std::fs::read_to_string(self.state.join(ENCLAVE_ID)).unwrap_or_default();
        for enclave in self.cli.describe().await? {
            if enclave.name == self.name || enclave.id == recorded {
                tracing::warn!(
                    id = enclave.id,
                    "an enclave of an earlier life of this host is still there and is ended"
                );
                self.cli.terminate(&enclave.id).await?;
            } else if enclave.cid == u64::from(self.settings.cid) {
                let Described { name, id, .. } = enclave;
                return Err(NitroError::ContextIdTaken { cid: self.settings.cid, name, id });
            }
        }
        Ok(())
    }

    /// Writes down the id of the enclave that runs: not every nitro-cli tells names. Nothing fails when that cannot be
    /// written: a full disk does not keep an enclave from starting.
    fn remember(&self, id: &str) {
        if let Err(error) = self.state.write(ENCLAVE_ID, 0o600, id.as_bytes()) {
            tracing::warn!(%error, id, "the enclave's id could not be written down");
        }
    }

    /// Whether what runs is the image, as nitro-cli tells it.
    fn check(&self, enclave: Option<&Described>) -> Result<(), NitroError> {
        let enclave = enclave.ok_or(NitroError::Gone)?;
        if enclave.flags != "NONE" {
            return Err(NitroError::Flags { actual: enclave.flags.clone() });
        }
        let Measurement { pcr0, pcr1, pcr2, .. } = &self.image.measurement;
        let measured = &enclave.measurements;
        for (index, expected, actual) in
            [(0, pcr0, &measured.pcr0), (1, pcr1, &measured.pcr1), (2, pcr2, &measured.pcr2)]
        {
            if *actual != expected.to_string() {
                return Err(NitroError::Register { index, expected: *expected, actual: actual.clone() });
            }
        }
        Ok(())
    }
}

impl Launcher for Nitro {
    type Enclave = NitroEnclave;

    async fn launch(&mut self) -> Result<NitroEnclave, LaunchError> {
        let Settings { image, model, cid, memory_mib, processors, .. } = &self.settings;
        leftovers::end(self.state.path()).await?;
        let path = image.clone();
        off_thread(move || Image::read(&path)).await?.require(self.image.sha384, image)?;
        self.make_room().await?;
        let request = RunRequest {
            image,
            name: &self.name,
            cid: *cid,
            memory_mib: *memory_mib,
            processors: *processors,
        };
        let id = self.cli.run(&request).await?;
        self.remember(&id);
        // From here on the enclave is ended when this value is dropped, for instance because it is not the
        // image.
        let termination = Termination { cli: self.cli.clone(), id };
        let enclaves = self.cli.describe().await?;
        self.check(enclaves.iter().find(|enclave| enclave.id == termination.id))?;

        let (serving, ready) = watch::channel(false);
        let model_port = self.port(port::MODEL);
        let (partner_port, model) = (self.partner_port(), model.clone());
        let greeting = tokio::spawn(async move {
            until_serving(&model_port, &partner_port, &model).await;
            serving.send_replace(true);
        });
        Ok(NitroEnclave { termination, ready, greeting, control: self.control_port(), draining: None })
    }
}

/// A name that no other host on this instance has: none has the state folder.
fn name_for(state: &StateFolder) -> String {
    let digest = Sha256Digest::of(&[state.path().as_os_str().as_bytes()]).to_string();
    format!("cleanroom-{}", digest.get(..16).unwrap_or_default())
}

/// Ends an enclave when it is dropped.
struct Termination {
    cli: NitroCli,
    id: String,
}

impl Drop for Termination {
    fn drop(&mut self) {
        self.cli.terminate_in_background(&self.id);
    }
}

/// A Nitro Enclave that runs.
pub struct NitroEnclave {
    termination: Termination,
    ready: watch::Receiver<bool>,
    greeting: JoinHandle<()>,
    control: EnclaveAddress,
    draining: Option<JoinHandle<()>>,
}

impl Enclave for NitroEnclave {
    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(once_ready(self.ready.clone()))
    }

    async fn ended(&mut self) -> Exit {
        let Termination { cli, id } = &self.termination;
        loop {
            match cli.describe().await {
                // Why it ended only its console says, which stays off.
                Ok(enclaves) if !enclaves.iter().any(|enclave| enclave.id == *id) => {
                    return Exit { how: How::Unknown, last_words: None };
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "could not see whether the enclave still runs"),
            }
            sleep(LOOK).await;
        }
    }

    fn drain(&mut self) {
        let control = self.control.clone();
        self.draining =
            Some(tokio::spawn(async move { drain::tell(&control, &CancellationToken::new()).await }));
    }

    fn kill(&mut self) {
        self.termination.cli.terminate_in_background(&self.termination.id);
    }
}

impl Drop for NitroEnclave {
    fn drop(&mut self) {
        self.greeting.abort();
        self.draining.iter().for_each(JoinHandle::abort);
    }
}

#[cfg(test)]
mod tests;
