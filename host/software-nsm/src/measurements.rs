//! What the hypervisor measured: the values of the registers that are locked at boot.

use cleanroom_attestation::digest::Sha384Digest;

/// The measurements of one enclave, as PCR values.
///
/// On Nitro these are of an enclave image file (EIF): PCR 0 covers the whole image, PCR 1 the kernel, its command line and the
/// first ramdisk, PCR 2 the other ramdisks; each is SHA384(0⁴⁸ ‖ SHA384(contents)), where 0⁴⁸ is 48 zero bytes and the
/// contents are concatenated without lengths (AWS Nitro Enclaves user guide, "Cryptographic attestation").
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

    /// Measures a program as if it were an image whose kernel is `program`, whose command line is `command_line`, whose first
    /// ramdisk is empty and whose second ramdisk is `configuration`:
    ///
    /// | PCR | contents |
    /// |---|---|
    /// | 0 | program ‖ command line ‖ configuration |
    /// | 1 | program ‖ command line |
    /// | 2 | configuration |
    #[must_use]
    pub fn of_program(program: &[u8], command_line: &str, configuration: &[u8]) -> Self {
        let command_line = command_line.as_bytes();
        Self::of_image(
            of_contents(&[program, command_line, configuration]),
            of_contents(&[program, command_line]),
            of_contents(&[configuration]),
        )
    }

    /// What an enclave in debug mode attests: PCR 0, 1 and 2 are zero. The parent's registers stay.
    #[must_use]
    pub const fn in_debug_mode(self) -> Self {
        Self { image: Self::ZERO, boot: Self::ZERO, application: Self::ZERO, ..self }
    }

    /// Sets PCR 3 to the measurement of the parent's IAM role, given by its ARN.
    #[must_use]
    pub fn with_role(self, arn: &str) -> Self {
        Self { role: Some(of_name(arn)), ..self }
    }

    /// Sets PCR 4 to the measurement of the parent's instance id.
    #[must_use]
    pub fn with_instance(self, instance_id: &str) -> Self {
        Self { instance: Some(of_name(instance_id)), ..self }
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

/// An image's register: SHA384(0⁴⁸ ‖ SHA384(parts)).
fn of_contents(parts: &[&[u8]]) -> Sha384Digest {
    let contents = Sha384Digest::of(parts);
    Sha384Digest::of(&[Measurements::ZERO.as_bytes(), contents.as_bytes()])
}

/// A parent's register: SHA384(0⁴⁸ ‖ name), without the inner hash that images have.
fn of_name(name: &str) -> Sha384Digest {
    Sha384Digest::of(&[Measurements::ZERO.as_bytes(), name.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_changes_exactly_the_registers_it_is_measured_into() {
        let base = Measurements::of_program(b"program", "--serve", b"config").image();
        let changed = |other: Measurements| {
            let other = other.image();
            [base[0] != other[0], base[1] != other[1], base[2] != other[2]]
        };
        assert_eq!(changed(Measurements::of_program(b"Program", "--serve", b"config")), [true, true, false]);
        assert_eq!(changed(Measurements::of_program(b"program", "--Serve", b"config")), [true, true, false]);
        assert_eq!(changed(Measurements::of_program(b"program", "--serve", b"Config")), [true, false, true]);
    }

    #[test]
    fn registers_follow_the_rule_for_images() {
        // SHA384(48 zero bytes ‖ SHA384("abc")), from Python's hashlib.
        let expected = "93732e3733514a841c982cfa75ea76ab55fe011acb9cd980ef4523913c65be1b0998e04d77f8c174f81a82151619ca40";
        assert_eq!(Measurements::of_program(b"a", "b", b"c").image()[0].to_string(), expected);
    }

    #[test]
    fn the_instance_register_is_what_a_real_module_attested() {
        // The parent i-0d7ff222bf091ba40, in documents that AWS signed in 2025.
        let registers: Vec<_> =
            Measurements::of_program(b"", "", b"").with_instance("i-0d7ff222bf091ba40").registers().collect();
        let (index, value) = registers[3];
        assert_eq!(index, 4);
        assert!(value.to_string().starts_with("3a26c256b8c6"), "{value}");
    }
}
