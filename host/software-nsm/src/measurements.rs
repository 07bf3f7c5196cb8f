//! The hypervisor's measurements: the values of the registers that are locked at boot.

use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::measurement;

/// The measurements of one enclave, as PCR values.
///
/// On Nitro these measure an enclave image file (EIF). PCR 0 covers the whole image; PCR 1 the kernel, its
/// command line and the first ramdisk; PCR 2 the other ramdisks. Each is SHA384(0⁴⁸ ‖ SHA384(contents)),
/// where 0⁴⁸ is 48 zero bytes and the contents are concatenated without lengths (AWS Nitro Enclaves user
/// guide, "Cryptographic attestation").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurements {
    image: Sha384Digest,
    boot: Sha384Digest,
    application: Sha384Digest,
    role: Option<Sha384Digest>,
    instance: Option<Sha384Digest>,
    signer: Option<Sha384Digest>,
}

impl Measurements {
    /// A register that nothing was measured into.
    pub const ZERO: Sha384Digest = Sha384Digest::from_bytes([0; 48]);

    /// Values that were measured elsewhere, for instance from an image: PCR 0, PCR 1 and PCR 2.
    #[must_use]
    pub const fn of_image(pcr0: Sha384Digest, pcr1: Sha384Digest, pcr2: Sha384Digest) -> Self {
        Self { image: pcr0, boot: pcr1, application: pcr2, role: None, instance: None, signer: None }
    }

    /// The measurements of a program: see [`cleanroom_attestation::measurement::of_program`].
    #[must_use]
    pub fn of_program(program: &[u8], command_line: &str, configuration: &[u8]) -> Self {
        let [pcr0, pcr1, pcr2] = measurement::of_program(program, command_line, configuration);
        Self::of_image(pcr0, pcr1, pcr2)
    }

    /// What an enclave in debug mode attests: PCR 0, 1 and 2 are zero. The parent's registers stay.
    #[must_use]
    pub const fn in_debug_mode(self) -> Self {
        Self { image: Self::ZERO, boot: Self::ZERO, application: Self::ZERO, ..self }
    }

    /// Sets PCR 3 to the measurement of the parent's IAM role, given by its ARN.
    #[must_use]
    pub fn with_role(self, arn: &str) -> Self {
        Self { role: Some(measurement::of_name(arn)), ..self }
    }

    /// Sets PCR 4 to the measurement of the parent's instance id.
    #[must_use]
    pub fn with_instance(self, instance_id: &str) -> Self {
        Self { instance: Some(measurement::of_name(instance_id)), ..self }
    }

    /// Sets PCR 8, the measurement of the certificate that signed the image.
    #[must_use]
    pub const fn with_signer(self, pcr8: Sha384Digest) -> Self {
        Self { signer: Some(pcr8), ..self }
    }

    /// PCR 0, 1 and 2 in this order.
    #[must_use]
    pub const fn image(&self) -> [Sha384Digest; 3] {
        [self.image, self.boot, self.application]
    }

    pub(crate) const fn names_instance(&self) -> bool {
        self.instance.is_some()
    }

    pub(crate) fn registers(&self) -> impl Iterator<Item = (u16, Sha384Digest)> {
        [
            (0, Some(self.image)),
            (1, Some(self.boot)),
            (2, Some(self.application)),
            (3, self.role),
            (4, self.instance),
            (8, self.signer),
        ]
        .into_iter()
        .filter_map(|(index, value)| Some((index, value?)))
    }
}
