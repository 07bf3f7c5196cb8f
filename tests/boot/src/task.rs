//! What the host asks the guest of a vsock test to do on one connection.

/// Bytes of an encoded task.
pub const LENGTH: usize = 31;

/// The direction of the bytes, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The guest reads, checks, and answers with one byte: 1 if every byte was right.
    Receive,
    /// The guest writes.
    Send,
}

/// One connection's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// The direction.
    pub kind: Kind,
    /// Which [`Pattern`](crate::pattern::Pattern) is sent.
    pub seed: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes of each write.
    pub write: u32,
    /// What writes are gathered into: pieces of so many bytes, or 0 to write each as it is.
    pub cap: u32,
    /// Flush each write rather than all of them together.
    pub flush: bool,
    /// How long the guest does not read at first, in milliseconds.
    pub pause_ms: u32,
    /// The sender closes its half at the end.
    pub close_half: bool,
}

impl Task {
    /// As it goes over the connection.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let parts: [&[u8]; 8] = [
            &[u8::from(self.kind == Kind::Send)],
            &self.seed.to_be_bytes(),
            &self.total.to_be_bytes(),
            &self.write.to_be_bytes(),
            &self.cap.to_be_bytes(),
            &[u8::from(self.flush)],
            &self.pause_ms.to_be_bytes(),
            &[u8::from(self.close_half)],
        ];
        for (target, byte) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *target = *byte;
        }
        bytes
    }

    /// Reads [`encode`](Self::encode)'s bytes.
    #[must_use]
    pub fn decode(bytes: &[u8; LENGTH]) -> Option<Self> {
        let wide = |at| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let narrow = |at| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        Some(Self {
            kind: if bytes.first() == Some(&1) { Kind::Send } else { Kind::Receive },
            seed: wide(1)?,
            total: wide(9)?,
            write: narrow(17)?,
            cap: narrow(21)?,
            flush: bytes.get(25) == Some(&1),
            pause_ms: narrow(26)?,
            close_half: bytes.last() == Some(&1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_arrives_as_it_was_sent() {
        let task = Task {
            kind: Kind::Send,
            seed: 1,
            total: 1 << 40,
            write: 3,
            cap: 16_384,
            flush: true,
            pause_ms: 5,
            close_half: true,
        };
        assert_eq!(Task::decode(&task.encode()), Some(task));
    }
}
