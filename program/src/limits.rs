//! The system's limit on open files and sockets.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The program needs more open files than the system allows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this needs {needed} open files and sockets, and the system allows {allowed}; allow more \
     (`ulimit -Hn {needed}` as root, `LimitNOFILE={needed}` in a systemd unit, `--ulimit nofile={needed}` for a \
     container), or lower the number of connections"
)]
pub struct TooFewFiles {
    /// How many the program needs.
    pub needed: u64,
    /// How many it may have.
    pub allowed: u64,
}

/// Raises the soft limit on open files to the hard limit, and gives the limit that holds then. `u64::MAX` is
/// no limit.
///
/// The soft limit is 1024 on most systems for the sake of programs that use `select`. Programs that do not
/// are meant to raise it.
///
/// # Errors
/// The system refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum || current.is_none() {
        return Ok(current.unwrap_or(u64::MAX));
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Raises the limit as [`raise_open_files`] does, and checks that `needed` files fit into it. Gives the
/// limit.
///
/// # Errors
/// [`TooFewFiles`], which tells what to do.
pub fn require_open_files(needed: u64) -> Result<u64, TooFewFiles> {
    // A system that does not let it be raised may still allow enough.
    let allowed =
        raise_open_files().unwrap_or_else(|_| getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX));
    if allowed < needed { Err(TooFewFiles { needed, allowed }) } else { Ok(allowed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_limit() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
        let allowed = raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
        assert_eq!(allowed, maximum.unwrap_or(u64::MAX));
        assert_eq!(require_open_files(allowed), Ok(allowed));
        if let Some(maximum) = maximum {
            let error = require_open_files(maximum + 1).unwrap_err();
            assert_eq!(error, TooFewFiles { needed: maximum + 1, allowed: maximum });
            assert!(error.to_string().contains(&format!("LimitNOFILE={}", maximum + 1)));
        }
    }
}
