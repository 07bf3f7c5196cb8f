//! The security module of an instance with a `NitroTPM`, where the EC2 instance itself is the enclave.
//!
//! AWS's TPM answers a vendor command with an attestation document, as a Nitro Secure Module does: the document has the TPM's
//! registers, a nonce, a public key and user data. [`NitroTpm`] is that TPM behind the keeper's [`Device`]:
//!
//! | the keeper's request | the TPM's commands |
//! |---|---|
//! | `Attestation` | the request into an NV index, the vendor command, and the answer out of the index |
//! | `DescribePCR` | `PCR_Read` of the SHA-384 bank |
//! | `ExtendPCR` | `PCR_Extend` of register 14 or 15, and no other |
//! | `LockPCR` | `PCR_Extend` with a constant that says that nothing follows |
//! | `GetRandom` | `GetRandom` |
//!
//! # Why a commitment cannot be undone
//!
//! A TPM sets registers 0 to 15 back only when the machine is reset (TCG PC Client Platform TPM Profile, section 4.6). That
//! starts the instance, and so its measured image, anew. Register 16 can be reset by whoever speaks to the TPM, and 17 to 22 by
//! whoever gets at a higher locality, so 16 and 17, which an enclave uses, will not do here. Firmware writes into 0 to 7,
//! boot loaders and kernels into 8 and 9, Linux's integrity measurement into 10, systemd into 11 to 13 and 15, and shim into 14.
//! An image of this project has neither shim nor systemd, so 14 and 15 are zero when the keeper starts. If they are not, it
//! halts.
//!
//! A TPM locks no register. So the keeper extends each twice: with the commitment, and with
//! [`cap`](cleanroom_attestation::channel::boot_measurement::cap). A partner accepts the value after the second extension only.
//! A register cannot get there from another commitment, and whoever extends it further makes a value that nobody accepts.
//!
//! # Who else could ask the TPM
//!
//! The kernel lets one process at a time open `/dev/tpm0`, and the keeper holds it open for as long as it lives. The index has a
//! random password of that start. Between an instance and its TPM is the hypervisor alone, which is trusted as the TPM is, so
//! commands are authorised with passwords and not with sessions that would hide them from a bus.
//!
//! [`Device`]: cleanroom_keeper::security_module::Device

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod device;
mod tpm;
mod transport;

pub use device::NitroTpm;
pub use tpm::TpmError;
pub use transport::{DEVICE, DeviceFile, TpmPath, Transport};
