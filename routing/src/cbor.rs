//! The strict subset of CBOR that messages use: definite lengths, shortest integers, sorted maps.
//!
//! A cursor over borrowed bytes that refuses every second spelling. It never allocates and never
//! follows more than `DEPTH_MAX` open arrays and maps.
//!
//! Specification: docs/protocol.md §0 (RFC 8949 §4.2.1).

/// Arrays and maps open at once; the outermost counts 1.
const DEPTH_MAX: u8 = 8;

/// Appends the head of major type `major` (0 to 7) with `value`, in the shortest form.
pub fn put_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    match value {
        0..24 => out.push(major | value as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, value as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// Bytes that [`put_head`] appends for `value`.
pub(crate) fn head_len(value: u64) -> usize {
    match value {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

/// Reads strict CBOR from the front of a byte slice; `None` means malformed.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Whether everything is read.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// A head: its major type and value.
    fn head(&mut self) -> Option<(u8, u64)> {
        let initial = self.byte()?;
        let (major, info) = (initial >> 5, initial & 31);
        let (value, least) = match info {
            0..24 => return Some((major, u64::from(info))),
            24 => (u64::from(self.byte()?), 24),
            25 => (u64::from(u16::from_be_bytes(self.take(2)?.try_into().ok()?)), 0x100),
            26 => (u64::from(u32::from_be_bytes(self.take(4)?.try_into().ok()?)), 0x1_0000),
            27 => (u64::from_be_bytes(self.take(8)?.try_into().ok()?), 0x1_0000_0000),
            _ => return None,
        };
        // Of the two-byte simple values none is allowed; all others must be in shortest form.
        (value >= least && major != 7).then_some((major, value))
    }

    fn expect(&mut self, wanted: u8) -> Option<u64> {
        let (major, value) = self.head()?;
        (major == wanted).then_some(value)
    }

    /// A number below 2^8.
    pub fn u8(&mut self) -> Option<u8> {
        self.expect(0)?.try_into().ok()
    }

    /// A number below 2^32.
    pub fn u32(&mut self) -> Option<u32> {
        self.expect(0)?.try_into().ok()
    }

    /// A number below 2^64.
    pub fn uint(&mut self) -> Option<u64> {
        self.expect(0)
    }

    /// The number of elements of an array.
    pub fn array(&mut self) -> Option<u64> {
        self.expect(4)
    }

    /// The number of pairs of a map.
    pub(crate) fn map(&mut self) -> Option<u64> {
        self.expect(5)
    }

    /// A byte string.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.expect(2)?.try_into().ok()?;
        self.take(length)
    }

    /// Whether null comes next; it is then read.
    pub(crate) fn null(&mut self) -> bool {
        let null = self.bytes.get(self.at) == Some(&0xf6);
        self.at += usize::from(null);
        null
    }

    /// Reads one item of any allowed kind while `open` arrays and maps are open around it.
    pub(crate) fn skip_item(&mut self, open: u8) -> Option<()> {
        if matches!(self.bytes.get(self.at)?, 0xf4..=0xf6) {
            self.at += 1;
            return Some(());
        }
        let (major, value) = self.head()?;
        match major {
            0 => {}
            // int = −2^63..2^63−1; a negative n is stored as −1 − n.
            1 if value < 1 << 63 => {}
            2 => drop(self.take(value.try_into().ok()?)?),
            3 => drop(core::str::from_utf8(self.take(value.try_into().ok()?)?).ok()?),
            4 | 5 if open >= DEPTH_MAX => return None,
            4 => (0..value).try_for_each(|_| self.skip_item(open + 1))?,
            5 => {
                let mut last: &[u8] = &[];
                for _ in 0..value {
                    let start = self.at;
                    self.skip_item(open + 1)?;
                    let key = &self.bytes[start..self.at];
                    if key <= last {
                        return None;
                    }
                    last = key;
                    self.skip_item(open + 1)?;
                }
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well_formed(hex: &str) -> bool {
        let bytes = hex::decode(hex).unwrap();
        let mut reader = Reader::new(&bytes);
        reader.skip_item(0).is_some() && reader.is_at_end()
    }

    /// Values of RFC 8949 Appendix A that the subset allows.
    #[test]
    fn rfc_8949_examples_in_the_subset_are_read() {
        for hex in [
            "00",
            "17",
            "1818",
            "1864",
            "1903e8",
            "1a000f4240",
            "1b000000e8d4a51000",
            "1bffffffffffffffff",
            "20",
            "3863",
            "3903e7",
            "f4",
            "f5",
            "f6",
            "40",
            "4401020304",
            "60",
            "6161",
            "6449455446",
            "62c3bc",
            "63e6b0b4",
            "80",
            "83010203",
            "8301820203820405",
            "98190102030405060708090a0b0c0d0e0f101112131415161718181819",
            "a0",
            "a201020304",
            "a26161016162820203",
            "826161a161626163",
        ] {
            assert!(well_formed(hex), "{hex}");
        }
    }

    /// From RFC 8949 Appendix A and the well-formedness list of its Appendix F: each breaks one rule.
    #[test]
    fn everything_else_is_refused() {
        for hex in [
            "",
            "1817",
            "190018",
            "1a0000ffff",
            "1b00000000ffffffff",
            "f90000",
            "fa47c35000",
            "fb3ff199999999999a",
            "f7",
            "f0",
            "f818",
            "f8ff",
            "c074323031332d30332d32315432303a30343a30305a",
            "c11a514b67b0",
            "5f42010243030405ff",
            "7f657374726561646d696e67ff",
            "9fff",
            "9f01ff",
            "bf61610161629f0203ffff",
            "3bffffffffffffffff",
            "ff",
            "18",
            "19",
            "1900",
            "5801",
            "62ff00",
            "81",
            "a1",
            "a101",
            "1c",
            "1d",
            "1e",
            "1f",
            "3c",
            "5c",
            "7c",
            "9c",
            "bc",
            "dc",
            "fc",
            "a201000100",
            "a202000100",
            "a20200020000",
            "58020102ff",
        ] {
            assert!(!well_formed(hex), "{hex}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert!(well_formed(&format!("{}00", "81".repeat(8))));
        assert!(!well_formed(&format!("{}00", "81".repeat(9))));
        assert!(!well_formed(&"81".repeat(100_000)));
    }
}
