//! Platform configuration registers, as one of two types that never alias.

use serde::ser::SerializeMap as _;

use crate::digest::Sha384Digest;

/// Registers of a document: indexes 0 to 31 (AWS's documents so far stop at 17 for enclaves and at 23 for `NitroTPM`).
pub const REGISTERS: usize = 32;

/// The registers of a document. The two platforms give the same indexes entirely different meanings, so they are
/// different types and a comparison between them does not compile.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pcrs {
    /// The payload's `pcrs`: registers of the Nitro Secure Module of one enclave.
    NitroEnclave(EnclavePcrs),
    /// The payload's `nitrotpm_pcrs`: TPM 2.0 registers of an EC2 instance.
    NitroTpm(TpmPcrs),
}

impl Pcrs {
    /// The enclave's registers, when an enclave produced the document.
    #[must_use]
    pub const fn enclave(&self) -> Option<&EnclavePcrs> {
        match self {
            Self::NitroEnclave(pcrs) => Some(pcrs),
            Self::NitroTpm(_) => None,
        }
    }
}

macro_rules! registers {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name([Option<Sha384Digest>; REGISTERS]);

        impl $name {
            pub(super) const fn new(registers: [Option<Sha384Digest>; REGISTERS]) -> Self {
                Self(registers)
            }

            /// The value of register `index`; `None` when the document does not carry it.
            #[must_use]
            pub fn get(&self, index: u8) -> Option<&Sha384Digest> {
                self.0.get(usize::from(index))?.as_ref()
            }

            /// The registers that the document carries, in ascending order.
            pub fn iter(&self) -> impl Iterator<Item = (u8, &Sha384Digest)> {
                (0_u8..).zip(&self.0).filter_map(|(index, value)| Some((index, value.as_ref()?)))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                for (index, value) in self.iter() {
                    map.serialize_entry(&index, value)?;
                }
                map.end()
            }
        }
    };
}

registers!(EnclavePcrs, "Registers of a Nitro enclave. 0 to 2 measure the image, 3, 4 and 8 the deployment.");
registers!(
    TpmPcrs,
    "Registers of a `NitroTPM`, with the meanings of the TCG PC Client Platform Firmware Profile."
);

impl EnclavePcrs {
    /// Whether the enclave may have been started in debug mode: any of PCR 0, 1 and 2 is zero or absent.
    ///
    /// AWS zeroes these three in debug mode and no others, so "all registers are zero" is not the rule.
    #[must_use]
    pub fn is_debug(&self) -> bool {
        (0..=2).any(|index| self.get(index).is_none_or(Sha384Digest::is_zero))
    }
}
