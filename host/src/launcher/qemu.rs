//! The `qemu` tier: the release image in a virtual machine, on any machine and without rights.
//!
//! Three processes stand in for Nitro's hypervisor. QEMU's `microvm` runs the image's kernel and ramdisks.
//! `vhost-device-vsock` gives the guest a real `AF_VSOCK`. A device of this program is the guest's
//! `/dev/nsm`; the kernel's own driver talks to it. The image is the one that is deployed, to the bit; what
//! differs is who vouches for it. The host measures the image and signs under a development root, so this
//! tier proves that an image works, never where it runs.

mod greeting;
mod image;
mod machine;
mod security_module;

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;

use cleanroom_attestation::measurement;
use cleanroom_link::port;
use cleanroom_software_nsm::serve::system_time_ms;
use cleanroom_software_nsm::{DevelopmentRoot, SoftwareNsm};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use greeting::{Heartbeat, until_serving};
pub use image::BootImage;
pub use machine::{Acceleration, BootFiles, Machine, MachineSettings};
pub use security_module::Respond;

use super::console::{CONSOLE_LINGER, Console, LastWords};
use super::description::Description;
use super::state::StateFolder;
use super::store::digest_of_model;
use super::{Enclave, Exit, How, LaunchError, Launcher, leftovers, off_thread, once_ready};
use crate::drain;
use crate::endpoint::{EnclaveAddress, socket_path};

/// What to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The enclave image file; measured.
    pub image: PathBuf,
    /// The model file; not measured, since the enclave commits to it itself.
    pub model: PathBuf,
    /// The parent's instance id, which is measured into PCR 4. Each security module makes one up when there
    /// is none.
    pub instance_id: Option<String>,
    /// The machine that runs the image.
    pub machine: MachineSettings,
    /// Where the host keeps sockets, the console and what it tells about the enclave.
    pub state: PathBuf,
    /// Show the console to the operator as well.
    pub echo_console: bool,
}

/// Starts virtual machines with one image under one development root.
pub struct Qemu {
    settings: Settings,
    state: Arc<StateFolder>,
    root: Arc<DevelopmentRoot>,
    vsock: PathBuf,
    console: Arc<Console>,
    image: BootImage,
    description: Description,
}

impl Qemu {
    /// Measures the image, makes a development root, and writes `development-root.pem` and
    /// `measurements.json` to the state folder.
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
        let vsock = Machine::vsock_path_in(state.path());
        // The longest of the sockets' paths is that of the heartbeat.
        socket_path(format!("{}_9000", vsock.display()))?;
        let root = Arc::new(DevelopmentRoot::generate(system_time_ms())?);
        state.write("development-root.pem", 0o644, root.root_certificate_pem().as_bytes())?;
        let image = BootImage::read(&settings.image, &state)?;
        image.fits(settings.machine.memory_mib)?;
        let description = describe(settings, &image, &root)?;
        description.write(&state)?;
        let console = Arc::new(Console::new(&state.join("console.log"), settings.echo_console));
        let (settings, state) = (settings.clone(), Arc::new(state));
        Ok(Self { settings, state, root, vsock, console, image, description })
    }

    /// What the host says about the enclave.
    #[must_use]
    pub const fn description(&self) -> &Description {
        &self.description
    }

    /// Where partners' connections go.
    #[must_use]
    pub fn partner_port(&self) -> EnclaveAddress {
        self.port(port::PARTNERS)
    }

    /// Where the host hands in what the authorities sign.
    #[must_use]
    pub fn control_port(&self) -> EnclaveAddress {
        self.port(port::CONTROL)
    }

    fn port(&self, port: u32) -> EnclaveAddress {
        EnclaveAddress::Hybrid { path: self.vsock.clone(), port }
    }

    fn security_module(&self) -> Result<SoftwareNsm, LaunchError> {
        let mut nsm = SoftwareNsm::builder(Arc::clone(&self.root), self.image.measurements());
        if let Some(instance_id) = &self.settings.instance_id {
            nsm = nsm.instance_id(instance_id);
        }
        Ok(nsm.start(system_time_ms())?)
    }
}

impl Launcher for Qemu {
    type Enclave = QemuEnclave;

