//! Addresses: where partners connect to the host, and where the host finds the enclave.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use cleanroom_link::{port, tcp};
use cleanroom_program::claim::ClaimedListener;
use cleanroom_vsock::WRITE_CAP;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::either::Either;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::capture::Captured;
use crate::relay::{Accept, Accepted, Dial, Moves};

/// The longest path of a Unix socket in bytes: `sun_path` without its terminator (unix(7)).
pub const SOCKET_PATH_MAX: usize = 107;

/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
///
/// When the queue is full, Linux answers with SYN cookies. A connection that begins with a segment of one to
/// three bytes and loses it can then be accepted *without those bytes*: the cookie's check takes the later
/// sequence number for another segment size. TLS notices, and its first segment is larger. A long queue keeps
/// it from happening in a burst at all.
const BACKLOG: u32 = 4096;

/// How long a TCP connection to an enclave may take to be there. A machine that is off does not refuse it.
const TCP_CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Where the host listens: `HOST:PORT`, `tcp:HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address as `HOST:PORT`; a name is resolved when the socket is bound.
    Tcp(String),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

/// Where the enclave listens: `vsock:CID:PORT`, `hybrid:PORT:PATH`, `unix:PATH` or `tcp:HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnclaveAddress {
    /// An `AF_VSOCK` stream address (vsock(7)).
    Vsock {
        /// The enclave's context id.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// A port of a virtual machine whose vsock device is a Unix socket here (`vhost-device-vsock`,
    /// Firecracker). A client sends a line with `CONNECT` and the port. The device answers with a line of
    /// `OK` and a number.
    Hybrid {
        /// The device's socket.
        path: PathBuf,
        /// The port.
        port: u32,
    },
    /// The path of a Unix stream socket.
    Unix(PathBuf),
    /// A port of an instance that is the enclave itself.
    Tcp {
        /// The instance's name or address; of IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The form is unknown.
    #[error("expected {expected}, got `{actual}`")]
    Form {
        /// The forms that are known.
        expected: &'static str,
        /// What came.
        actual: String,
    },
    /// A socket path does not fit into a socket address.
    #[error(
        "the socket path `{}` has {} bytes, the system allows {SOCKET_PATH_MAX}; choose a shorter folder",
        .0.display(),
        .0.as_os_str().len()
    )]
    PathTooLong(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(Self::Unix);
        }
        let address = text.strip_prefix("tcp:").unwrap_or(text);
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(address.to_owned()))
            }
            _ => Err(AddressError::Form { expected: "HOST:PORT or unix:PATH", actual: text.to_owned() }),
        }
    }
}

impl FromStr for EnclaveAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(Self::Unix);
        }
        let hybrid = text.strip_prefix("hybrid:").and_then(|rest| rest.split_once(':'));
        if let Some((port, path)) = hybrid
            && let Ok(port) = port.parse()
        {
            return socket_path(path).map(|path| Self::Hybrid { path, port });
        }
        if let Some(address) = text.strip_prefix("tcp:")
            && let Some((host, port)) = address.rsplit_once(':')
            && let Ok(port) = port.parse()
        {
            return Ok(Self::Tcp { host: host_of(host)?, port });
        }
        let vsock = text.strip_prefix("vsock:").and_then(|rest| rest.split_once(':'));
        match vsock.map(|(cid, port)| (cid.parse(), port.parse())) {
            Some((Ok(cid), Ok(port))) => Ok(Self::Vsock { cid, port }),
            _ => Err(AddressError::Form {
                expected: "vsock:CID:PORT, hybrid:PORT:PATH, unix:PATH or tcp:HOST:PORT",
                actual: text.to_owned(),
            }),
        }
    }
}

impl EnclaveAddress {
    /// Where an enclave is told things that takes partners' connections here: another port, or `control.sock` in the
    /// same folder. None if the port is not an enclave's.
    #[must_use]
    pub fn control(&self) -> Option<Self> {
        match self {
            Self::Vsock { cid, port: port::PARTNERS } => Some(Self::Vsock { cid: *cid, port: port::CONTROL }),
            Self::Hybrid { path, port: port::PARTNERS } => {
                Some(Self::Hybrid { path: path.clone(), port: port::CONTROL })
            }
            Self::Tcp { host, port } if u32::from(*port) == port::PARTNERS => {
                Self::of_instance(host, port::CONTROL)
            }
            Self::Vsock { .. } | Self::Hybrid { .. } | Self::Tcp { .. } => None,
            Self::Unix(path) => Some(Self::Unix(path.with_file_name("control.sock"))),
        }
    }
}

