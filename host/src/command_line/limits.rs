//! The limits of `run` and `relay`: connections, times, and the balancers whose word counts.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use cleanroom_host::doctor;
use cleanroom_host::endpoint::ListenAddress;
use cleanroom_host::relay::{Balancer, BalancerError, Balancers, Limits, Times};

use super::duration;

#[derive(Args)]
pub(crate) struct LimitArguments {
    /// The most open connections. At this limit, a new connection replaces one of the client with the most
    /// connections, or is closed at once. Each connection needs two open files, with --proxy-protocol three.
    #[arg(long, value_name = "NUMBER", default_value = "1024")]
    max_connections: NonZeroUsize,

    /// The most open connections of one client: an IPv4 address, or a /64 network of IPv6. At this limit, a
    /// new connection replaces a silent one of the same client, or is closed at once. Default: half of
    /// --max-connections. Behind a balancer, use --proxy-protocol; if the balancer cannot send its clients'
    /// addresses, give the value of --max-connections.
    #[arg(long, value_name = "NUMBER")]
    max_connections_per_client: Option<NonZeroUsize>,

    /// A balancer in front of this host: its address, a network like 10.0.0.0/24, or `unix` for what connects to
    /// --listen unix:PATH; may be repeated. Each of its connections must begin with a header of the PROXY protocol,
    /// version 2. The client's address in the header counts for --max-connections-per-client. Nobody else's header
    /// is looked at.
    #[arg(long, value_name = "FROM", value_delimiter = ',')]
    proxy_protocol: Vec<Balancer>,

    /// How long a connection may take to begin a TLS session.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    opening_timeout: Duration,

    /// How long the host tries to reach the enclave for a connection.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    connect_timeout: Duration,

    /// End a connection on which no byte moves for this long.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    idle_timeout: Duration,

    /// End a connection after this long, even if it is in use.
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = duration)]
    max_lifetime: Duration,

    /// How long open connections and the enclave may go on after SIGTERM.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(super) drain_timeout: Duration,

    /// Serve /metrics (Prometheus), /status (JSON), /healthz and /readyz here: HOST:PORT or unix:PATH.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<ListenAddress>,
}

impl LimitArguments {
    pub(crate) fn to_limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            per_client: self.max_connections_per_client.unwrap_or(
                NonZeroUsize::new(self.max_connections.get().div_ceil(2)).unwrap_or(self.max_connections),
            ),
            connect: self.connect_timeout,
            drain: self.drain_timeout,
            times: Times {
                opening: self.opening_timeout,
                idle: self.idle_timeout,
                lifetime: self.max_lifetime,
            },
        }
    }

    /// The balancers in front of a host that listens on `listen`.
    ///
    /// # Errors
    /// One of them cannot connect there.
    pub(crate) fn balancers(&self, listen: &ListenAddress) -> Result<Balancers, BalancerError> {
        Balancers::new(self.proxy_protocol.clone(), listen)
    }

    /// Open files and sockets that the program needs at most: two for each connection, one for each that waits for
    /// its balancer's header, and the rest.
    pub(crate) fn open_files(&self) -> u64 {
        let each = if self.proxy_protocol.is_empty() { 2 } else { 3 };
        (self.max_connections.get() as u64).saturating_mul(each).saturating_add(doctor::OTHER_FILES)
    }
}
