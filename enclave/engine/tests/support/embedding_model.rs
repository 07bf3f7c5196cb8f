//! A model that says that it is made for embeddings.

/// The demo model with `llama.pooling_type` in its file: 1 for the mean, 3 for the last token.
pub(crate) fn for_embeddings(demo: &[u8], pooling: u32) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut more = text("llama.pooling_type");
    more.extend(4_u32.to_le_bytes());
    more.extend(pooling.to_le_bytes());
    // The tensors' data must stay aligned, so a text fills up to a multiple of 32 bytes.
    more.extend(text("test.padding"));
    more.extend(8_u32.to_le_bytes());
    let rest = 96 - 8 - more.len();
    more.extend(text(&"x".repeat(rest)));
    // After the magic, the version and the number of tensors comes the number of entries, and then they.
    let (head, entries) = demo.split_at(24);
    let (before, count) = head.split_at(16);
    let count = count.iter().rev().fold(0, |count, byte| count << 8 | u64::from(*byte)) + 2;
    [before, &count.to_le_bytes(), &more, entries].concat()
}
