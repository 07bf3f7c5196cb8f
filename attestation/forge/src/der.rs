//! Writes DER.

pub(crate) fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u16::try_from(contents.len()).expect("nothing forged reaches 64 KiB").to_be_bytes();
    let mut encoded = vec![tag];
    match length {
        [0, low @ ..=0x7f] => encoded.push(low),
        [0, low] => encoded.extend([0x81, low]),
        [high, low] => encoded.extend([0x82, high, low]),
    }
    encoded.extend_from_slice(contents);
    encoded
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

/// A bit string of whole bytes.
pub(crate) fn bit_string(contents: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], contents].concat())
}
