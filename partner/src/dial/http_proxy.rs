//! HTTP proxies that open tunnels (CONNECT, RFC 9110 section 9.3.6).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::is_loopback;
use crate::address::host_and_port;

/// The longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// The most header fields in it.
const MAX_FIELDS: usize = 64;

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProxy {
    address: String,
    /// `Basic …`
    authorization: Option<Zeroizing<String>>,
}

impl HttpProxy {
    /// The proxy's own `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks for a tunnel to `target`. What follows on the stream is the target's.
    pub(super) async fn open_tunnel<S>(&self, stream: &mut S, target: &str) -> Result<(), ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        match read_status(stream).await? {
            200..=299 => Ok(()),
            status => Err(ProxyError::Refused { status }),
        }
    }
}

/// Reads the head of an answer, and not a byte more: what follows is the target's.
async fn read_status<S: AsyncRead + Unpin>(stream: &mut S) -> Result<u16, ProxyError> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Err(ProxyError::Answer);
        }
        head.push(stream.read_u8().await?);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(&head) {
        Ok(httparse::Status::Complete(_)) => response.code.ok_or(ProxyError::Answer),
        _ => Err(ProxyError::Answer),
    }
}

impl FromStr for HttpProxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) => return Err(ProxyError::Scheme(scheme.to_owned())),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, rest),
        };
        host_and_port(address).ok_or(ProxyError::Address)?;
        let basic = |credentials| {
            let credentials = Zeroizing::new(percent_decoded(credentials).ok_or(ProxyError::Address)?);
            Ok::<_, ProxyError>(Zeroizing::new(format!("Basic {}", STANDARD.encode(&*credentials))))
        };
        Ok(Self { address: address.to_owned(), authorization: credentials.map(basic).transpose()? })
    }
}

/// The bytes that `%41` and the like stand for.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    Some(decoded)
}

/// Without the credentials.
impl fmt::Debug for HttpProxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("HttpProxy").field(&self.address).finish()
    }
}

/// Which hosts are reached through a proxy.
#[derive(Debug, Clone, Default)]
pub struct ProxyChoice {
    proxy: Option<Arc<HttpProxy>>,
    except: Vec<Exception>,
}

/// Hosts that are reached without the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everything,
    /// A name and all names below it, and a port if only that one is meant.
    Name(String, Option<u16>),
    /// An address with the number of leading bits that count.
    Network(IpAddr, u8),
}

impl ProxyChoice {
    /// No proxy for anything.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A proxy for all destinations except this machine and the entries of `except`. Entries are those of the
    /// variable `NO_PROXY`, separated by commas: a name with all names below it, an address, a network such
    /// as `10.0.0.0/8`, or `*`.
    #[must_use]
    pub fn of(proxy: HttpProxy, except: &str) -> Self {
        let except = except.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Self { proxy: Some(Arc::new(proxy)), except: except.map(Exception::parse).collect() }
    }

    /// What the environment says: `https_proxy` or `HTTPS_PROXY`, then `all_proxy` or `ALL_PROXY`, and
    /// `no_proxy` or `NO_PROXY`.
    ///
    /// # Errors
    /// [`ProxyError`] when the value is not the URL of a proxy that can be used.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let first =
            |names: &[&str]| names.iter().filter_map(|name| variable(name)).find(|value| !value.is_empty());
        let Some(url) = first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]) else {
            return Ok(Self::none());
        };
        let except = first(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
        Ok(Self::of(url.parse()?, &except))
    }

    /// The proxy for a host, if it is reached through one. This machine never is.
    pub(super) fn for_host(&self, host: &str, port: u16) -> Option<&Arc<HttpProxy>> {
        let direct = is_loopback(host) || self.except.iter().any(|except| except.covers(host, port));
        self.proxy.as_ref().filter(|_| !direct)
    }
}

impl Exception {
    fn parse(entry: &str) -> Self {
        if entry == "*" {
            return Self::Everything;
        }
        let (address, bits) =
            entry.split_once('/').map_or((entry, None), |(address, bits)| (address, Some(bits)));
        let address = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let bits = bits.map(str::parse::<u8>).transpose();
        if let (Ok(address), Ok(bits)) = (address, bits) {
            let all = if address.is_ipv4() { 32 } else { 128 };
            return Self::Network(address, bits.unwrap_or(all).min(all));
        }
        let (name, port) = match entry.rsplit_once(':').map(|(name, port)| (name, port.parse().ok())) {
            Some((name, Some(port))) => (name, Some(port)),
            _ => (entry, None),
        };
        Self::Name(name.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase(), port)
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::Everything => true,
            Self::Network(network, bits) => host
                .parse::<IpAddr>()
                .is_ok_and(|address| leading(address, *bits) == leading(*network, *bits)),
            Self::Name(name, only) => {
                let host = host.to_ascii_lowercase();
                let below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                below && only.is_none_or(|only| only == port)
            }
        }
    }
}

/// The family and the leading bits of an address.
fn leading(address: IpAddr, bits: u8) -> (bool, u128) {
    let (all, number) = match address {
        IpAddr::V4(address) => (32, u128::from(address.to_bits())),
        IpAddr::V6(address) => (128, address.to_bits()),
    };
    (address.is_ipv4(), number.checked_shr(u32::from(all - bits.min(all))).unwrap_or(0))
}

