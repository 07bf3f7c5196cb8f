//! The lease service among slow clients, signals, and readers that are gone.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;
use std::time::Instant;

use crate::folder::Folder;
use crate::lease_service::enclave;
use crate::service::{PATIENCE, Service};

/// From fcntl(2) on Linux.
const O_NONBLOCK: i32 = 0o4000;

const SERVE: &str = "--root root.json --release release.json --key a-online.pem";

/// A release, and the request of an enclave that holds it.
fn released() -> (Folder, Vec<u8>) {
    let folder = Folder::new();
    folder.released();
    let (_, request) = enclave(&folder, "release.json", 7);
    (folder, request)
}

/// Everything that the service is for still works.
fn works(service: &Service, folder: &Folder, request: &[u8]) {
    assert_eq!(service.ask("GET", "/healthz", b"").0, 200);
    assert_eq!(service.ask("POST", "/v1/lease", request).0, 200);
    let line =
        format!("halt partner:p --root root.json --key c.pem --reason r --out denials --to {}", service.url);
    folder.ok(&line);
    assert_eq!(service.ask("POST", "/v1/lease", request).0, 200);
}

#[test]
fn a_log_that_nobody_takes_costs_lines_and_nothing_else() {
    let (folder, request) = released();
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    // A pipe that is full from the start, and that nobody reads.
    let (sleeping, writer) = std::io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    // A description of its own, so that the service's does block.
    let filler = std::fs::File::options().write(true).custom_flags(O_NONBLOCK).open(path).unwrap();
    while (&filler).write(b"x").is_ok() {}
    drop(filler);
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    for (name, log, out) in [
        ("gone", gone(), Stdio::piped()),
        ("full disk", full(), Stdio::piped()),
        ("full pipe", Stdio::from(writer), Stdio::piped()),
        ("both gone", gone(), gone()),
    ] {
        let address = free_address();
        let mut command =
            folder.command(&format!("lease serve --listen {address} --denials denials {SERVE}"));
        let mut service = Service::adopt(command.stderr(log).stdout(out).spawn().unwrap(), &address);
        works(&service, &folder, &request);
        // Documents are read again, which is logged.
        let release = folder.read("release.json");
        folder.write("release.json", &release);
        works(&service, &folder, &request);
        let page = String::from_utf8(service.ask("GET", "/metrics", b"").1).unwrap();
        let lost =
            page.lines().find_map(|line| line.strip_prefix("cleanroom_authority_log_lines_lost_total "));
        let lost: u64 = lost.unwrap().parse().unwrap();
        assert!(lost > 0 || name == "full pipe", "{name}: {lost}");
        service.signal("TERM");
        assert_eq!(service.end().code(), Some(0), "{name}");
    }
    drop(sleeping);
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_hangup_does_not_end_it_and_a_request_to_end_does() {
    let (folder, request) = released();
    for name in ["TERM", "INT"] {
        let mut service = Service::start(&folder, SERVE);
        service.signal("HUP");
        assert_eq!(service.ask("POST", "/v1/lease", &request).0, 200);
        assert!(service.runs());
        service.signal(name);
        assert_eq!(service.end().code(), Some(0));
        assert!(TcpStream::connect(service.address()).is_err());
    }
}

/// A service whose key is in a device that signs once there is a file `sign`.
fn slow_service(folder: &Folder) -> Service {
    let command = "cat > pae; while [ ! -e sign ]; do [ -e pae ] || exit 1; sleep 0.02; done; \
                   openssl pkeyutl -sign -rawin -in pae -inkey a-online.pem";
    let line = "lease serve --listen 127.0.0.1:0 --denials denials --root root.json --release release.json --as a-online \
                --sign-with";
    folder.write("log", b"");
    let log = std::fs::File::options().write(true).open(folder.path("log")).unwrap();
    Service::spawn(folder.command(line).arg(command).stderr(log)).unwrap()
}

/// Sends a request and does not wait for the answer.
fn begin(service: &Service, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(service.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("POST /v1/lease HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", request.len());
    stream.write_all(&[head.as_bytes(), request].concat()).unwrap();
    stream
}

/// Waits until it is so.
fn wait_until(it_is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !it_is_so() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
}

/// Waits until the service is working on a request.
fn wait_for_work(folder: &Folder) {
    wait_until(|| folder.exists("pae"));
}

/// Waits until the service has heard that it is to end: nobody can connect any more.
fn wait_for_drain(service: &Service) {
    wait_until(|| TcpStream::connect(service.address()).is_err());
}

#[test]
fn a_running_request_is_answered_before_the_end() {
    let (folder, request) = released();
    let mut service = slow_service(&folder);
    let mut stream = begin(&service, &request);
    wait_for_work(&folder);
    service.signal("TERM");
    wait_for_drain(&service);
    folder.write("sign", b"");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(service.end().code(), Some(0));
}

#[test]
fn a_second_request_to_end_is_obeyed_at_once() {
    let (folder, request) = released();
    let mut service = slow_service(&folder);
    let _stream = begin(&service, &request);
    wait_for_work(&folder);
    service.signal("TERM");
    wait_for_drain(&service);
    service.signal("TERM");
    assert_eq!(service.end().code(), Some(0));
    let log = String::from_utf8(folder.read("log")).unwrap();
    assert!(log.contains("a second signal asked for it"), "{log}");
}

#[test]
fn seven_hundred_slow_clients_silence_nobody() {
    let (folder, request) = released();
    cleanroom_program::limits::require_open_files(2048).unwrap();
    let mut service = Service::start(&folder, SERVE);
    // Nothing, half a head, a head without its body.
    let starts =
        [&b""[..], b"POST /v1/lease HT", b"POST /v1/lease HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"];
    let connect = |index: usize| {
        let mut stream = TcpStream::connect(service.address()).unwrap();
        stream.write_all(starts[index % starts.len()]).unwrap();
        stream
    };
    let mut slow: Vec<TcpStream> = (0..700).map(connect).collect();
    // The places are taken, and answers do not wait for the slow clients: those are shed, as the last lines see.
    for _ in 0..20 {
        assert_eq!(service.ask("POST", "/v1/lease", &request).0, 200);
    }
    assert_eq!(service.ask("GET", "/healthz", b"").0, 200);
    let line = format!(
        "halt m --root root.json --release release.json --key c.pem --reason r --out d.json --to {}",
        service.url
    );
    folder.ok(&line);
    let page = String::from_utf8(service.ask("GET", "/metrics", b"").1).unwrap();
    let shed = page.lines().find_map(|line| line.strip_prefix("cleanroom_authority_connections_shed_total "));
    assert!(shed.unwrap().parse::<u64>().unwrap() >= 400, "{page}");
    // The oldest went first: it is closed.
    slow[0].set_read_timeout(Some(PATIENCE)).unwrap();
    let end = slow[0].read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    service.signal("TERM");
    assert_eq!(service.end().code(), Some(0));
    drop(slow);
}
