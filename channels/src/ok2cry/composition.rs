//! Composition: keys that a composing service makes for data of third parties.
//!
//! A child key lives shorter than the key it belongs to, so that what it brings is gone before the answer is. The
//! rule is kept twice: by whoever makes the child, and by the party that seals to the parent.
//!
//! Specification: docs/protocol.md §5.4, "Composition".

use super::{ExchangeError, KeyBody};
use crate::identity::Identifier;

/// By how many seconds a child ends before its parent.
pub const CHILD_MARGIN_SECONDS: u64 = 5;

/// Checks that `child` names `parent` and ends [`CHILD_MARGIN_SECONDS`] before it.
///
/// # Errors
/// [`ExchangeError::Child`].
pub fn check_child(child: &KeyBody, parent: &KeyBody) -> Result<(), ExchangeError> {
    let named = child.parent == Some(parent.key_id) && child.key_id != parent.key_id;
    let shorter = child.exp().checked_add(CHILD_MARGIN_SECONDS).is_some_and(|exp| exp <= parent.exp());
    if named && shorter { Ok(()) } else { Err(ExchangeError::Child) }
}

/// Checks that the `client`, who made the parent, is not among those who may use a child.
///
/// # Errors
/// [`ExchangeError::Child`].
pub fn check_scope<'a>(
    client: &Identifier,
    owner: &'a Identifier,
    delegates: impl IntoIterator<Item = &'a Identifier>,
) -> Result<(), ExchangeError> {
    let mut scope = delegates.into_iter().chain([owner]);
    if scope.any(|user| user == client) { Err(ExchangeError::Child) } else { Ok(()) }
}
