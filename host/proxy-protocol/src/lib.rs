//! The PROXY protocol, version 2: a header in which a balancer says whose connection it passes on.
//!
//! The source is `proxy-protocol.txt` of `HAProxy`, section 2.2. A header is
//!
//! | bytes | contents |
//! |---|---|
//! | 12 | a signature |
//! | 1 | the version, 2, in the upper half; the command in the lower half: 0 LOCAL, 1 PROXY |
//! | 1 | what is passed on: 0x00 unknown, 0x11 TCP over IPv4, 0x21 TCP over IPv6; others are refused here |
//! | 2 | how many bytes follow, big-endian |
//! | 12 or 36 | the addresses of client and balancer, then their ports, big-endian |
//! | rest | fields, each with a type (1 byte), a length (2 bytes, big-endian) and a value; nothing here uses them |
//!
//! This crate has no I/O and no dependency that a header could reach. It is our own because it is smaller than
//! the use of a library would be: the crate `ppp` reads version 1 and addresses of Unix
//! sockets too, so its answers would have to be checked and refused here all the same.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a header that say how many more there are.
pub const FIXED_BYTES: usize = 16;
/// The most bytes that may follow those. Addresses take 36, and the fields that balancers add some hundred.
pub const FURTHER_BYTES_MAX: usize = 2048;

/// No TLS session begins with these bytes, and no HTTP request does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How a header of version 1 begins.
const VERSION_1: &[u8; 6] = b"PROXY ";

const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const UNKNOWN: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The balancer speaks for itself, to look whether the host is there, or does not know the client's address.
    /// The addresses of the connection itself count.
    Own,
    /// The balancer passes a client's connection on.
    Passed(Addresses),
}

/// Both ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where it comes from.
    pub client: SocketAddr,
    /// Where the client connected to.
    pub server: SocketAddr,
}

/// How far reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// At least so many bytes are missing, and reading so many takes nothing of what follows the header.
    Missing(usize),
    /// The header is complete.
    Complete {
        /// What it says.
        header: Header,
        /// How many bytes it has. What follows them is the client's.
        length: usize,
    },
}

/// Why bytes are no header that is taken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else, most often TLS without a header before it.
    #[error(
        "expected a header of the PROXY protocol, version 2, got something else; have the balancer send it \
         (HAProxy: send-proxy-v2), or take its address out of --proxy-protocol"
    )]
    Absent,
    /// A header of version 1, which is text.
    #[error(
        "expected version 2 of the PROXY protocol, got version 1; have the balancer send version 2 \
         (HAProxy: send-proxy-v2 in place of send-proxy)"
    )]
    Version1,
    /// A version that is not known.
    #[error("expected version 2 of the PROXY protocol, got version {0}")]
    Version(u8),
    /// A command that is not known.
    #[error("expected the command LOCAL (0) or PROXY (1) of the PROXY protocol, got {0}")]
    Command(u8),
    /// Neither TCP nor unknown.
    #[error(
        "expected TCP over IPv4 (0x11) or IPv6 (0x21) in the header of the PROXY protocol, got {0:#04x}; other \
         protocols cannot be passed on"
    )]
    Protocol(u8),
    /// Too many fields.
    #[error("expected at most {FURTHER_BYTES_MAX} bytes in the header of the PROXY protocol, got {0}")]
    TooLong(usize),
    /// Too few bytes for the addresses, or for the last field.
    #[error("the header of the PROXY protocol ends within its addresses or fields")]
    CutShort,
}

/// Reads a header from the first bytes of a connection. Call it again with more bytes when some are missing.
///
/// # Errors
/// [`HeaderError`] as soon as the bytes cannot become a header.
pub fn read(bytes: &[u8]) -> Result<Progress, HeaderError> {
    if !begins_like(bytes, SIGNATURE) {
        return match bytes.len().checked_sub(VERSION_1.len()) {
            _ if !begins_like(bytes, VERSION_1) => Err(HeaderError::Absent),
            Some(_) => Err(HeaderError::Version1),
            None => Ok(Progress::Missing(VERSION_1.len() - bytes.len())),
        };
    }
    let Some((fixed, further)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
        return Ok(Progress::Missing(FIXED_BYTES - bytes.len()));
    };
    let [.., version_and_command, protocol, high, low] = *fixed;
    let (version, command) = (version_and_command >> 4, version_and_command & 0x0f);
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > FURTHER_BYTES_MAX {
        return Err(HeaderError::TooLong(length));
    }
    let Some(further) = further.get(..length) else {
        return Ok(Progress::Missing(length - further.len()));
    };
    let header = match (command, protocol) {
        // A receiver ignores whatever else such a header has.
        (LOCAL, _) | (PROXY, UNKNOWN) => Header::Own,
        (PROXY, TCP_OVER_IPV4) => passed::<4, 12>(further)?,
        (PROXY, TCP_OVER_IPV6) => passed::<16, 36>(further)?,
        (PROXY, other) => return Err(HeaderError::Protocol(other)),
        (other, _) => return Err(HeaderError::Command(other)),
    };
    Ok(Progress::Complete { header, length: FIXED_BYTES + length })
}

