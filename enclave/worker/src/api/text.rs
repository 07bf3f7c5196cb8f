//! Text on its way out: as a JSON string, and padded so that its length is not told.

use super::secret::SecretBuffer;

/// Padding rounds the text of an event up to a multiple of this many bytes, so that nearly every token looks alike.
///
/// Without it, the lengths of the TLS records tell the host the length of each token, from which much of an answer can be
/// reconstructed (Weiss, Ayub, Mirsky: "What Was Your Prompt?", USENIX Security 2024).
pub(crate) const PADDING: usize = 32;

/// Appends `text` as the inside of a JSON string (RFC 8259, section 7), straight into the buffer it leaves in.
pub(crate) fn escape(out: &mut SecretBuffer, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let is_plain = |&&byte: &&u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(rest.iter().take_while(is_plain).count());
        out.push(plain);
        let Some((&byte, after)) = special.split_first() else { return };
        match byte {
            b'"' => out.push(b"\\\""),
            b'\\' => out.push(b"\\\\"),
            b'\n' => out.push(b"\\n"),
            control => {
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.push(&[b'\\', b'u', b'0', b'0', digit(control >> 4), digit(control & 15)]);
            }
        }
        rest = after;
    }
}
