//! Labels: the one way to say what a derived key, a MAC or a signature is for.
//!
//! `L(label, x1, ..)` is the deterministic CBOR array `["onward/1", label, x1, ..]`. It is injective, so no two uses
//! can collide, whatever a peer puts into a field.
//!
//! Specification: docs/protocol.md §0 (labels); RFC 8949 §4.2.1.

/// `L(label, x1, ..)`, built field by field in order.
///
/// A label's fields are public or will be hashed; it is not a place for secrets, and is not wiped.
///
/// ```
/// # use onward_keys::Label;
/// let info = Label::new("export").bytes(&[7; 32]).uint(1).null();
/// assert_eq!(&info.encode()[..10], b"\x85\x68onward/1");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label {
    /// Elements so far, the two leading texts included.
    count: u64,
    /// The encoded elements, without the head of the array.
    elements: Vec<u8>,
}

impl Label {
    /// Starts `L(label, ..)`.
    #[must_use]
    pub fn new(label: &str) -> Self {
        let start = Self { count: 0, elements: Vec::with_capacity(64) };
        start.text(DOMAIN).text(label)
    }

    /// Appends a byte string: identifiers, hashes, bodies and ids.
    #[must_use]
    pub fn bytes(self, value: &[u8]) -> Self {
        self.element(Major::Bytes, value.len() as u64, value)
    }

    /// Appends a text: labels and signature types.
    #[must_use]
    pub fn text(self, value: &str) -> Self {
        self.element(Major::Text, value.len() as u64, value.as_bytes())
    }

    /// Appends an unsigned number in its shortest form.
    #[must_use]
    pub fn uint(self, value: u64) -> Self {
        self.element(Major::Uint, value, &[])
    }

    /// Appends a truth value.
    #[must_use]
    pub fn bool(self, value: bool) -> Self {
        self.element(Major::Simple, if value { 21 } else { 20 }, &[])
    }

    /// Appends null, which stands in the place of an absent field.
    #[must_use]
    pub fn null(self) -> Self {
        self.element(Major::Simple, 22, &[])
    }

    /// Appends a byte string, or null in its place.
    #[must_use]
    pub fn optional_bytes(self, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.bytes(value),
            None => self.null(),
        }
    }

    /// Appends an array of byte strings.
    #[must_use]
    pub fn array<T: AsRef<[u8]>>(mut self, items: &[T]) -> Self {
        self.count += 1;
        head(&mut self.elements, Major::Array, items.len() as u64);
        for item in items {
            let item = item.as_ref();
            head(&mut self.elements, Major::Bytes, item.len() as u64);
            self.elements.extend_from_slice(item);
        }
        self
    }

    /// The deterministic encoding of the whole array.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(HEAD_BYTES_MAX + self.elements.len());
        head(&mut encoded, Major::Array, self.count);
        encoded.extend_from_slice(&self.elements);
        encoded
    }

    fn element(mut self, major: Major, argument: u64, content: &[u8]) -> Self {
        self.count += 1;
        head(&mut self.elements, major, argument);
        self.elements.extend_from_slice(content);
        self
    }
}

/// The CBOR major types that labels use, as the top three bits of an item's first byte.
#[derive(Clone, Copy)]
enum Major {
    Uint = 0 << 5,
    Bytes = 2 << 5,
    Text = 3 << 5,
    Array = 4 << 5,
    Simple = 7 << 5,
}

/// Writes an item's head with its argument in the shortest form.
fn head(output: &mut Vec<u8>, major: Major, argument: u64) {
    let major = major as u8;
    let [.., b3, b2, b1, b0] = argument.to_be_bytes();
    match argument {
        0..24 => output.push(major | b0),
        24..0x100 => output.extend([major | 24, b0]),
        0x100..0x1_0000 => output.extend([major | 25, b1, b0]),
        0x1_0000..0x1_0000_0000 => output.extend([major | 26, b3, b2, b1, b0]),
        _ => {
            output.push(major | 27);
            output.extend(argument.to_be_bytes());
        }
    }
}

/// The first element of every label: the project and the version of its protocols.
const DOMAIN: &str = "onward/1";
const HEAD_BYTES_MAX: usize = 9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_is_the_deterministic_array_of_its_fields() {
        let label = Label::new("x")
            .bytes(&[1, 2])
            .text("ü")
            .uint(500)
            .bool(true)
            .bool(false)
            .null()
            .array(&[b"a".as_slice(), b""]);
        assert_eq!(
            hex::encode(label.encode()),
            "89686f6e776172642f31617842010262c3bc1901f4f5f4f6824161 40".replace(' ', "")
        );
    }

    #[test]
    fn numbers_and_lengths_take_their_shortest_form() {
        // RFC 8949 appendix A, and the two sides of each boundary.
        for (number, expected) in [
            (0, "00"),
            (23, "17"),
            (24, "1818"),
            (255, "18ff"),
            (256, "190100"),
            (65_535, "19ffff"),
            (65_536, "1a00010000"),
            (4_294_967_295, "1affffffff"),
            (4_294_967_296, "1b0000000100000000"),
            (1_000_000_000_000, "1b000000e8d4a51000"),
            (u64::MAX, "1bffffffffffffffff"),
        ] {
            let mut encoded = Vec::new();
            head(&mut encoded, Major::Uint, number);
            assert_eq!(hex::encode(encoded), expected);
        }
        let body = vec![7; 300];
        let encoded = Label::new("sig").bytes(&body).encode();
        assert_eq!(hex::encode(&encoded[..17]), "83686f6e776172642f316373696759012c");
        assert_eq!(encoded[17..], body);
    }

    #[test]
    fn more_than_23_fields_have_a_longer_head() {
        let label = (0..22).fold(Label::new("many"), Label::uint);
        assert_eq!(label.encode()[..2], [0x98, 24]);
    }

    #[test]
    fn an_absent_field_is_null_in_its_place() {
        let absent = Label::new("f").optional_bytes(None).uint(1);
        assert_eq!(absent, Label::new("f").null().uint(1));
        assert_ne!(absent, Label::new("f").optional_bytes(Some(b"")).uint(1));
        assert_ne!(absent, Label::new("f").uint(1));
    }

    proptest! {
        #[test]
        fn moving_bytes_between_fields_changes_the_label(
            a in prop::collection::vec(any::<u8>(), 0..40),
            b in prop::collection::vec(any::<u8>(), 0..40),
            c in prop::collection::vec(any::<u8>(), 0..40),
            d in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let one = Label::new("f").bytes(&a).bytes(&b).encode();
            let other = Label::new("f").bytes(&c).bytes(&d).encode();
            prop_assert_eq!(one == other, (a, b) == (c, d));
        }
    }
}
