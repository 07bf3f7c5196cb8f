//! What the end-to-end tests share: the attester's end alone ([`platform`]), an attester that lies on request ([`liar`]), one whose HTTP/2
//! is scripted ([`scripted`]), a whole clean
//! room behind a recording relay ([`clean_room`]), one under authorities whose time the test moves ([`released_room`]) and whose engine it stops ([`hold`]), a plain client ([`client`]), the official ones
//! ([`official`]), somebody who verifies nothing ([`stranger`]), the project's programs as processes ([`processes`]), a host
//! with its enclave ([`site`]), several hosts ([`fleet`]), balancers in front of those ([`balancer`]), many streams of the official client
//! ([`streams`]), a host's store that lies on request ([`store`]), and waits that have an end ([`wait`]).

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "this crate is tests only: a failure of its own parts is a failure of the test"
)]

pub mod authorities;
pub mod balancer;
pub mod ceremony;
pub mod clean_room;
pub mod client;
pub mod fleet;
pub mod hold;
pub mod http_proxy;
pub mod liar;
pub mod log;
pub mod official;
pub mod platform;
pub mod processes;
pub mod released_room;
pub mod scripted;
pub mod site;
pub mod store;
pub mod stranger;
pub mod streams;
pub mod wait;
