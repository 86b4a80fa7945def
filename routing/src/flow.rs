//! Names for where a message came in and for who sent it.

use core::fmt;

/// The ingress a message came by: a connection, a channel, a listener; or this node itself.
///
/// Random 16 bytes, never on the wire. Source: docs/protocol.md §1.3.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowId(u128);

impl FlowId {
    /// Messages made by this node's own workers.
    pub const LOCAL: Self = Self(0);

    /// A flow from 16 random bytes; zero is taken as one, since it names the local flow.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(random).max(1))
    }

    /// The flow of this number.
    #[must_use]
    pub const fn from_number(number: u128) -> Self {
        Self(number)
    }

    /// The 16 bytes of the id.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Whether this is [`FlowId::LOCAL`].
    #[must_use]
    pub fn is_local(self) -> bool {
        self == Self::LOCAL
    }
}

/// The identifier of an authenticated peer: the 32-byte hash its identity history begins with.
///
/// Text form: `I` and 64 hex digits. Source: docs/protocol.md §3.1.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerId(pub [u8; 32]);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("I")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
