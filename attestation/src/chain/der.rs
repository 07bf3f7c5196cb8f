//! A reader for the subset of DER (X.690) that certificates use: one-byte tags, definite lengths in their shortest form.

/// The bytes are not DER of the kind that is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const PRINTABLE_STRING: u8 = 0x13;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
    /// `[n]`, context-specific and primitive.
    pub(crate) const fn context_primitive(number: u8) -> u8 {
        0x80 | number
    }
    /// `[n]`, context-specific and constructed.
    pub(crate) const fn context(number: u8) -> u8 {
        0xa0 | number
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn finish(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// The next element's tag and contents.
    pub(crate) fn any(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (tag, contents, _) = self.element()?;
        Ok((tag, contents))
    }

    /// The contents of the next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        match self.any()? {
            (actual, contents) if actual == tag => Ok(contents),
            _ => Err(Malformed),
        }
    }

    /// The contents of the next element if it has this tag; otherwise nothing is read.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.0.first() == Some(&tag) { self.expect(tag).map(Some) } else { Ok(None) }
    }

    /// The next element, which must have this tag, with its tag and length.
    pub(crate) fn whole(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        match self.element()? {
            (actual, _, whole) if actual == tag => Ok(whole),
            _ => Err(Malformed),
        }
    }

    /// A sequence's elements.
    pub(crate) fn sequence(&mut self) -> Result<Self, Malformed> {
        self.expect(tag::SEQUENCE).map(Self)
    }

    /// A `BOOLEAN DEFAULT FALSE`, which DER leaves out when it is false.
    pub(crate) fn default_false(&mut self) -> Result<bool, Malformed> {
        match self.optional(tag::BOOLEAN)? {
            None => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(Malformed),
        }
    }

    fn element(&mut self) -> Result<(u8, &'a [u8], &'a [u8]), Malformed> {
        let start = self.0;
        let (&[tag, first], rest) = start.split_first_chunk().ok_or(Malformed)?;
        if tag & 0x1f == 0x1f {
            return Err(Malformed);
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => {
                let (&[length], rest) = rest.split_first_chunk().ok_or(Malformed)?;
                (usize::from(length), rest)
            }
            0x82 => {
                let (length, rest) = rest.split_first_chunk().ok_or(Malformed)?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            // Nothing in a document reaches 64 KiB, and DER has no indefinite length.
            _ => return Err(Malformed),
        };
        let shortest = match first {
            0x81 => length > 0x7f,
            0x82 => length > 0xff,
            _ => true,
        };
        if !shortest {
            return Err(Malformed);
        }
        let (contents, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        let (whole, _) = start.split_at_checked(start.len() - rest.len()).ok_or(Malformed)?;
        self.0 = rest;
        Ok((tag, contents, whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `head`, followed by `length` bytes, is one whole element.
    fn is_element(head: &[u8], length: usize) -> bool {
        let bytes = [head, &vec![7; length]].concat();
        let mut reader = Reader::new(&bytes);
        reader.whole(tag::OCTET_STRING) == Ok(&bytes) && reader.finish().is_ok()
    }

    #[test]
    fn lengths_are_in_their_shortest_form() {
        assert!(is_element(&[4, 0x00], 0));
        assert!(is_element(&[4, 0x7f], 0x7f));
        assert!(!is_element(&[4, 0x80], 0));
        assert!(!is_element(&[4, 0x81, 0x00], 0));
        assert!(!is_element(&[4, 0x81, 0x7f], 0x7f));
        assert!(is_element(&[4, 0x81, 0x80], 0x80));
        assert!(is_element(&[4, 0x81, 0xff], 0xff));
        assert!(!is_element(&[4, 0x82, 0x00, 0xff], 0xff));
        assert!(is_element(&[4, 0x82, 0x01, 0x00], 0x100));
        assert!(is_element(&[4, 0x82, 0xff, 0xff], 0xffff));
        assert!(!is_element(&[4, 0x83, 0x01, 0x00, 0x00], 0x1_0000));
        assert!(!is_element(&[4, 0x05], 4));
        assert!(!is_element(&[4], 0));
        assert!(!is_element(&[], 0));
    }

    #[test]
    fn tags_of_more_than_one_byte_are_refused() {
        for tag in [0x1f, 0x3f, 0xbf] {
            assert_eq!(Reader::new(&[tag, 0x01, 0x00]).any(), Err(Malformed));
        }
        assert_eq!(Reader::new(&[0x1e, 0x00]).any(), Ok((0x1e, &[][..])));
    }

    #[test]
    fn an_optional_element_is_left_where_it_is() {
        let mut reader = Reader::new(&[2, 1, 9]);
        assert_eq!(reader.optional(tag::BOOLEAN), Ok(None));
        assert_eq!(reader.optional(tag::INTEGER), Ok(Some(&[9][..])));
        assert_eq!(reader.optional(tag::INTEGER), Ok(None));
        assert!(reader.is_empty());
    }
}
