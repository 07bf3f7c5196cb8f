//! An engine that tries to leave its room, and answers every prompt with how that went. `hostile-engine MODEL SOCKET PORT`
//!
//! A prompt with the word `die` ends it in the middle of its answer.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Signal, getuid, kill_process_group};

type Try = (&'static str, Box<dyn Fn() -> io::Result<String>>);

fn attempts(model: String, port: u16) -> Vec<Try> {
    let done = |_| "done".to_owned();
    vec![
        ("tcp", Box::new(move || TcpStream::connect(("127.0.0.1", port)).map(|_| "done".to_owned()))),
        ("udp", Box::new(|| UdpSocket::bind("0.0.0.0:0").map(|_| "done".to_owned()))),
        (
            "vsock",
            Box::new(move || {
                Ok(socket(AddressFamily::VSOCK, SocketType::STREAM, None).map(|_| "done".to_owned())?)
            }),
        ),
        (
            "packet",
            Box::new(move || {
                Ok(socket(AddressFamily::PACKET, SocketType::RAW, None).map(|_| "done".to_owned())?)
            }),
        ),
        ("write-usr", Box::new(move || File::create("/usr/written").map(done))),
        ("write-root", Box::new(move || File::create("/written").map(done))),
        ("write-dev", Box::new(move || File::create("/dev/written").map(done))),
        ("write-own", Box::new(move || File::create("/tmp/written").map(done))),
        (
            "change-program",
            Box::new(|| {
                let own = std::env::current_exe()?;
                fs::OpenOptions::new().append(true).open(own).map(|_| "done".to_owned())
            }),
        ),
        ("root", Box::new(|| names("/"))),
        ("dev", Box::new(|| names("/dev"))),
        (
            "processes",
            Box::new(|| {
                let names = names("/proc")?;
                Ok(names
                    .split(',')
                    .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
                    .collect::<Vec<_>>()
                    .join(","))
            }),
        ),
        ("uid", Box::new(|| Ok(getuid().as_raw().to_string()))),
        (
            "status",
            Box::new(|| {
                let status = fs::read_to_string("/proc/self/status")?;
                let wanted = |line: &&str| {
                    ["CapEff", "NoNewPrivs", "Seccomp:"].iter().any(|name| line.starts_with(name))
                };
                Ok(status
                    .lines()
                    .filter(wanted)
                    .map(|line| line.replace('\t', ""))
                    .collect::<Vec<_>>()
                    .join(","))
            }),
        ),
        (
            "stdin",
            Box::new(|| {
                let mut byte = [0];
                Ok(io::stdin().read(&mut byte)?.to_string())
            }),
        ),
        ("streams", Box::new(|| Ok(format!("{},{}", link("1")?, link("2")?)))),
        (
            "mount",
            Box::new(|| {
                nix_like(rustix::mount::mount(
                    "none",
                    "/tmp",
                    "tmpfs",
                    rustix::mount::MountFlags::empty(),
                    None,
                ))
            }),
        ),
        (
            "namespace",
            Box::new(|| {
                let command =
                    std::process::Command::new("/usr/bin/unshare").args(["--user", "/bin/true"]).status()?;
                Ok(command.success().to_string())
            }),
        ),
        ("model", Box::new(move || Ok(fs::metadata(&model)?.len().to_string()))),
        (
            "signal",
            Box::new(|| {
                let group = rustix::process::Pid::from_raw(2).ok_or(io::ErrorKind::NotFound)?;
                nix_like(kill_process_group(group, Signal::KILL))
            }),
        ),
    ]
}

fn nix_like(result: rustix::io::Result<()>) -> io::Result<String> {
    Ok(result.map(|()| "done".to_owned())?)
}

fn link(descriptor: &str) -> io::Result<String> {
    Ok(fs::read_link(format!("/proc/self/fd/{descriptor}"))?.display().to_string())
}

fn names(folder: &str) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(","))
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, model, socket, port] = arguments.as_slice() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let attempts = attempts(model.clone(), port.parse().map_err(io::Error::other)?);
    let report = attempts.iter().map(|(name, attempt)| match attempt() {
        Ok(text) => format!("{name}={text}"),
        Err(error) => format!("{name}=error {}", error.raw_os_error().unwrap_or(0)),
    });
    let report = report.collect::<Vec<_>>().join(";");
    for stream in UnixListener::bind(socket)?.incoming() {
        // Whoever hangs up is nobody's concern.
        let _ = stream.and_then(|mut stream| answer(&mut stream, &report));
    }
    Ok(())
}

fn answer(stream: &mut UnixStream, report: &str) -> io::Result<()> {
    let mut request = Vec::new();
    let body = loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap_or(0)) {
            break body.to_owned();
        }
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let text = serde_json::Value::from(report);
    let event = |delta: &str, reason: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{delta},\"finish_reason\":{reason}}}]}}\n\n")
    };
    stream.write_all(head.as_bytes())?;
    stream.write_all(event(&format!("{{\"content\":{text}}}"), "null").as_bytes())?;
    if body.contains("die") {
        std::process::exit(1);
    }
    stream.write_all(event("{}", "\"stop\"").as_bytes())
}
