//! Identities, and what two of them do to talk in secret, as pure values.

pub mod identity;
pub mod signed;
pub mod strict;
