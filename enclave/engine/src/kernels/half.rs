//! IEEE 754 half precision, as bits in a `u16`.

/// The value of half-precision bits; exact.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let value = match magnitude {
        // Zero and subnormal numbers: multiples of 2^-24.
        0..0x0400 => magnitude as f32 * f32::from_bits(0x3380_0000),
        0x0400..0x7c00 => f32::from_bits((magnitude << 13) + ((127 - 15) << 23)),
        // Infinity, and numbers that are none: always quiet, as the processor makes them.
        0x7c00 => f32::INFINITY,
        _ => f32::from_bits(0x7fc0_0000 | magnitude << 13),
    };
    f32::from_bits(value.to_bits() | sign)
}

/// The value of the upper half of a single-precision number; exact.
#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The half-precision bits nearest to a value, to even on a tie.
#[inline(always)]
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let half = match magnitude {
        // Below 2^-14: adding 0.5 leaves the multiple of 2^-24, rounded to even, in the low bits.
        0..0x3880_0000 => (f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000,
        // Too large, from the middle between the largest half (65504) and 65536 on.
        0x477f_f000..=0x7f80_0000 => 0x7c00,
        0x7f80_0001.. => 0x7e00 | (magnitude >> 13 & 0x3ff),
        _ => (magnitude + 0xfff + (magnitude >> 13 & 1) - ((127 - 15) << 23)) >> 13,
    };
    sign | half as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values() {
        for (value, bits) in [
            (0.0, 0),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (-2.0, 0xc000),
            (65504.0, 0x7bff),
            (6e-8, 1),
            (1e9, 0x7c00),
        ] {
            assert_eq!(f32_to_f16(value), bits, "{value}");
        }
        assert_eq!(f16_to_f32(0x3555), 0.333_251_95);
        assert_eq!(f16_to_f32(1), 5.960_464_5e-8);
        assert!(f16_to_f32(0x7c01).is_nan());
        assert_eq!(f16_to_f32(0xfc00), f32::NEG_INFINITY);
    }

    #[test]
    fn every_half_survives_the_way_there_and_back() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits);
            if !value.is_nan() {
                assert_eq!(f32_to_f16(value), bits);
            }
        }
    }

    proptest! {
        #[test]
        fn rounds_to_the_nearest(value in -65504.0_f32..65504.0) {
            let nearest = f32_to_f16(value);
            let error = |bits: u16| (f64::from(f16_to_f32(bits)) - f64::from(value)).abs();
            prop_assert!(error(nearest) <= error(nearest.wrapping_add(1)) || nearest & 0x7fff >= 0x7bff);
            prop_assert!(error(nearest) <= error(nearest.wrapping_sub(1)) || nearest & 0x7fff == 0);
        }
    }
}
