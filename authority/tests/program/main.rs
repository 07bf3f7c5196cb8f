//! The program as a person runs it: real processes, files, output and exit status.

mod ceremonies;
mod desk;
mod interop;
mod lease_service;
