//! Balancers in front of this host, and another host behind it: who says whom a connection comes from.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use cleanroom_proxy_protocol::{FIXED_BYTES, FURTHER_BYTES_MAX, Header, HeaderError, Progress, read};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Accept, Accepted, Dial};
use crate::endpoint::{BoundListener, EnclaveAddress, ListenAddress};

/// A balancer, or some with addresses of one network. Each of its connections begins with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancer {
    /// `unix`: the programs that connect to a Unix socket.
    Unix,
    /// `ADDRESS` or `NETWORK/BITS`.
    Network {
        /// The first address, not written as an IPv6 address if it is an IPv4 address.
        first: IpAddr,
        /// How many bits of it are the network's.
        bits: u8,
    },
}

/// Why a text names no balancer, or one that cannot connect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BalancerError {
    /// The form is unknown.
    #[error("expected an address, a network like 10.0.0.0/24, or `unix`, got `{0}`")]
    Form(String),
    /// The text could mean an address or its network.
    #[error(
        "expected the first address of a network, got `{given}`; write `{network}`, or the address alone"
    )]
    NotFirst {
        /// What came.
        given: String,
        /// The network that it lies in.
        network: Balancer,
    },
    /// It has addresses, and connections come over a Unix socket.
    #[error(
        "expected --proxy-protocol unix beside --listen {listen}, got `{balancer}`, which cannot connect there"
    )]
    NoAddresses {
        /// The balancer.
        balancer: Balancer,
        /// Where the host listens.
        listen: ListenAddress,
    },
    /// It connects to a Unix socket, and the host listens on none.
    #[error("expected an address or a network beside --listen {0}, got `unix`, which cannot connect there")]
    NoSocket(ListenAddress),
}

impl Balancer {
    fn network(first: IpAddr, bits: u8) -> Self {
        Self::Network { first: masked(first, bits), bits }
    }

    fn includes(self, address: Option<IpAddr>) -> bool {
        match (self, address) {
            (Self::Unix, address) => address.is_none(),
            (Self::Network { first, bits }, Some(address)) => {
                let address = address.to_canonical();
                address.is_ipv4() == first.is_ipv4() && masked(address, bits) == first
            }
            (Self::Network { .. }, None) => false,
        }
    }
}

/// The address with all bits zero but the first `bits`.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(u32::BITS.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(u128::BITS.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

impl FromStr for Balancer {
    type Err = BalancerError;

    fn from_str(text: &str) -> Result<Self, BalancerError> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let form = || BalancerError::Form(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| form())?)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| form())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(form());
        }
        if masked(address, bits) != address {
            return Err(BalancerError::NotFirst {
                given: text.to_owned(),
                network: Self::network(address, bits),
            });
        }
        // An IPv4 address that is written as an IPv6 address, with its network.
        match address.to_canonical() {
            canonical if canonical == address => Ok(Self::network(address, bits)),
            canonical => Ok(Self::network(canonical, bits.checked_sub(96).ok_or_else(form)?)),
        }
    }
}

impl fmt::Display for Balancer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => formatter.write_str("unix"),
            Self::Network { first, bits } => write!(formatter, "{first}/{bits}"),
        }
    }
}

/// The balancers in front of this host.
#[derive(Debug, Clone, Default)]
pub struct Balancers(Vec<Balancer>);

impl Balancers {
    /// The balancers in front of a host that listens on `listen`.
    ///
    /// # Errors
    /// [`BalancerError`] when one of them cannot connect there, so that its clients would never be known.
    pub fn new(balancers: Vec<Balancer>, listen: &ListenAddress) -> Result<Self, BalancerError> {
        for balancer in &balancers {
            match (balancer, listen) {
                (Balancer::Unix, ListenAddress::Tcp(_)) => {
                    return Err(BalancerError::NoSocket(listen.clone()));
                }
                (Balancer::Network { .. }, ListenAddress::Unix(_)) => {
                    let (balancer, listen) = (*balancer, listen.clone());
                    return Err(BalancerError::NoAddresses { balancer, listen });
                }
                _ => {}
            }
        }
        Ok(Self(balancers))
    }

    fn include(&self, address: Option<IpAddr>) -> bool {
        self.0.iter().any(|balancer| balancer.includes(address))
    }
}

/// Where partners connect, by themselves or through balancers.
#[derive(Debug)]
pub struct Partners {
    /// Where they connect.
    pub listener: BoundListener,
    /// Who passes connections on.
    pub balancers: Balancers,
}

impl Accept for Partners {
    type Stream = <BoundListener as Accept>::Stream;

    async fn accept(&mut self) -> io::Result<Accepted<Self::Stream>> {
        let Accepted { stream, from, .. } = self.listener.accept().await?;
        let has_header = self.balancers.include(from.map(|from| from.ip()));
        Ok(Accepted { stream, from, has_header })
    }

    fn copies(self, most: usize) -> io::Result<Vec<Self>> {
        let Self { listener, balancers } = self;
        let listeners = listener.copies(most)?.into_iter();
        Ok(listeners.map(|listener| Self { listener, balancers: balancers.clone() }).collect())
    }