/// The bytes of a header.
#[must_use]
pub fn written(header: &Header) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let Header::Passed(Addresses { client, server }) = header else {
        bytes.extend([VERSION << 4 | LOCAL, UNKNOWN, 0, 0]);
        return bytes;
    };
    bytes.push(VERSION << 4 | PROXY);
    match (client.ip().to_canonical(), server.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            bytes.extend([TCP_OVER_IPV4, 0, 12]);
            bytes.extend([client.octets(), server.octets()].as_flattened());
        }
        (client, server) => {
            bytes.extend([TCP_OVER_IPV6, 0, 36]);
            bytes.extend([client, server].map(|address| as_ipv6(address).octets()).as_flattened());
        }
    }
    bytes.extend([client.port(), server.port()].map(u16::to_be_bytes).as_flattened());
    bytes
}

/// Whether `bytes` and `beginning` are the same as far as both go.
fn begins_like(bytes: &[u8], beginning: &[u8]) -> bool {
    bytes.iter().zip(beginning).all(|(byte, expected)| byte == expected)
}

/// Two addresses of `ADDRESS` bytes with their ports, `BLOCK` bytes in all, and fields behind them.
fn passed<const ADDRESS: usize, const BLOCK: usize>(further: &[u8]) -> Result<Header, HeaderError>
where
    [u8; ADDRESS]: Into<IpAddr>,
{
    let (block, fields) = further.split_first_chunk::<BLOCK>().ok_or(HeaderError::CutShort)?;
    let parts = || {
        let (client, rest) = block.split_first_chunk::<ADDRESS>()?;
        let (server, ports) = rest.split_first_chunk::<ADDRESS>()?;
        let (client_port, rest) = ports.split_first_chunk::<2>()?;
        let (server_port, _) = rest.split_first_chunk::<2>()?;
        Some(Addresses {
            client: SocketAddr::new((*client).into(), u16::from_be_bytes(*client_port)),
            server: SocketAddr::new((*server).into(), u16::from_be_bytes(*server_port)),
        })
    };
    let addresses = parts().ok_or(HeaderError::CutShort)?;
    skip_fields(fields)?;
    Ok(Header::Passed(addresses))
}

