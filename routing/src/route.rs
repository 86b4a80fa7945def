//! A route: addresses in the order a message visits them.
//!
//! Kept as the encodings of its addresses, one behind the other, as they stand in a message.
//!
//! Specification: docs/protocol.md §1.1.

use core::fmt;
use core::str::FromStr;

use crate::address::{Address, AddressError, AddressRef};
use crate::{ROUTE_ADDRESSES_MAX, ROUTE_BYTES_MAX};

/// Why a text or a list of addresses is not a route.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// One of the addresses is malformed.
    #[error("`{text}` is no address")]
    Address {
        /// The part between two arrows as it was given.
        text: String,
        /// Which rule it breaks.
        #[source]
        source: AddressError,
    },
    /// More than [`ROUTE_ADDRESSES_MAX`] addresses.
    #[error("a route has at most {ROUTE_ADDRESSES_MAX} addresses")]
    TooMany,
    /// The encoding would exceed [`ROUTE_BYTES_MAX`].
    #[error("a route takes at most {ROUTE_BYTES_MAX} bytes")]
    TooLong,
    /// A lone `=`: the shell took the `>` of an unquoted route for a redirection.
    #[error("the route must be quoted: 'a => b'")]
    Unquoted,
}

/// At most 16 addresses in 1 KiB; may be empty in a message, though the empty route has no text form.
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct Route {
    encoded: Vec<u8>,
    count: u8,
}

/// A borrowed [`Route`], for example inside a message.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct RouteRef<'a> {
    pub(crate) encoded: &'a [u8],
    pub(crate) count: u8,
}

impl Route {
    /// The empty route.
    #[must_use]
    pub const fn empty() -> Self {
        Self { encoded: Vec::new(), count: 0 }
    }

    /// A route of these addresses.
    ///
    /// # Errors
    /// [`RouteError::TooMany`] and [`RouteError::TooLong`].
    pub fn new<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> Result<Self, RouteError> {
        let mut route = Self::empty();
        for address in addresses {
            route.push(address)?;
        }
        Ok(route)
    }

    /// Appends an address at the far end.
    ///
    /// # Errors
    /// [`RouteError::TooMany`] and [`RouteError::TooLong`]; the route is then unchanged.
    pub fn push(&mut self, address: &Address) -> Result<(), RouteError> {
        self.extend(RouteRef { encoded: address.as_ref().encoded(), count: 1 })
    }

    /// Appends a whole route at the far end.
    ///
    /// # Errors
    /// As [`Route::push`].
    pub fn extend(&mut self, other: RouteRef<'_>) -> Result<(), RouteError> {
        if usize::from(self.count) + usize::from(other.count) > ROUTE_ADDRESSES_MAX {
            return Err(RouteError::TooMany);
        }
        if 1 + self.encoded.len() + other.encoded.len() > ROUTE_BYTES_MAX {
            return Err(RouteError::TooLong);
        }
        self.encoded.extend_from_slice(other.encoded);
        self.count += other.count;
        Ok(())
    }

    /// This route with its last address replaced.
    ///
    /// # Errors
    /// As [`Route::push`].
    pub fn with_last(&self, last: &Address) -> Result<Self, RouteError> {
        let keep = self.len().saturating_sub(1);
        let mut route = Self::empty();
        for address in self.iter().take(keep) {
            route.push(&address.to_owned())?;
        }
        route.push(last)?;
        Ok(route)
    }

    /// This route, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> RouteRef<'_> {
        RouteRef { encoded: &self.encoded, count: self.count }
    }

    /// The addresses, nearest first.
    pub fn iter(&self) -> impl Iterator<Item = AddressRef<'_>> {
        self.as_ref().iter()
    }

    /// Number of addresses.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there are no addresses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> RouteRef<'a> {
    /// The route of one borrowed address.
    #[must_use]
    pub fn one(address: AddressRef<'a>) -> Self {
        Self { encoded: address.encoded(), count: 1 }
    }

    /// The addresses, nearest first.
    pub fn iter(self) -> impl Iterator<Item = AddressRef<'a>> {
        let mut rest = self.encoded;
        core::iter::from_fn(move || {
            let first = AddressRef::first_of_checked(rest)?;
            rest = &rest[first.encoded().len()..];
            Some(first)
        })
    }

    /// The nearest address.
    #[must_use]
    pub fn first(self) -> Option<AddressRef<'a>> {
        AddressRef::first_of_checked(self.encoded)
    }

    /// The farthest address.
    #[must_use]
    pub fn last(self) -> Option<AddressRef<'a>> {
        self.iter().last()
    }

    /// Number of addresses.
    #[must_use]
    pub fn len(self) -> usize {
        usize::from(self.count)
    }

    /// Whether there are no addresses.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// An owned copy.
    #[must_use]
    pub fn to_owned(self) -> Route {
        Route { encoded: self.encoded.to_vec(), count: self.count }
    }
}

impl FromStr for Route {
    type Err = RouteError;

    /// Reads `address => address => …`, one space on each side of each arrow.
    fn from_str(text: &str) -> Result<Self, RouteError> {
        if text.trim_end() == "=" || text.ends_with(" =") {
            return Err(RouteError::Unquoted);
        }
        let mut route = Self::empty();
        for part in text.split(" => ") {
            let address =
                part.parse().map_err(|source| RouteError::Address { text: part.to_owned(), source })?;
            route.push(&address)?;
        }
        Ok(route)
    }
}

impl From<Address> for Route {
    fn from(address: Address) -> Self {
        Self { encoded: address.as_ref().encoded().to_vec(), count: 1 }
    }
}

impl fmt::Display for RouteRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(" => ")?;
            }
            address.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for RouteRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_ref(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let text = "tcp:relay.example:4000 => forward_to_bob => bob_listener";
        let route: Route = text.parse().unwrap();
        assert_eq!((route.to_string().as_str(), route.len()), (text, 3));
        assert_eq!(route.as_ref().last().unwrap().value(), "bob_listener");
    }

    #[test]
    fn a_lone_equals_sign_asks_for_quotes() {
        assert_eq!("=".parse::<Route>(), Err(RouteError::Unquoted));
        assert_eq!("a =".parse::<Route>(), Err(RouteError::Unquoted));
    }

    #[test]
    fn spacing_and_length_are_exact() {
        for text in ["", "a=>b", "a =>b", "a  => b", " a", "a => ", "a => => b"] {
            assert!(text.parse::<Route>().is_err(), "{text}");
        }
        let sixteen = vec!["w"; 16].join(" => ");
        assert_eq!(sixteen.parse::<Route>().unwrap().len(), 16);
        assert_eq!(format!("{sixteen} => w").parse::<Route>(), Err(RouteError::TooMany));
    }
}
