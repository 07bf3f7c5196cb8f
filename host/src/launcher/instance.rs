//! The `nitrotpm` tier: the enclave is an EC2 instance, and this host is another machine that serves it.
//!
//! Nothing is started here. The operator starts the instance from its measured image, by whatever means AWS has for that. To
//! launch means to serve whatever boots there: the model, for as long as this host runs, because an instance that is reset asks
//! for it again. To end it by force is AWS's affair as well; this host can only turn away.

use std::fs::File;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use cleanroom_link::control::ControlKind;
use cleanroom_link::port;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::state::StateFolder;
use super::store::serve_model;
use super::{Enclave, Exit, How, LaunchError, Launcher};
use crate::agent::Control;
use crate::endpoint::{AddressError, EnclaveAddress, host_of};
use crate::relay::Dial as _;

/// How often the host looks whether the instance accepts connections, and whether it is gone.
const POLL: Duration = Duration::from_millis(250);
/// The pause after an instance has its model, before it is asked whether it wants it again.
const MODEL_AGAIN: Duration = Duration::from_secs(2);

/// What to serve.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's name or address.
    pub host: String,
    /// The model file.
    pub model: PathBuf,
}

/// The three ports of an instance.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Partners' connections.
    pub partners: EnclaveAddress,
    /// The host's control connections.
    pub control: EnclaveAddress,
    /// The store of the model.
    pub store: EnclaveAddress,
}

impl Ports {
    /// Those of the instance with this name or address.
    ///
    /// # Errors
    /// [`AddressError`] when it cannot be one.
    pub fn of(host: &str) -> Result<Self, AddressError> {
        let host = host_of(host)?;
        let none = || AddressError::Form { expected: "a port of TCP", actual: host.clone() };
        let at = |port| EnclaveAddress::of_instance(&host, port).ok_or_else(none);
        Ok(Self { partners: at(port::PARTNERS)?, control: at(port::CONTROL)?, store: at(port::MODEL)? })
    }
}

/// Serves an instance.
pub struct Instance {
    ports: Ports,
    model: PathBuf,
    /// Another host with the same folder would serve the same instance.
    _state: StateFolder,
}

impl Instance {
    /// Takes the settings as they are. The instance need not be there yet.
    ///
    /// # Errors
    /// [`LaunchError`] says which of the settings cannot be used.
    pub fn prepare_in(settings: &Settings, state: StateFolder) -> Result<Self, LaunchError> {
        let ports = Ports::of(&settings.host)?;
        let model = settings.model.clone();
        File::open(&model).map_err(|source| LaunchError::Read {
            what: "model",
            path: model.clone(),
            source,
        })?;
        Ok(Self { ports, model, _state: state })
    }

    /// The instance's ports.
    #[must_use]
    pub const fn ports(&self) -> &Ports {
        &self.ports
    }
}

impl Launcher for Instance {
    type Enclave = ServedInstance;

    async fn launch(&mut self) -> Result<ServedInstance, LaunchError> {
        let (store, model) = (self.ports.store.clone(), self.model.clone());
        let store = tokio::spawn(async move {
            loop {
                serve_model(&store, &model).await;
                sleep(MODEL_AGAIN).await;
            }
        });
        Ok(ServedInstance { ports: self.ports.clone(), store, wish: watch::Sender::new(Wish::Serve) })
    }
}

/// What the host wants of the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Serve,
    Drain,
    /// The host turns away.
    Leave,
}

/// An instance that gets the model from here.
pub struct ServedInstance {
    ports: Ports,
    store: JoinHandle<()>,
    wish: watch::Sender<Wish>,
}

impl Enclave for ServedInstance {
    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let partners = self.ports.partners.clone();
        Box::pin(async move {
            while partners.dial().await.is_err() {
                sleep(POLL).await;
            }
        })
    }

    async fn ended(&mut self) -> Exit {
        let mut wish = self.wish.subscribe();
        // An instance that ends unasked answers no probe, and boots again on AWS's word alone.
        wishes(&mut wish, |wish| wish != Wish::Serve).await;
        tokio::select! {
            biased;
            () = wishes(&mut wish, |wish| wish == Wish::Leave) => Exit { how: How::Unknown, last_words: None },
            () = drained(&self.ports) => Exit { how: How::Status(0), last_words: None },
        }
    }

    fn drain(&mut self) {
        self.wish.send_if_modified(|wish| {
            let serves = *wish == Wish::Serve;
            if serves {
                *wish = Wish::Drain;
            }
            serves
        });
    }

    fn kill(&mut self) {
        self.wish.send_replace(Wish::Leave);
    }
}

