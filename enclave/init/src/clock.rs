//! The clock source.

use std::path::Path;

use crate::halt::Halt;

/// Where the kernel says which clock source it uses.
pub(crate) const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Counters of the processor itself: with the hypervisor's page of scale and offset (`kvm-clock`, which Nitro has), or bare
/// (`tsc`, and `tsc-early` in the first second). Everything else that a kernel falls back to is a device that is emulated, or counts
/// interrupts that can be withheld.
const ACCEPTED: &[&str] = &["kvm-clock", "tsc", "tsc-early"];

/// Checks that the clock source named in the file at `current` is one that counts by itself.
pub(crate) fn check(current: &Path) -> Result<(), Halt> {
    let name = std::fs::read_to_string(current).unwrap_or_default();
    let name = name.trim_end();
    if ACCEPTED.contains(&name) {
        return Ok(());
    }
    let actual =
        name.chars().filter(|each| each.is_ascii_alphanumeric() || "-_".contains(*each)).take(32).collect();
    Err(Halt::Clock { expected: ACCEPTED, actual })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clocks_that_count_by_themselves_are_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("current");
        assert!(check(&file).is_err(), "a kernel that does not say is refused");
        for (name, accepted) in [
            ("kvm-clock\n", true),
            ("tsc\n", true),
            ("tsc-early\n", true),
            ("refined-jiffies\n", false),
            ("hpet\n", false),
            ("", false),
        ] {
            std::fs::write(&file, name).unwrap();
            assert_eq!(check(&file).is_ok(), accepted, "{name}");
        }
    }
}
