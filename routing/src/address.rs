//! An address: where one step of a route leads, in its one canonical form.
//!
//! An address is trusted once made: text and binary are checked at the edge and nowhere else. It is
//! kept in its wire encoding (`[type, value]`), so that composing a message copies bytes and taking
//! an address off a route moves an offset.
//!
//! Specification: docs/protocol.md §1.1.

use core::borrow::Borrow;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use std::sync::Arc;

/// What an address names; the number is its `type` on the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Kind {
    /// A worker of the node that reads the address.
    Local = 0,
    /// A TCP endpoint, `host:port`.
    Tcp = 1,
    /// A UDP endpoint, `host:port`.
    Udp = 2,
    /// A mailbox on a queue, `queue/mailbox`.
    Queue = 3,
    /// A Unix socket by name.
    Unix = 4,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Local, Self::Tcp, Self::Udp, Self::Queue, Self::Unix];

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// What stands before the value in text: `""` for a local name, else `"tcp:"` and so on.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Local => "",
            Self::Tcp => "tcp:",
            Self::Udp => "udp:",
            Self::Queue => "queue:",
            Self::Unix => "unix:",
        }
    }
}

/// Why a text or a value is not an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Nothing stands where an address should.
    #[error("the address is empty")]
    Empty,
    /// A local name is 1 to 64 of `A-Z a-z 0-9 _ - .`, or `#` and 32 lower-case hex digits.
    #[error("a name is 1 to 64 of A-Z a-z 0-9 _ - . (or # and 32 hex digits)")]
    Name,
    /// The host is no canonical DNS name, IPv4 or bracketed IPv6 address.
    #[error("the host is no lower-case DNS name, IPv4 address or [IPv6] address in canonical form")]
    Host,
    /// The port is not 1 to 65535 without leading zeros.
    #[error("the port must be 1 to 65535 without leading zeros")]
    Port,
    /// A queue address is `queue:NAME/MAILBOX` with a mailbox of 32 characters of `a-z 2-7`.
    #[error("a queue address is queue:NAME/MAILBOX, the mailbox 32 characters of a-z and 2-7")]
    Queue,
}

/// An address in canonical form. Cheap to clone (a shared allocation of its encoding).
///
/// Encoding: `82`, type (1), byte-string head (1 or 2), value (1 to 255 bytes of UTF-8).
#[derive(Clone)]
pub struct Address(Arc<[u8]>);

/// A borrowed [`Address`], for example inside a message.
#[derive(Clone, Copy)]
pub struct AddressRef<'a>(&'a [u8]);

impl Address {
    /// Makes the address of a local worker.
    ///
    /// # Errors
    /// [`AddressError::Name`] when `name` is outside the alphabet or longer than 64 bytes.
    pub fn local(name: &str) -> Result<Self, AddressError> {
        Self::from_parts(Kind::Local, name)
    }

    /// The random worker address `#` and 32 hex digits of `id`, most significant digit first.
    #[must_use]
    pub fn random(id: u128) -> Self {
        RandomAddress::new(id).as_ref().to_owned()
    }

    /// Makes an address of `kind` from its canonical value (the text without the prefix).
    ///
    /// # Errors
    /// The [`AddressError`] that says which rule of the grammar `value` breaks.
    pub fn from_parts(kind: Kind, value: &str) -> Result<Self, AddressError> {
        check(kind, value.as_bytes())?;
        let mut encoded = Vec::with_capacity(value.len() + 4);
        encoded.extend_from_slice(&[0x82, kind as u8]);
        match u8::try_from(value.len()) {
            Ok(short @ 0..24) => encoded.push(0x40 | short),
            Ok(long) => encoded.extend_from_slice(&[0x58, long]),
            Err(_) => return Err(AddressError::Host), // unreachable: `check` bounds every kind below 256
        }
        encoded.extend_from_slice(value.as_bytes());
        Ok(Self(encoded.into()))
    }

    /// This address, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> AddressRef<'_> {
        AddressRef(&self.0)
    }

    /// What the address names.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.as_ref().kind()
    }

    /// The value without the kind's prefix.
    #[must_use]
    pub fn value(&self) -> &str {
        self.as_ref().value()
    }
}

impl<'a> AddressRef<'a> {
    /// Reads one strictly encoded address from the front of `bytes`; returns it and its length.
    pub(crate) fn split(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let [0x82, kind, head, ..] = *bytes else { return None };
        let kind = Kind::from_number(kind)?;
        let (start, length) = match head {
            0x41..=0x57 => (3, usize::from(head - 0x40)),
            0x58 => match *bytes.get(3)? {
                length @ 24.. => (4, usize::from(length)),
                _ => return None,
            },
            _ => return None,
        };
        check(kind, bytes.get(start..start + length)?).ok()?;
        Some((Self(&bytes[..start + length]), start + length))
    }

