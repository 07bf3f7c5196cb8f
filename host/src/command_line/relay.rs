//! `relay`: the options, and where they lead.

use clap::Args;
use cleanroom_host::endpoint::{EnclaveAddress, ListenAddress};
use cleanroom_host::relay::NextHost;

use super::limits::LimitArguments;
use crate::Failure;

#[derive(Args)]
pub(crate) struct RelayArguments {
    /// Where partners connect: HOST:PORT or unix:PATH. Port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: ListenAddress,

    /// Where the enclave listens: vsock:CID:PORT, hybrid:PORT:PATH (a virtual machine's vsock device),
    /// tcp:HOST:PORT (an instance that is the enclave itself) or unix:PATH.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: EnclaveAddress,

    /// Where the enclave is told that it is to drain. By default the port that an enclave has for it, or
    /// `control.sock` beside the socket of `--to`.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "keep_enclave")]
    control: Option<EnclaveAddress>,

    /// Leave the enclave as it is when this relay ends: another host runs it or relays to it.
    #[arg(long)]
    keep_enclave: bool,

    /// Tell what --to names whom each connection comes from: a header of the PROXY protocol, version 2, begins it.
    /// Only another host with --proxy-protocol can be told, at unix:PATH.
    #[arg(long, requires = "keep_enclave")]
    send_proxy: bool,

    #[command(flatten)]
    pub(crate) limits: LimitArguments,
}

impl RelayArguments {
    /// Where connections go.
    ///
    /// # Errors
    /// A header would go to an enclave.
    pub(crate) fn next_host(&self) -> Result<NextHost, Failure> {
        let address = self.to.clone();
        if self.send_proxy && !matches!(address, EnclaveAddress::Unix(_)) {
            return Err(Failure::SendProxy(address));
        }
        Ok(NextHost { address, wants_header: self.send_proxy })
    }

    /// Where the enclave is told that it is to drain, if it is.
    pub(crate) fn control(&self) -> Option<EnclaveAddress> {
        if self.keep_enclave { None } else { self.control.clone().or_else(|| self.to.control()) }
    }
}