impl Drop for ServedInstance {
    fn drop(&mut self) {
        self.store.abort();
    }
}

/// Returns when the host wishes this, which it does before it forgets the instance.
async fn wishes(wish: &mut watch::Receiver<Wish>, is_this: impl Fn(Wish) -> bool) {
    let _ = wish.wait_for(|wish| is_this(*wish)).await.is_ok();
}

/// Tells the instance to drain, and returns when it takes no connections any more.
async fn drained(ports: &Ports) {
    let mut is_told = false;
    loop {
        match ports.control.dial().await {
            Ok(stream) => {
                let control = Control::new(stream);
                if control.ask(ControlKind::Drain, b"").await.is_ok() {
                    if !is_told {
                        tracing::info!("the enclave drains");
                    }
                    is_told = true;
                    // The enclave closes it when it has ended, or when others take its place.
                    control.closed().await;
                }
            }
            Err(_) if ports.partners.dial().await.is_err() => return,
            Err(_) => {}
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer};
    use cleanroom_link::store;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// An address of this machine that no other process has (their numbers have 22 bits), and a second one.
    fn own_addresses() -> [Ipv4Addr; 2] {
        let [_, top, high, low] = std::process::id().to_be_bytes();
        [64, 192].map(|mark| Ipv4Addr::new(127, mark | top, high, low))
    }

    fn served(folder: &std::path::Path, host: &str) -> Result<Instance, LaunchError> {
        let model = folder.join("model");
        std::fs::write(&model, "weights").unwrap();
        let settings = Settings { host: host.to_owned(), model };
        Instance::prepare_in(&settings, StateFolder::take(&folder.join("state")).unwrap())
    }

    #[tokio::test]
    async fn an_instance_gets_its_model_again_and_again_and_is_told_to_drain() {
        let folder = tempfile::tempdir().unwrap();
        let [address, _] = own_addresses();
        let mut launcher = served(folder.path(), &address.to_string()).unwrap();
        let mut enclave = launcher.launch().await.unwrap();
        let listener = TcpListener::bind((address, 5002)).await.unwrap();
        for _boot in 0..2 {
            // Connections that the host had made before the farewell, and has ended since, may still wait here.
            let fetched = async {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut weights = [0; 7];
                    if store::Description::read(&mut stream).await.is_ok()
                        && store::ask(&mut stream, 0, &mut weights).await.is_ok()
                    {
                        store::farewell(&mut stream).await;
                        return weights;
                    }
                }
            };
            assert_eq!(&timeout(PATIENCE, fetched).await.unwrap(), b"weights");
        }
        let partners = TcpListener::bind((address, 5000)).await.unwrap();
        timeout(PATIENCE, enclave.ready()).await.unwrap();

        let control = TcpListener::bind((address, 5001)).await.unwrap();
        enclave.drain();
        let instance = async {
            let (mut stream, _) = control.accept().await.unwrap();
            let mut header = [0; CONTROL_HEADER_BYTES];
            stream.read_exact(&mut header).await.unwrap();
            assert_eq!(header, ControlKind::Drain.frame(b"")[..]);
            let accepted = ControlAnswer::Accepted(cleanroom_attestation::release::Accepted::New);
            stream.write_all(&accepted.frame()).await.unwrap();
            // Everything ends with the machine.
            drop((stream, control, partners, listener));
        };
        let (exit, ()) = timeout(PATIENCE, async { tokio::join!(enclave.ended(), instance) }).await.unwrap();
        assert_eq!(exit.how, How::Status(0));
    }

    #[tokio::test]
    async fn a_host_that_turns_away_does_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let [_, address] = own_addresses();
        let mut launcher = served(folder.path(), &address.to_string()).unwrap();
        let mut enclave = launcher.launch().await.unwrap();
        enclave.kill();
        enclave.drain();
        assert_eq!(timeout(PATIENCE, enclave.ended()).await.unwrap().how, How::Unknown);
    }

    #[tokio::test]
    async fn what_cannot_be_served_is_said_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(served(folder.path(), "a b"), Err(LaunchError::Socket(_))));
        let settings = Settings { host: "room".to_owned(), model: folder.path().join("none") };
        let state = StateFolder::take(&folder.path().join("state")).unwrap();
        assert!(matches!(Instance::prepare_in(&settings, state), Err(LaunchError::Read { .. })));
    }
}
