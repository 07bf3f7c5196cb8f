//! `cleanroom-host relay`: drains, clients' addresses, signals.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use cleanroom_attestation::release::Accepted;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use rustix::process::Signal;

use crate::kit::{Running, get, host, text};

#[test]
fn a_relay_drains_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("enclave.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let running =
        Running::start(&["relay", "--listen", "127.0.0.1:0", "--to", &format!("unix:{}", socket.display())]);
    let partner = running.connect();
    // The enclave hears of a connection with its first byte.
    (&partner).write_all(b"x").unwrap();
    let (enclave, _) = listener.accept().unwrap();
    running.signal(Signal::TERM);
    // The enclave closes what the next lines may still get through to it.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    // Nobody can connect any more: the loop ends when the relay has closed its socket.
    while TcpStream::connect(running.ready["listen"].as_str().unwrap()).is_ok() {}
    // What is open goes on to its end.
    (&enclave).write_all(b"the rest of the answer").unwrap();
    drop(enclave);
    let mut heard = String::new();
    (&partner).read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "the rest of the answer");
    drop(partner);
    assert_eq!(running.ended(), Some(0));
}

#[test]
fn a_relay_has_its_enclave_drain_unless_it_is_to_be_kept() {
    for keep in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let [socket, control] = ["enclave.sock", "control.sock"].map(|name| folder.path().join(name));
        let (listener, control) =
            (UnixListener::bind(&socket).unwrap(), UnixListener::bind(control).unwrap());
        let options: &[&str] = if keep { &["--keep-enclave"] } else { &[] };
        let running = relay_to(&socket, &[&["--listen", "127.0.0.1:0"], options].concat());
        let partner = running.connect();
        (&partner).write_all(b"x").unwrap();
        let (enclave, _) = listener.accept().unwrap();
        running.signal(Signal::TERM);
        if !keep {
            let (mut told, _) = control.accept().unwrap();
            let mut frame = [0; 5];
            told.read_exact(&mut frame).unwrap();
            assert_eq!(frame, [ControlKind::Drain.code(), 0, 0, 0, 0]);
            told.write_all(&ControlAnswer::Accepted(Accepted::New).frame()).unwrap();
        }
        // The enclave ends the session.
        drop((enclave, partner));
        assert_eq!(running.ended(), Some(0));
        control.set_nonblocking(true).unwrap();
        assert!(control.accept().is_err(), "it is told once, or not at all");
    }
}

#[test]
fn a_relay_that_cannot_drain_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("enclave.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let to = format!("unix:{}", socket.display());
    let running =
        Running::start(&["relay", "--listen", "127.0.0.1:0", "--to", &to, "--drain-timeout", "100ms"]);
    let partner = running.connect();
    (&partner).write_all(b"x").unwrap();
    let _enclave = listener.accept().unwrap();
    running.signal(Signal::INT);
    let mut rest = Vec::new();
    (&partner).read_to_end(&mut rest).unwrap();
    assert_eq!(running.ended(), Some(0));
}

/// A relay to a socket on which the test is the enclave.
fn relay_to(listener: &Path, options: &[&str]) -> Running {
    let to = format!("unix:{}", listener.display());
    Running::start(&[&["relay", "--to", &to], options].concat())
}

/// A client from an address of this machine that says more than a TLS handshake has, and counts what it hears.
fn heard_from(address: &str, relay: &Running) -> (TcpStream, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let mut stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let stream = socket.connect(relay.ready["listen"].as_str().unwrap().parse().unwrap()).await.unwrap();
        stream.into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    let _ = stream.write_all(&[7; 2000]);
    let mut count = 0;
    let mut heard = [0; 2000];
    while count < heard.len() {
        match stream.read(&mut heard[count..]) {
            Ok(0) | Err(_) => break,
            Ok(more) => count += more,
        }
    }
    assert!(heard[..count].iter().all(|byte| *byte == 7), "a header reached the enclave");
    (stream, count)
}

#[test]
fn two_hosts_in_a_row_know_the_client_and_the_enclave_hears_no_header() {
    let folder = tempfile::tempdir().unwrap();
    let [enclave, inner, report] =
        ["enclave.sock", "inner.sock", "report.sock"].map(|name| folder.path().join(name));
    let listener = UnixListener::bind(&enclave).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
            });
        }
    });
    let [listen, metrics] = [&inner, &report].map(|path| format!("unix:{}", path.display()));
    let known = ["--proxy-protocol", "unix", "--max-connections-per-client", "1"];
    let options = ["--keep-enclave", "--listen", &listen, "--metrics", &metrics];
    let _inner = relay_to(&enclave, &[&options[..], &known].concat());
    let outer = relay_to(&inner, &["--listen", "127.0.0.1:0", "--keep-enclave", "--send-proxy"]);

    let (_first, heard) = heard_from("127.0.0.2", &outer);
    assert_eq!(heard, 2000);
    assert_eq!(heard_from("127.0.0.2", &outer).1, 0, "the client has its share");
    let (_other, heard) = heard_from("127.0.0.3", &outer);
    assert_eq!(heard, 2000);
    // A connection without a header is no client's.
    let mut stranger = UnixStream::connect(&inner).unwrap();
    stranger.write_all(b"\x16\x03\x01").unwrap();
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
    let metrics = get(UnixStream::connect(&report).unwrap(), "/metrics");
    for line in ["{reason=\"client\"} 1\n", "{reason=\"header\"} 1\n"] {
        let line = format!("cleanroom_relay_connections_shed_total{line}");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

#[test]
fn headers_that_could_never_come_or_would_reach_an_enclave_are_refused_at_the_start() {
    for (options, expected) in [
        ("--listen 127.0.0.1:0 --to unix:/run/x --proxy-protocol unix", "which cannot connect there"),
        ("--listen unix:/run/y --to unix:/run/x --proxy-protocol 10.0.0.1", "which cannot connect there"),
        ("--listen 127.0.0.1:0 --to unix:/run/x --proxy-protocol 10.0.0.1/8", "write `10.0.0.0/8`"),
        ("--listen 127.0.0.1:0 --to vsock:16:5000 --keep-enclave --send-proxy", "expected --to unix:PATH"),
        ("--listen 127.0.0.1:0 --to unix:/run/x --send-proxy", "--keep-enclave"),
    ] {
        let output = host(&[&["relay"], options.split(' ').collect::<Vec<_>>().as_slice()].concat()).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{options}");
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
}

#[test]
fn a_second_signal_ends_a_drain_at_once_and_a_hangup_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("enclave.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let running = relay_to(&socket, &["--listen", "127.0.0.1:0", "--drain-timeout", "1h"]);
    running.signal(Signal::HUP);
    let partner = running.connect();
    (&partner).write_all(b"x").unwrap();
    let (enclave, _) = listener.accept().unwrap();
    running.signal(Signal::TERM);
    // Draining has begun when the relay has closed its socket.
    while TcpStream::connect(running.ready["listen"].as_str().unwrap()).is_ok() {}
    running.signal(Signal::HUP);
    (&enclave).write_all(b"still carried").unwrap();
    let mut heard = [0; 13];
    (&partner).read_exact(&mut heard).unwrap();
    running.signal(Signal::TERM);
    assert_eq!(running.ended(), Some(1));
}