    /// The first address of bytes that hold checked encodings; `None` when there are none left.
    pub(crate) fn first_of_checked(bytes: &'a [u8]) -> Option<Self> {
        let length = match *bytes.get(2)? {
            0x58 => 4 + usize::from(*bytes.get(3)?),
            head => 3 + usize::from(head & 0x1f),
        };
        Some(Self(bytes.get(..length)?))
    }

    /// The wire encoding.
    #[must_use]
    pub fn encoded(self) -> &'a [u8] {
        self.0
    }

    /// What the address names.
    #[must_use]
    pub fn kind(self) -> Kind {
        Kind::from_number(self.0[1]).unwrap_or(Kind::Local)
    }

    /// The value without the kind's prefix.
    #[must_use]
    pub fn value(self) -> &'a str {
        let start = if self.0[2] == 0x58 { 4 } else { 3 };
        core::str::from_utf8(&self.0[start..]).unwrap_or_default()
    }

    /// The number of a random worker address (`#…`), `None` for every other address.
    #[must_use]
    pub fn random_id(self) -> Option<u128> {
        if self.0.len() != RANDOM_ENCODED || self.0[1] != Kind::Local as u8 || self.0[4] != b'#' {
            return None;
        }
        let mut id = 0;
        for digits in self.0[5..].as_chunks().0 {
            id = id << 32 | u128::from(from_hex(*digits));
        }
        Some(id)
    }

    /// An owned copy.
    #[must_use]
    pub fn to_owned(self) -> Address {
        Address(self.0.into())
    }
}

/// Bytes of an encoded random address: head 4, `#`, 32 digits.
pub(crate) const RANDOM_ENCODED: usize = 37;

/// A random worker address without a heap block of its own.
#[derive(Clone, Copy)]
pub struct RandomAddress([u8; RANDOM_ENCODED]);

impl RandomAddress {
    /// `#` and the 32 hex digits of `id`, most significant digit first.
    #[must_use]
    pub fn new(id: u128) -> Self {
        let mut encoded = [0; RANDOM_ENCODED];
        encoded[..5].copy_from_slice(&[0x82, 0, 0x58, 33, b'#']);
        let (digits, _) = encoded[5..].as_chunks_mut();
        for (at, digits) in digits.iter_mut().rev().enumerate() {
            *digits = to_hex((id >> (32 * at)) as u32);
        }
        Self(encoded)
    }

    /// The address.
    #[must_use]
    pub fn as_ref(&self) -> AddressRef<'_> {
        AddressRef(&self.0)
    }
}

impl fmt::Debug for RandomAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// Eight lower-case hex digits as a number, all at once. Other bytes give any number.
fn from_hex(digits: [u8; 8]) -> u32 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let digits = u64::from_be_bytes(digits);
    // A letter has bit 6 set and its low four bits begin at 1.
    let nibbles = (digits & (EACH * 15)) + (digits >> 6 & EACH) * 9;
    let bytes = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let words = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    (words | words >> 16) as u32
}

/// A number as eight lower-case hex digits, all at once.
fn to_hex(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let words = u64::from(number);
    let bytes = (words | words << 16) & 0x0000_ffff_0000_ffff;
    let pairs = (bytes | bytes << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (pairs | pairs << 4) & (EACH * 15);
    // Bit 4 of a nibble and 6 is set for a letter, which lies 39 behind the digit it would be.
    let letters = (nibbles + EACH * 6) >> 4 & EACH;
    (nibbles + EACH * u64::from(b'0') + letters * 39).to_be_bytes()
}

/// Holds `value` against the grammar of its kind.
fn check(kind: Kind, value: &[u8]) -> Result<(), AddressError> {
    match kind {
        _ if value.is_empty() => Err(AddressError::Empty),
        Kind::Local | Kind::Unix => check_name(value),
        Kind::Tcp | Kind::Udp => {
            let value = core::str::from_utf8(value).map_err(|_| AddressError::Host)?;
            check_host_port(value)
        }
        Kind::Queue => {
            let slash = value.iter().position(|c| *c == b'/').ok_or(AddressError::Queue)?;
            check_name(&value[..slash])?;
            let mailbox = &value[slash + 1..];
            let base32 = |c: &u8| matches!(c, b'a'..=b'z' | b'2'..=b'7');
            if mailbox.len() == 32 && mailbox.iter().all(base32) { Ok(()) } else { Err(AddressError::Queue) }
        }
    }
}

fn check_name(name: &[u8]) -> Result<(), AddressError> {
    let good = match name {
        [b'#', digits @ ..] => digits.len() == 32 && digits.as_chunks().0.iter().copied().all(is_hex),
        _ => (1..=64).contains(&name.len()) && name.iter().all(|c| IN_NAMES[usize::from(*c)]),
    };
    if good { Ok(()) } else { Err(AddressError::Name) }
}

/// The alphabet of names, by byte.
const IN_NAMES: [bool; 256] = {
    let mut found = [false; 256];
    let mut c = 0;
    while c < 256 {
        found[c] = (c as u8).is_ascii_alphanumeric() || matches!(c as u8, b'_' | b'-' | b'.');
        c += 1;
    }
    found
};

/// Whether these are eight lower-case hex digits: no other bytes are what their number is written as.
fn is_hex(digits: [u8; 8]) -> bool {
    to_hex(from_hex(digits)) == digits
}

fn check_host_port(value: &str) -> Result<(), AddressError> {
    let (host, port) = value.rsplit_once(':').ok_or(AddressError::Port)?;
    let digits = !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) && !port.starts_with('0');
    if !digits || port.parse::<u16>().is_err() {
        return Err(AddressError::Port);
    }
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(AddressError::Host)?;
        let address: Ipv6Addr = inner.parse().map_err(|_| AddressError::Host)?;
        return if address.to_string() == inner { Ok(()) } else { Err(AddressError::Host) };
    }
    // The standard parser takes exactly four decimals without leading zeros.
    if host.parse::<Ipv4Addr>().is_ok() || is_dns(host) { Ok(()) } else { Err(AddressError::Host) }
}