fn skip_fields(mut fields: &[u8]) -> Result<(), HeaderError> {
    while !fields.is_empty() {
        let ([_, high, low], rest) = fields.split_first_chunk().ok_or(HeaderError::CutShort)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        fields = rest.get(length..).ok_or(HeaderError::CutShort)?;
    }
    Ok(())
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_and_command: u8, protocol: u8, further: &[u8]) -> Vec<u8> {
        let length = u16::try_from(further.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[version_and_command, protocol], &length, further].concat()
    }

    fn addresses(client: &str, server: &str) -> Addresses {
        Addresses { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    /// 192.0.2.1:4660 to 198.51.100.2:443.
    const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb];

    fn complete(bytes: &[u8], expected: Header) {
        let length = bytes.len();
        assert_eq!(read(bytes), Ok(Progress::Complete { header: expected, length }));
        // What follows is the client's.
        let more = [bytes, b"\x16\x03\x01"].concat();
        assert_eq!(read(&more), Ok(Progress::Complete { header: expected, length }));
        // Read in steps, it never asks for a byte that follows the header.
        for cut in 0..length {
            match read(&bytes[..cut]) {
                Ok(Progress::Missing(missing)) => assert!(missing > 0 && cut + missing <= length, "{cut}"),
                other => panic!("{cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_clients_address_is_read_over_ipv4_and_ipv6_and_fields_are_skipped() {
        let expected = Header::Passed(addresses("192.0.2.1:4660", "198.51.100.2:443"));
        complete(&header(0x21, 0x11, &IPV4), expected);
        // A name (0x02) and nothing (0x04), as balancers add them.
        let fields = [&IPV4[..], &[2, 0, 3], b"abc", &[4, 0, 0]].concat();
        complete(&header(0x21, 0x11, &fields), expected);
        let mut ipv6 = [0; 36];
        (ipv6[0], ipv6[1], ipv6[15], ipv6[31], ipv6[33], ipv6[35]) = (0x20, 0x01, 7, 1, 80, 81);
        let expected = Header::Passed(addresses("[2001::7]:80", "[::1]:81"));
        complete(&header(0x21, 0x21, &ipv6), expected);
    }

    /// What AWS's Network Load Balancer adds: a checksum (0x03), the id of the VPC endpoint that the client came through
    /// (0xea with 0x01), and bytes without a meaning (0x04). Types and form are those of AWS's guide and of
    /// `proxy-protocol.txt`, section 2.2; the checksum is right.
    #[test]
    fn the_fields_of_awss_balancer_are_skipped() {
        let checksum = b"\x03\0\x04\x73\x68\x1a\x90".as_slice();
        let endpoint = b"\xea\0\x17\x01vpce-0123456789abcdef0".as_slice();
        let padding = [b"\x04\0\x24".as_slice(), &[0; 36]].concat();
        let expected = Header::Passed(addresses("192.0.2.1:4660", "198.51.100.2:443"));
        let further = [IPV4.as_slice(), checksum, endpoint, &padding].concat();
        complete(&header(0x21, 0x11, &further), expected);
        // Without an endpoint, and in another order.
        complete(&header(0x21, 0x11, &[IPV4.as_slice(), checksum].concat()), expected);
        complete(
            &header(0x21, 0x11, &[IPV4.as_slice(), padding.as_slice(), endpoint, checksum].concat()),
            expected,
        );
        // Its looks at the host, which name nobody.
        complete(&header(0x20, 0x00, checksum), Header::Own);
        // The endpoint's id is cut short.
        let cut = header(0x21, 0x11, &[IPV4.as_slice(), &endpoint[..endpoint.len() - 1]].concat());
        assert_eq!(read(&cut), Err(HeaderError::CutShort));
    }

    #[test]
    fn a_balancer_may_speak_for_itself() {
        complete(&header(0x20, 0x00, b""), Header::Own);
        complete(&header(0x20, 0x11, b"anything"), Header::Own);
        complete(&header(0x21, 0x00, b"anything"), Header::Own);
    }

    #[test]
    fn what_is_no_header_is_refused_by_name() {
        let tls = b"\x16\x03\x01\x02\x00";
        for (bytes, expected) in [
            (tls.to_vec(), HeaderError::Absent),
            (b"GET / HTTP/1.1".to_vec(), HeaderError::Absent),
            (b"PROXYING".to_vec(), HeaderError::Absent),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), HeaderError::Absent),
            (b"PROXY TCP4 192.0.2.1".to_vec(), HeaderError::Version1),
            (header(0x11, 0x11, &IPV4), HeaderError::Version(1)),
            (header(0x31, 0x11, &IPV4), HeaderError::Version(3)),
            (header(0x22, 0x11, &IPV4), HeaderError::Command(2)),
            (header(0x21, 0x12, &IPV4), HeaderError::Protocol(0x12)),
            (header(0x21, 0x31, &[0; 216]), HeaderError::Protocol(0x31)),
            (header(0x21, 0x11, &IPV4[..11]), HeaderError::CutShort),
            (header(0x21, 0x21, &IPV4), HeaderError::CutShort),
            (header(0x21, 0x11, &[&IPV4[..], &[4, 0]].concat()), HeaderError::CutShort),
            (header(0x21, 0x11, &[&IPV4[..], &[4, 0, 2, 0]].concat()), HeaderError::CutShort),
        ] {
            assert_eq!(read(&bytes), Err(expected), "{bytes:?}");
        }
        assert_eq!(read(b"PROX"), Ok(Progress::Missing(2)), "it may become either");
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        let longest = header(0x20, 0x00, &[0; FURTHER_BYTES_MAX]);
        complete(&longest, Header::Own);
        let longer = header(0x20, 0x00, &[0; FURTHER_BYTES_MAX + 1]);
        assert_eq!(read(&longer[..FIXED_BYTES]), Err(HeaderError::TooLong(FURTHER_BYTES_MAX + 1)));
    }

    #[test]
    fn what_is_written_is_read() {
        for (client, server) in
            [("192.0.2.1:1", "192.0.2.2:65535"), ("[2001:db8::1]:1", "[::1]:2"), ("192.0.2.1:1", "[::1]:2")]
        {
            let written = written(&Header::Passed(addresses(client, server)));
            let Ok(Progress::Complete { header: Header::Passed(read), length }) = read(&written) else {
                panic!("{client}");
            };
            assert_eq!(length, written.len());
            assert_eq!(read.client.ip().to_canonical(), addresses(client, server).client.ip());
            assert_eq!(read.client.port(), 1);
            assert_eq!(read.server, addresses(client, server).server);
        }
        complete(&written(&Header::Own), Header::Own);
    }
}