impl EnclaveAddress {
    /// A port of `cleanroom_link::port` on an instance that is the enclave itself. None if TCP has no such port.
    #[must_use]
    pub fn of_instance(host: &str, port: u32) -> Option<Self> {
        Some(Self::Tcp { host: host.to_owned(), port: u16::try_from(port).ok()? })
    }
}

/// The name or address of a machine, of IPv6 with or without brackets.
///
/// # Errors
/// [`AddressError`] when it cannot be one.
pub fn host_of(text: &str) -> Result<String, AddressError> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    let is_host = !bare.is_empty() && bare.bytes().all(plain);
    // A colon is in addresses alone, and `HOST:PORT` is none.
    let is_host = is_host && (!bare.contains(':') || bare.parse::<Ipv6Addr>().is_ok());
    if is_host {
        Ok(bare.to_owned())
    } else {
        Err(AddressError::Form { expected: "a machine's name or address", actual: text.to_owned() })
    }
}

/// A path that a Unix socket can be bound to.
///
/// # Errors
/// [`AddressError`] when it is empty or too long.
pub fn socket_path(path: impl Into<PathBuf>) -> Result<PathBuf, AddressError> {
    let path = path.into();
    match path.as_os_str().len() {
        0 => Err(AddressError::Form { expected: "a path after `unix:`", actual: "nothing".to_owned() }),
        1..=SOCKET_PATH_MAX => Ok(path),
        _ => Err(AddressError::PathTooLong(path)),
    }
}

/// Removes a socket that an earlier run left at `path`, in a folder that this process alone uses. Anything
/// but a socket stays, and binding then fails.
///
/// # Errors
/// When the file system refuses.
pub fn remove_stale_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for EnclaveAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(formatter, "vsock:{cid}:{port}"),
            Self::Hybrid { path, port } => write!(formatter, "hybrid:{port}:{}", path.display()),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "tcp:{host}:{port}"),
        }
    }
}

impl ListenAddress {
    /// Binds the socket. A Unix socket on which nobody listens any more is replaced.
    ///
    /// # Errors
    /// When the system refuses, for instance because somebody listens on the address.
    pub async fn bind(&self) -> io::Result<BoundListener> {
        match self {
            Self::Tcp(address) => bind_tcp(address).await.map(BoundListener::Tcp),
            Self::Unix(path) => ClaimedListener::bind(path, 0o777).await.map(BoundListener::Unix),
        }
    }
}

/// The first of the addresses that `address` resolves to and that can be bound, with a queue of [`BACKLOG`].
async fn bind_tcp(address: &str) -> io::Result<TcpListener> {
    let mut refusal = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in tokio::net::lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Tokens are small and each is worth a packet. Linux gives each connection what its listener has.
        socket.set_nodelay(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// A socket that partners can connect to.
#[derive(Debug)]
pub enum BoundListener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(ClaimedListener),
}

impl BoundListener {
    /// The address that was bound, with the port that the system chose if it was asked to.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map(|address: SocketAddr| ListenAddress::Tcp(address.to_string()))
            }
            Self::Unix(listener) => Ok(ListenAddress::Unix(listener.path().to_owned())),
        }
    }
}

impl Accept for BoundListener {
    type Stream = Either<TcpStream, UnixStream>;

    async fn accept(&mut self) -> io::Result<Accepted<Self::Stream>> {
        let (stream, from) = match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                (Either::Left(stream), Some(from))
            }
            Self::Unix(listener) => (Either::Right(listener.accept().await?), None),
        };
        Ok(Accepted { stream, from, has_header: false })
    }

    fn copies(self, most: usize) -> io::Result<Vec<Self>> {
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                let copies = (1..most).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>()?;
                let all = copies.into_iter().chain([listener]);
                all.map(|listener| TcpListener::from_std(listener).map(Self::Tcp)).collect()
            }
            Self::Unix(listener) => Ok(vec![Self::Unix(listener)]),
        }
    }

    fn here(self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => TcpListener::from_std(listener.into_std()?).map(Self::Tcp),
            // Connections of balancers on this machine are few and long.
            Self::Unix(listener) => Ok(Self::Unix(listener)),
        }
    }
}