    async fn launch(&mut self) -> Result<QemuEnclave, LaunchError> {
        let system = |what| move |source| LaunchError::System { what, source };
        leftovers::end(self.state.path()).await?;
        let (image, state) = (self.settings.image.clone(), Arc::clone(&self.state));
        self.image = off_thread(move || BootImage::read(&image, &state)).await?;
        self.image.fits(self.settings.machine.memory_mib)?;
        let security_module = self.security_module()?;
        let heartbeat = Heartbeat::listen(&self.vsock).map_err(system("listening for its heartbeat"))?;
        let (machine, console) = Machine::start(
            &self.image.files,
            &self.settings.machine,
            self.state.path(),
            Some(Box::new(security_module)),
        )
        .await
        .map_err(system("starting its machine"))?;

        let last_words = LastWords::default();
        let console = self.console.keep_in_background(console, last_words.clone());
        let (serving, ready) = watch::channel(false);
        let (model_port, partner_port) = (self.port(port::MODEL), self.partner_port());
        let model = self.settings.model.clone();
        let greeting = tokio::spawn(async move {
            match heartbeat.answer().await {
                Ok(()) => tracing::info!("the enclave has booted"),
                Err(error) => return tracing::warn!(%error, "the heartbeat could not be answered"),
            }
            until_serving(&model_port, &partner_port, &model).await;
            serving.send_replace(true);
        });
        Ok(QemuEnclave {
            machine,
            ready,
            greeting,
            console,
            last_words,
            control: self.control_port(),
            draining: None,
        })
    }
}

/// A virtual machine that is an enclave.
pub struct QemuEnclave {
    machine: Machine,
    ready: watch::Receiver<bool>,
    greeting: JoinHandle<()>,
    console: JoinHandle<()>,
    last_words: LastWords,
    control: EnclaveAddress,
    draining: Option<JoinHandle<()>>,
}

impl Enclave for QemuEnclave {
    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(once_ready(self.ready.clone()))
    }

    async fn ended(&mut self) -> Exit {
        let status = self.machine.wait().await;
        if !self.console.is_finished() {
            let _ = timeout(CONSOLE_LINGER, &mut self.console).await;
        }
        Exit { how: how(status.ok()), last_words: self.last_words.get() }
    }

    fn drain(&mut self) {
        let control = self.control.clone();
        self.draining =
            Some(tokio::spawn(async move { drain::tell(&control, &CancellationToken::new()).await }));
    }

    fn kill(&mut self) {
        self.machine.kill();
    }
}

impl Drop for QemuEnclave {
    fn drop(&mut self) {
        self.greeting.abort();
        self.console.abort();
        self.draining.iter().for_each(JoinHandle::abort);
    }
}

fn describe(
    settings: &Settings,
    image: &BootImage,
    root: &DevelopmentRoot,
) -> Result<Description, LaunchError> {
    let [pcr0, pcr1, pcr2] = image.measurements().image().map(|digest| digest.to_string());
    Ok(Description {
        pcr0,
        pcr1,
        pcr2,
        pcr4: settings.instance_id.as_deref().map(|id| measurement::of_name(id).to_string()),
        development_root_sha256: Some(root.fingerprint().to_string()),
        model_sha256: digest_of_model(&settings.model)?.to_string(),
        command_line: image.measurement.command_line.clone(),
    })
}

/// QEMU ends with status 0 when the guest restarts, which is how an enclave halts.
fn how(status: Option<ExitStatus>) -> How {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => How::Status(code),
        Some((None, Some(signal))) => How::Signal(signal),
        _ => How::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_too_small_for_its_image_is_refused_before_it_starts() {
        let folder = tempfile::tempdir().unwrap();
        let [image, model] = ["image.eif", "model"].map(|name| folder.path().join(name));
        std::fs::write(&image, cleanroom_forge::image::small_image(&[7; (3 << 20) - 5])).unwrap();
        std::fs::write(&model, "").unwrap();
        let prepare = |memory_mib| {
            Qemu::prepare(&Settings {
                image: image.clone(),
                model: model.clone(),
                instance_id: None,
                machine: MachineSettings {
                    qemu: PathBuf::new(),
                    vsock_device: PathBuf::new(),
                    memory_mib,
                    processors: 1,
                    acceleration: Acceleration::Tcg,
                    append: String::new(),
                },
                state: folder.path().join("state"),
                echo_console: false,
            })
        };
        assert!(matches!(prepare(2), Err(LaunchError::Memory { least: 3, actual: 2 })));
        assert!(prepare(3).is_ok());
    }
}