    fn here(self) -> io::Result<Self> {
        Ok(Self { listener: self.listener.here()?, ..self })
    }
}

/// Where a relay carries its connections: to an enclave, or to another host that is to know their clients.
#[derive(Debug, Clone)]
pub struct NextHost {
    /// The address.
    pub address: EnclaveAddress,
    /// Whether each connection begins with a header. An enclave takes it for a client that speaks no TLS.
    pub wants_header: bool,
}

impl Dial for NextHost {
    type Stream = <EnclaveAddress as Dial>::Stream;

    fn dial(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send {
        self.address.dial()
    }

    fn wants_header(&self) -> bool {
        self.wants_header
    }

    fn longest_write(&self) -> usize {
        self.address.longest_write()
    }
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHeader {
    #[error("the connection closed before its first byte")]
    Nothing,
    #[error("expected a header of the PROXY protocol, and the connection closed within it")]
    Closed,
    #[error("expected a header of the PROXY protocol within {} s", super::HEADER_LIMIT.as_secs())]
    TooLate,
    #[error("expected a header of the PROXY protocol, and the connection failed: {}", .0.kind())]
    Failed(io::Error),
    #[error(transparent)]
    Other(#[from] HeaderError),
}

/// Reads a header and no byte beyond it.
pub(super) async fn header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Header, NoHeader> {
    let mut bytes = Vec::with_capacity(FIXED_BYTES);
    loop {
        let missing = match read(&bytes)? {
            Progress::Complete { header, .. } => return Ok(header),
            Progress::Missing(missing) => missing.min(FIXED_BYTES + FURTHER_BYTES_MAX),
        };
        match (&mut *stream).take(missing as u64).read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => return Err(NoHeader::Nothing),
            Ok(0) => return Err(NoHeader::Closed),
            Ok(_) => {}
            Err(error) => return Err(NoHeader::Failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use cleanroom_proxy_protocol::{Addresses, written};
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    fn balancer(text: &str) -> Balancer {
        text.parse().unwrap()
    }

    #[test]
    fn a_balancer_is_an_address_a_network_or_a_unix_socket() {
        let includes = |text: &str, address: &str| balancer(text).includes(Some(address.parse().unwrap()));
        for (text, inside, outside) in [
            ("10.0.0.5", "10.0.0.5", "10.0.0.4"),
            ("10.0.0.5", "::ffff:10.0.0.5", "::ffff:10.0.0.4"),
            ("::ffff:10.0.0.0/120", "10.0.0.255", "10.0.1.0"),
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.0.0.4/31", "10.0.0.5", "10.0.0.6"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::/0", "2001:db8::1", "203.0.113.1"),
        ] {
            assert!(includes(text, inside), "{text} {inside}");
            assert!(!includes(text, outside), "{text} {outside}");
            assert_eq!(balancer(&balancer(text).to_string()), balancer(text));
        }
        assert!(balancer("unix").includes(None) && !includes("unix", "127.0.0.1"));
        assert!(!balancer("0.0.0.0/0").includes(None));
    }

    #[test]
    fn what_is_no_balancer_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0", "10.0.0.0/", "/8", "example.com", "unix:/run/x"] {
            assert!(matches!(text.parse::<Balancer>(), Err(BalancerError::Form(_))), "{text}");
        }
        let error = "10.1.2.3/8".parse::<Balancer>().unwrap_err();
        assert!(error.to_string().contains("write `10.0.0.0/8`"), "{error}");
    }

    #[test]
    fn a_balancer_that_cannot_connect_is_refused() {
        let new = |text: &str, listen: &str| Balancers::new(vec![balancer(text)], &listen.parse().unwrap());
        assert!(matches!(new("unix", "127.0.0.1:0"), Err(BalancerError::NoSocket(_))));
        assert!(matches!(new("10.0.0.1", "unix:/run/x"), Err(BalancerError::NoAddresses { .. })));
        assert!(new("unix", "unix:/run/x").is_ok() && new("10.0.0.1", "127.0.0.1:0").is_ok());
    }

    #[tokio::test]
    async fn a_header_is_read_byte_by_byte_and_what_follows_it_is_left() {
        let addresses = "192.0.2.1:5".parse().unwrap();
        let expected = Header::Passed(Addresses { client: addresses, server: addresses });
        let (mut near, mut far) = duplex(1);
        let send = async {
            far.write_all(&written(&expected)).await.unwrap();
            far.write_all(b"TLS").await.unwrap();
            drop(far);
        };
        let receive = async {
            assert_eq!(header(&mut near).await.unwrap(), expected);
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"TLS");
            assert!(matches!(header(&mut near).await, Err(NoHeader::Nothing)));
        };
        tokio::join!(send, receive);
        for (bytes, expected) in
            [(b"\r\n\r\n".as_slice(), "closed within it"), (b"\x16\x03\x01", "got something else")]
        {
            let error = header(&mut &*bytes).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