impl Moves for Either<TcpStream, UnixStream> {
    fn here(self) -> io::Result<Self> {
        match self {
            Self::Left(stream) => TcpStream::from_std(stream.into_std()?).map(Self::Left),
            Self::Right(stream) => UnixStream::from_std(stream.into_std()?).map(Self::Right),
        }
    }

    fn server(&self) -> Option<SocketAddr> {
        match self {
            Self::Left(stream) => stream.local_addr().ok(),
            Self::Right(_) => None,
        }
    }
}

/// A connection to an enclave of any tier.
pub(crate) type EnclaveStream = Either<Either<UnixStream, TcpStream>, VsockStream>;

impl Dial for EnclaveAddress {
    type Stream = Captured<EnclaveStream>;

    async fn dial(&self) -> io::Result<Self::Stream> {
        let stream = match self {
            Self::Unix(path) => Either::Left(Either::Left(connect_unix(path)?)),
            Self::Hybrid { path, port } => Either::Left(Either::Left(connect_hybrid(path, *port).await?)),
            Self::Tcp { host, port } => Either::Left(Either::Right(connect_tcp(host, *port).await?)),
            Self::Vsock { cid, port } => {
                Either::Right(VsockStream::connect(VsockAddr::new(*cid, *port)).await?)
            }
        };
        Captured::new(stream)
    }

    /// Behind a device's socket there is a vsock.
    fn longest_write(&self) -> usize {
        match self {
            Self::Unix(_) | Self::Tcp { .. } => usize::MAX,
            Self::Hybrid { .. } | Self::Vsock { .. } => WRITE_CAP,
        }
    }
}

impl EnclaveAddress {
    /// Connects as [`Dial::dial`] does. A Unix socket then takes `room` bytes before the other end has read them, or as many
    /// as the system allows (`net.core.wmem_max`).
    pub(crate) async fn dial_with_room(&self, room: usize) -> io::Result<<Self as Dial>::Stream> {
        let Self::Unix(path) = self else { return self.dial().await };
        let stream = connect_unix(path)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, room)?;
        Captured::new(Either::Left(Either::Left(stream)))
    }
}

/// Connects to a port of an instance.
async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = timeout(TCP_CONNECT_LIMIT, TcpStream::connect((host, port))).await??;
    tcp::attend(&stream)?;
    Ok(stream)
}

/// Connects to a Unix socket, which needs no waiting: a connection is there at once or refused at once, and refused
/// also when too many wait to be accepted (unix(7)).
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    UnixStream::from_std(socket.into())
}