fn is_dns(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253
        && host.split('.').all(label)
        && host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_lowercase()))
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (kind, value) = Kind::ALL
            .into_iter()
            .filter(|kind| *kind != Kind::Local)
            .find_map(|kind| text.strip_prefix(kind.prefix()).map(|value| (kind, value)))
            .unwrap_or((Kind::Local, text));
        Self::from_parts(kind, value)
    }
}

/// So that a map keyed by [`Address`] is searched with [`AddressRef::encoded`].
impl Borrow<[u8]> for Address {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<S: Hasher>(&self, state: &mut S) {
        self.0.hash(state);
    }
}

impl PartialEq for AddressRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for AddressRef<'_> {}

impl fmt::Display for AddressRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().prefix())?;
        f.write_str(self.value())
    }
}

impl fmt::Debug for AddressRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_ref(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_texts_survive_a_round_trip() {
        let random = format!("#{}", "0a".repeat(16));
        let mailbox = format!("queue:orders/{}", "a2".repeat(16));
        for text in [
            "bank",
            "card-pin",
            "A.b_c-9",
            "tcp:relay.example:4000",
            "udp:10.0.0.1:1",
            "tcp:[::1]:65535",
            "tcp:[::ffff:1.2.3.4]:80",
            "unix:control",
            "tcp:1a.b:1",
            &random,
            &mailbox,
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let (again, length) = AddressRef::split(address.as_ref().encoded()).unwrap();
            assert_eq!((again.to_owned(), length), (address.clone(), address.as_ref().encoded().len()));
        }
    }

    #[test]
    fn second_spellings_are_refused() {
        let long = "a".repeat(65);
        for text in [
            "",
            "tcp:",
            "a b",
            "a/b",
            "ä",
            "#0A",
            "tcp:Relay:1",
            "tcp:127.1:1",
            "tcp:0x7f.1:1",
            "tcp:01.2.3.4:1",
            "tcp:[::0]:1",
            "tcp:[0:0::1]:1",
            "tcp:[FE80::1]:1",
            "tcp:[fe80::1%eth0]:1",
            "tcp:[::1]:01",
            "tcp:a:0",
            "tcp:a:65536",
            "tcp:a:+1",
            "tcp:-a:1",
            "tcp:a-.b:1",
            "tcp:a.:1",
            "tcp:a..b:1",
            "queue:a",
            "queue:a/B",
            "tcp:[::ffff:102:304]:1",
            "tcp:a",
            long.as_str(),
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn random_addresses_carry_their_number() {
        let id = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
        let address = Address::random(id);
        assert_eq!(address.to_string(), "#0123456789abcdef0011223344556677");
        assert_eq!(address.as_ref().random_id(), Some(id));
        assert_eq!(Address::local("#0123456789abcdef0011223344556677").unwrap(), address);
        assert_eq!(Address::local("bank").unwrap().as_ref().random_id(), None);
    }
    #[test]
    fn of_all_bytes_only_those_of_the_alphabets_are_taken() {
        let taken = |text: &[u8]| check(Kind::Local, text).is_ok();
        for byte in 0..=u8::MAX {
            let in_names = byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            assert_eq!(taken(&[b'a', byte]), in_names, "{byte}");
            let digit = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            for place in 1..33 {
                let mut random =
                    *Address::random(u128::MAX / 7).value().as_bytes().first_chunk::<33>().unwrap();
                random[place] = byte;
                assert_eq!(taken(&random), digit, "{byte} at {place}");
            }
        }
        assert!(!taken(&[b'#'; 32]) && !taken(b"#"));
    }
}
