//! The way from contents to the value of a register.

use crate::digest::Sha384Digest;

/// The value of a register that began at zero and was extended once: SHA-384(48 zero bytes ‖ data).
#[must_use]
pub fn extended_once(data: &[u8]) -> Sha384Digest {
    Sha384Digest::of(&[&[0; Sha384Digest::LENGTH], data])
}

/// PCR 0, 1 or 2: SHA-384(48 zero bytes ‖ SHA-384(contents)), the contents being the concatenation of `parts`.
#[must_use]
pub fn of_contents(parts: &[&[u8]]) -> Sha384Digest {
    extended_once(Sha384Digest::of(parts).as_bytes())
}

/// PCR 3 or 4 of a parent, given the ARN of its IAM role or its instance id: SHA-384(48 zero bytes ‖ name), without the inner
/// hash that images have (AWS Nitro Enclaves user guide, "Where to get an enclave's measurements").
#[must_use]
pub fn of_name(name: &str) -> Sha384Digest {
    extended_once(name.as_bytes())
}

/// PCR 0, 1 and 2 of a program of the simulated tier. It is measured like an image whose kernel is the program, whose first
/// ramdisk is empty and whose second ramdisk is the configuration:
///
/// | PCR | contents |
/// |---|---|
/// | 0 | program ‖ command line ‖ configuration |
/// | 1 | program ‖ command line |
/// | 2 | configuration |
#[must_use]
pub fn of_program(program: &[u8], command_line: &str, configuration: &[u8]) -> [Sha384Digest; 3] {
    let command_line = command_line.as_bytes();
    [
        of_contents(&[program, command_line, configuration]),
        of_contents(&[program, command_line]),
        of_contents(&[configuration]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_measured_part_by_part() {
        let base = of_program(b"program", "arguments", b"configuration");
        let other_program = of_program(b"Program", "arguments", b"configuration");
        let other_arguments = of_program(b"program", "Arguments", b"configuration");
        let other_configuration = of_program(b"program", "arguments", b"Configuration");
        let differs = |other: [Sha384Digest; 3]| [0, 1, 2].map(|pcr| base[pcr] != other[pcr]);
        assert_eq!(differs(other_program), [true, true, false]);
        assert_eq!(differs(other_arguments), [true, true, false]);
        assert_eq!(differs(other_configuration), [true, false, true]);
    }

    #[test]
    fn registers_follow_the_rule_for_images() {
        // SHA384(48 zero bytes ‖ SHA384("abc")), from Python's hashlib.
        let expected = "93732e3733514a841c982cfa75ea76ab55fe011acb9cd980ef4523913c65be1b0998e04d77f8c174f81a82151619ca40";
        assert_eq!(of_contents(&[b"a", b"bc"]).to_string(), expected);
    }

    #[test]
    fn the_instance_register_is_what_a_real_module_attested() {
        // The parent i-0d7ff222bf091ba40, in documents that AWS signed in 2025.
        let value = of_name("i-0d7ff222bf091ba40").to_string();
        assert!(value.starts_with("3a26c256b8c6"), "{value}");
    }

    #[test]
    fn names_have_no_inner_hash() {
        assert_ne!(of_name("i-0"), of_contents(&[b"i-0"]));
    }
}