/// Connects to a port of a virtual machine through its vsock device's socket.
async fn connect_hybrid(path: &Path, port: u32) -> io::Result<UnixStream> {
    /// `OK`, the longest port number and the line's end.
    const ANSWER_MAX: usize = 16;
    let mut stream = connect_unix(path)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    // Byte by byte: what follows the line belongs to the enclave.
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        if answer.len() == ANSWER_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            // The device closes when nobody in the machine listens on the port.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Err(error) => return Err(error),
        }
    }
    if answer.starts_with(b"OK ") { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_to_a_vsock_has_a_longest_write() {
        for (address, longest) in [
            ("vsock:16:5000", WRITE_CAP),
            ("hybrid:5000:/run/device", WRITE_CAP),
            ("unix:/run/e", usize::MAX),
            ("tcp:10.0.0.7:5000", usize::MAX),
        ] {
            assert_eq!(address.parse::<EnclaveAddress>().unwrap().longest_write(), longest, "{address}");
        }
    }

    #[test]
    fn an_enclave_is_told_things_beside_where_its_partners_go() {
        for (partners, control) in [
            ("vsock:16:5000", Some("vsock:16:5001")),
            ("vsock:16:5005", None),
            ("hybrid:5000:/run/x", Some("hybrid:5001:/run/x")),
            ("hybrid:1:/run/x", None),
            ("unix:/run/state/enclave.sock", Some("unix:/run/state/control.sock")),
            ("tcp:room.example:5000", Some("tcp:room.example:5001")),
            ("tcp:room.example:8443", None),
        ] {
            let partners: EnclaveAddress = partners.parse().unwrap();
            assert_eq!(partners.control().map(|control| control.to_string()).as_deref(), control);
        }
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["127.0.0.1:8443", "[::1]:0", "unix:/run/relay.sock"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        assert_eq!("tcp:localhost:1".parse(), Ok(ListenAddress::Tcp("localhost:1".to_owned())));
        for text in [
            "vsock:16:8443",
            "vsock:4294967295:0",
            "unix:/run/enclave.sock",
            "hybrid:5000:/run/x:y",
            "tcp:room.example:5000",
            "tcp:[2001:db8::7]:5000",
        ] {
            assert_eq!(text.parse::<EnclaveAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_would_be() {
        for text in ["", ":1", "host", "host:port", "host:65536", "unix:"] {
            assert!(matches!(text.parse::<ListenAddress>(), Err(AddressError::Form { .. })), "{text}");
        }
        for text in [
            "",
            "vsock:16",
            "hybrid:x:/run",
            "hybrid:1:",
            "vsock:-1:1",
            "vsock:a:1",
            "127.0.0.1:1",
            "unix:",
            "tcp:room",
            "tcp::1",
            "tcp:a room:1",
            "tcp:a:b:1",
            "tcp:room:65536",
        ] {
            assert!(matches!(text.parse::<EnclaveAddress>(), Err(AddressError::Form { .. })), "{text}");
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let fits = format!("unix:/{}", "x".repeat(SOCKET_PATH_MAX - 1));
        assert!(fits.parse::<EnclaveAddress>().is_ok());
        let error = format!("{fits}x").parse::<EnclaveAddress>().unwrap_err();
        assert!(matches!(error, AddressError::PathTooLong(_)));
        // The limit is the system's, not a guess.
        let system = std::os::unix::net::SocketAddr::from_pathname::<&str>;
        assert!(system(&fits["unix:".len()..]).is_ok());
        assert!(system(&format!("{}x", &fits["unix:".len()..])).is_err());
    }

    /// What a client gets from a vsock device that answers its first line with `answer`.
    async fn answered(answer: &'static [u8]) -> (io::Result<Vec<u8>>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let device = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = vec![0; b"CONNECT 5000\n".len()];
            stream.read_exact(&mut line).await.unwrap();
            stream.write_all(answer).await.unwrap();
            String::from_utf8(line).unwrap()
        };
        let client = async {
            let mut stream = EnclaveAddress::Hybrid { path: path.clone(), port: 5000 }.dial().await?;
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await?;
            Ok(heard)
        };
        tokio::join!(client, device)
    }

    #[tokio::test]
    async fn an_instance_is_reached_by_tcp_and_small_pieces_leave_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp:{}", listener.local_addr().unwrap());
        let stream = address.parse::<EnclaveAddress>().unwrap().dial().await.unwrap();
        let Either::Left(Either::Right(stream)) = stream.uncopied().unwrap() else { unreachable!() };
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn small_pieces_leave_at_once_on_a_connection_that_arrives_here_and_on_one_that_moves() {
        let mut listener = "127.0.0.1:0".parse::<ListenAddress>().unwrap().bind().await.unwrap();
        let ListenAddress::Tcp(address) = listener.address().unwrap() else { unreachable!() };
        let client = TcpStream::connect(&address).await.unwrap();
        let Accepted { stream, from, .. } = listener.accept().await.unwrap();
        assert_eq!(from, Some(client.local_addr().unwrap()));
        assert_eq!(stream.server(), Some(client.peer_addr().unwrap()));
        let Either::Left(stream) = stream.here().unwrap() else { unreachable!() };
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_port_behind_a_vsock_device_is_asked_for_and_nothing_after_the_answer_is_lost() {
        let (heard, line) = answered(b"OK 1073741824\nfirst bytes").await;
        assert_eq!((heard.unwrap().as_slice(), line.as_str()), (b"first bytes".as_slice(), "CONNECT 5000\n"));
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_refused_and_nonsense_is_no_answer() {
        assert_eq!(answered(b"").await.0.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        for nonsense in [b"NO\n".as_slice(), b"OK 12345678901234567890\n"] {
            assert_eq!(answered(nonsense).await.0.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
