//! Enclave image files that are as small as they can be.

/// An acceptable image of format version 3: kernel, command line, an empty first ramdisk, and `application`.
#[must_use]
pub fn small_image(application: &[u8]) -> Vec<u8> {
    let sections: [(u16, &[u8]); 4] = [(1, b"kernel"), (2, b"console=ttyS0"), (3, b""), (3, application)];
    let mut header = b".eif\0\x03\0\0".to_vec();
    header.extend_from_slice(&[0; 16]);
    header.extend_from_slice(&[0, 0, 0, sections.len() as u8]);
    let mut offset = 548;
    let offsets = sections.map(|(_, contents)| {
        let this = offset;
        offset += 12 + contents.len() as u64;
        this
    });
    for fields in [offsets, sections.map(|(_, contents)| contents.len() as u64)] {
        fields.iter().for_each(|field| header.extend_from_slice(&field.to_be_bytes()));
        header.resize(header.len() + (32 - sections.len()) * 8, 0);
    }
    header.extend_from_slice(&[0; 4]);
    let mut body = Vec::new();
    for (kind, contents) in sections {
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&[0; 2]);
        body.extend_from_slice(&(contents.len() as u64).to_be_bytes());
        body.extend_from_slice(contents);
    }
    let crc = crc32(&[header.as_slice(), &body].concat());
    [header.as_slice(), &crc.to_be_bytes(), &body].concat()
}

/// CRC-32 (IEEE 802.3), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}
