//! Signals that ask a service to end, and the one that asks it to read its files again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Take nothing new, finish what runs, then end: the first SIGTERM or SIGINT.
    Drain,
    /// End at once: every further SIGTERM or SIGINT.
    EndNow,
}

/// Listens for SIGTERM, SIGINT and SIGHUP.
///
/// SIGHUP is what a terminal that goes away sends. A service outlives it, and can read its files again
/// ([`Hangups`]).
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    draining: bool,
}

impl Signals {
    /// Begins to listen. From here on none of the three signals ends the program by itself. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            draining: false,
        })
    }

    /// Waits for the next request to end. A call that is dropped loses nothing.
    pub async fn next(&mut self) -> Request {
        loop {
            let ending = tokio::select! {
                Some(()) = self.terminate.recv() => true,
                Some(()) = self.interrupt.recv() => true,
                Some(()) = self.hangup.recv() => false,
                else => std::future::pending().await,
            };
            if ending {
                let request = if self.draining { Request::EndNow } else { Request::Drain };
                self.draining = true;
                return request;
            }
        }
    }
}

/// Listens for SIGHUP, with which a service is asked to read its files again. Signals that come while it does count as one.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Begins to listen. From here on the signal does not end the program. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one. A call that is dropped loses nothing.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal as Name, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn the_first_drains_the_second_ends_and_a_hangup_does_neither() {
        let (mut signals, mut hangups) = (Signals::listen().unwrap(), Hangups::listen().unwrap());
        for (name, expected) in [(Name::TERM, Request::Drain), (Name::INT, Request::EndNow)] {
            kill_process(getpid(), Name::HUP).unwrap();
            hangups.next().await;
            let early = tokio::time::timeout(std::time::Duration::from_millis(50), signals.next()).await;
            assert!(early.is_err(), "a hangup asks for no end");
            kill_process(getpid(), name).unwrap();
            assert_eq!(signals.next().await, expected);
        }
    }
}