/// Why a proxy cannot be used, or did not open a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The URL has a scheme that is not spoken.
    #[error("expected a proxy such as http://proxy.example:3128, got the scheme {0}://")]
    Scheme(String),
    /// The URL has no host and port.
    #[error("expected a proxy such as http://proxy.example:3128, with a port")]
    Address,
    /// The proxy did not open the tunnel. This is the proxy's word, not the clean room's.
    #[error("the proxy answered CONNECT with status {status}{}", match status {
        401 | 407 => "; it wants a user and a password: http://USER:PASSWORD@HOST:PORT",
        403 => "; it does not permit this host or port: ask whoever runs it",
        500..=599 => "; it could not reach the host",
        _ => "",
    })]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The answer is not HTTP, or too long.
    #[error("the proxy did not answer CONNECT in HTTP")]
    Answer,
    /// The connection to the proxy failed.
    #[error("the connection to the proxy failed: {0}")]
    Io(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_proxies() {
        let proxy: HttpProxy = "http://us%65r:p%40ss@proxy.example:3128/".parse().unwrap();
        assert_eq!(proxy.address(), "proxy.example:3128");
        assert_eq!(
            proxy.authorization.as_deref().unwrap(),
            &format!("Basic {}", STANDARD.encode("user:p@ss"))
        );
        assert_eq!(format!("{proxy:?}"), r#"HttpProxy("proxy.example:3128")"#);
        assert_eq!("[::1]:3128".parse::<HttpProxy>().unwrap().address(), "[::1]:3128");
        for bad in ["https://proxy.example:3128", "socks5://proxy.example:1080"] {
            assert!(matches!(bad.parse::<HttpProxy>(), Err(ProxyError::Scheme(_))), "{bad}");
        }
        for bad in ["", "http://", "proxy.example", "http://proxy.example/", "http://a:%zz@proxy.example:1"] {
            assert!(matches!(bad.parse::<HttpProxy>(), Err(ProxyError::Address)), "{bad}");
        }
    }

    #[test]
    fn exceptions_are_names_addresses_networks_and_everything() {
        let proxy: HttpProxy = "proxy.example:3128".parse().unwrap();
        let choice = ProxyChoice::of(
            proxy.clone(),
            "internal.example, .corp.example,*.wild.example,one.example:8443,10.0.0.0/8,192.0.2.7,fd00::/8",
        );
        for direct in [
            ("internal.example", 1),
            ("a.INTERNAL.example", 1),
            ("corp.example", 1),
            ("a.wild.example", 1),
            ("one.example", 8443),
            ("10.200.3.4", 1),
            ("192.0.2.7", 1),
            ("fd12::1", 1),
            ("localhost", 1),
            ("127.0.0.1", 1),
            ("::1", 1),
        ] {
            assert!(choice.for_host(direct.0, direct.1).is_none(), "{direct:?}");
        }
        for proxied in [
            ("notinternal.example", 1),
            ("one.example", 443),
            ("11.0.0.1", 1),
            ("192.0.2.8", 1),
            ("fe80::1", 1),
        ] {
            assert!(choice.for_host(proxied.0, proxied.1).is_some(), "{proxied:?}");
        }
        assert!(ProxyChoice::of(proxy.clone(), "*").for_host("a.example", 1).is_none());
        assert!(ProxyChoice::of(proxy, "0.0.0.0/0").for_host("192.0.2.1", 1).is_none());
    }

    #[test]
    fn the_environment_chooses() {
        let choice = |pairs: &[(&str, &str)]| {
            ProxyChoice::from_environment(|name| {
                pairs.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(choice(&[]).unwrap().for_host("a.example", 1).is_none());
        let both = [("HTTPS_PROXY", "http://p.example:1"), ("NO_PROXY", "b.example")];
        let both = choice(&both).unwrap();
        assert!(both.for_host("a.example", 1).is_some() && both.for_host("b.example", 1).is_none());
        assert!(choice(&[("all_proxy", "socks5://p.example:1")]).is_err());
        assert!(choice(&[("https_proxy", "")]).unwrap().for_host("a.example", 1).is_none());
    }

    /// What the scripted proxy says, and what it was asked.
    async fn ask(proxy: &HttpProxy, answer: &[u8]) -> (Result<(), ProxyError>, String, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(answer).await.unwrap();
        let result = proxy.open_tunnel(&mut ours, "room.example:8443").await;
        let mut asked = vec![0; 1024];
        let count = theirs.read(&mut asked).await.unwrap();
        asked.truncate(count);
        drop(theirs);
        let mut rest = Vec::new();
        let _ = ours.read_to_end(&mut rest).await;
        (result, String::from_utf8(asked).unwrap(), rest)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_and_nothing_of_the_target_is_lost() {
        let proxy: HttpProxy = "http://u:p@proxy.example:3128".parse().unwrap();
        let (result, asked, rest) = ask(&proxy, b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\ntarget").await;
        result.unwrap();
        assert_eq!(
            asked,
            "CONNECT room.example:8443 HTTP/1.1\r\nHost: room.example:8443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        );
        assert_eq!(rest, b"target");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_or_does_not_speak_http_is_named() {
        let proxy: HttpProxy = "proxy.example:3128".parse().unwrap();
        for (answer, expected) in [
            (&b"HTTP/1.1 407 Authenticate\r\n\r\n"[..], "http://USER:PASSWORD@"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "status 403"),
            (b"SSH-2.0-x\r\n\r\n", "in HTTP"),
            (&[b'a'; 9000], "in HTTP"),
        ] {
            let (result, ..) = ask(&proxy, answer).await;
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
