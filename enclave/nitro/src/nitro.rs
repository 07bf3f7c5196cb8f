//! The real security module: `/dev/nsm` through the kernel's driver.

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use aws_nitro_enclaves_nsm_api::driver::{nsm_exit, nsm_init, nsm_process_request};

use cleanroom_keeper::security_module::Device;

/// An open `/dev/nsm`.
pub(crate) struct NitroSecureModule {
    descriptor: i32,
}

impl NitroSecureModule {
    /// Opens the device.
    ///
    /// # Errors
    /// [`NoSecurityModule`] when there is none, which means that this is not an enclave.
    pub(crate) fn open() -> Result<Self, NoSecurityModule> {
        match nsm_init() {
            descriptor if descriptor >= 0 => Ok(Self { descriptor }),
            _ => Err(NoSecurityModule),
        }
    }
}

impl Device for NitroSecureModule {
    fn process(&mut self, request: Request) -> Response {
        nsm_process_request(self.descriptor, request)
    }
}

impl Drop for NitroSecureModule {
    fn drop(&mut self) {
        nsm_exit(self.descriptor);
    }
}

/// `/dev/nsm` cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the security module at /dev/nsm, found none: this program runs inside a Nitro enclave")]
pub(crate) struct NoSecurityModule;
