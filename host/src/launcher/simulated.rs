//! The `simulated` tier: the enclave is a process, its security module a thread of the host.
//!
//! # The contract between the host and a simulated enclave
//!
//! What a Nitro enclave gets from its hypervisor, a simulated one gets from the host that starts it. The command line is
//! measured (PCR 0 and PCR 1), so everything about transport travels in the environment, which is not.
//!
//! | what | how the enclave gets it |
//! |---|---|
//! | program | a sealed copy in memory of the file that was measured; what runs is what PCR 0 names |
//! | arguments | exactly those after `--` of `cleanroom-host run`; measured; `argv[0]` is the file's name, not measured |
//! | security module | standard input, a connected Unix stream socket: frames of a `u32` big-endian length and that many bytes of CBOR, request and answer in turn, as `/dev/nsm` would be asked (requests up to 4096 bytes, answers up to 12288) |
//! | [`ENV_LISTEN`] | path of the Unix stream socket that the enclave binds and accepts partners on |
//! | [`ENV_CONFIG`] | path of a read-only file with the configuration bytes that were measured (PCR 0 and PCR 2) |
//! | [`ENV_MODEL`] | path of the model file: untrusted input, whose digest the enclave computes itself |
//! | console | standard output and standard error: text lines for the operator; nothing about content may be on them |
//!
//! The rest of the environment is empty and no other descriptor is inherited.
//!
//! * **Ready** is when the socket at [`ENV_LISTEN`] accepts a connection. The host finds out by connecting and closing
//!   without sending a byte; the enclave treats that like any peer that goes away.
//! * **SIGTERM** asks the enclave to drain: refuse new work, let running requests end, then exit with status 0. A second
//!   patience is not given: after the drain limit the host sends SIGKILL.
//! * **End of file on standard input** means that the security module, hence the host, is gone: the enclave exits.
//! * **Exit status 0** is an orderly end, [`EXIT_REFUSED`] says that the enclave refused what it was given and would
//!   refuse it again (the host does not restart it), anything else is a failure (the host restarts it, more and more slowly).
//!   The last line on standard error is shown to the operator as the reason.
//!
//! The enclave cannot prove that it read the configuration that was measured: the host measures and the host hands over. That
//! is the difference between this tier and a real enclave, and why its documents are signed under a development root only.

/// Environment variable: path of the Unix stream socket that the enclave binds.
pub const ENV_LISTEN: &str = "CLEANROOM_LISTEN";

/// Environment variable: path of the file with the measured configuration.
pub const ENV_CONFIG: &str = "CLEANROOM_CONFIG";

/// Environment variable: path of the model file.
pub const ENV_MODEL: &str = "CLEANROOM_MODEL";

/// Exit status of an enclave that refused what it was given (`EX_CONFIG` of `sysexits.h`).
pub const EXIT_REFUSED: i32 = 78;
