//! What the stand-in for an enclave does.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind};
use cleanroom_link::load::Load;

/// Says that it works: always, or only once with "one-probe", or never with "no-probe".
pub(crate) fn answer_probes(control: &Path, behaviour: &str) {
    let listener = UnixListener::bind(control).unwrap();
    if behaviour == "waits" {
        return answer_one_after_the_other(&listener);
    }
    let answers = match behaviour {
        "no-probe" => 0,
        "one-probe" => 1,
        _ => usize::MAX,
    };
    let answers = Arc::new(AtomicUsize::new(answers));
    let take = |left: usize| left.checked_sub(1);
    for stream in listener.incoming() {
        let (mut stream, answers) = (stream.unwrap(), Arc::clone(&answers));
        std::thread::spawn(move || {
            let mut header = [0; CONTROL_HEADER_BYTES];
            while stream.read_exact(&mut header).is_ok() {
                let is_probe = header[0] == ControlKind::Probe.code();
                if is_probe && answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    let _ = stream.write_all(&ControlAnswer::Alive(Load::Idle).frame());
                }
            }
        });
    }
}

/// Echoes for ever. SIGTERM ends a process that does not catch it, which is an end in time.
pub(crate) fn echo(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    for stream in listener.incoming() {
        std::thread::spawn(move || {
            let stream = stream.unwrap();
            std::io::copy(&mut &stream, &mut &stream).and_then(|_| stream.shutdown(std::net::Shutdown::Write))
        });
    }
}

/// Serves one connection after the other, as an enclave does that waits for the key of its weights: of the first two,
/// that of the probe before the other one.
fn answer_one_after_the_other(listener: &UnixListener) {
    let mut connections = listener.incoming().map(|stream| {
        let (mut stream, mut header) = (stream.unwrap(), [0; CONTROL_HEADER_BYTES]);
        stream.read_exact(&mut header).ok().map(|()| (stream, header))
    });
    let mut first: Vec<_> = connections.by_ref().take(2).flatten().collect();
    first.sort_by_key(|(_, header)| header[0] != ControlKind::Probe.code());
    for (mut stream, mut header) in first.into_iter().chain(connections.flatten()) {
        loop {
            println!("asked for {}", header[0]);
            let (_, length) = ControlKind::parse(header).unwrap();
            stream.read_exact(&mut vec![0; length]).unwrap();
            let refused = ControlAnswer::Refused("no-model-yet".to_owned()).frame();
            if stream.write_all(&refused).and_then(|()| stream.read_exact(&mut header)).is_err() {
                break;
            }
        }
    }
}
