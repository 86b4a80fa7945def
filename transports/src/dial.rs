//! Connections that messages have dialled: one per endpoint and rule, closed when nobody uses them.
//!
//! Specification: docs/protocol.md §1.3.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
#[cfg(any(feature = "tcp", feature = "udp"))]
use std::{io, net::SocketAddr};

use onward_routing::{Address, AddressRef, DialRule};
use onward_workers::{Dialer, Router, Step};

use crate::connection::Connection;
use crate::error::TransportError;

/// Asks several dialers in turn; each knows the kinds of endpoints it is for.
pub struct Dialers(Vec<Arc<dyn Dialer>>);

impl Dialers {
    /// A dialer made of these.
    #[must_use]
    pub fn new(dialers: Vec<Arc<dyn Dialer>>) -> Self {
        Self(dialers)
    }
}

impl Dialer for Dialers {
    fn dial(
        &self,
        router: &Arc<Router>,
        endpoint: AddressRef<'_>,
        rule: Option<&DialRule>,
    ) -> Option<Arc<dyn Step>> {
        self.0.iter().find_map(|dialer| dialer.dial(router, endpoint, rule))
    }
}

impl fmt::Debug for Dialers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dialers").field(&self.0.len()).finish()
    }
}

/// The addresses of an endpoint `kind:host:port`, if `rule` permits each of them.
///
/// # Errors
/// The resolver's, and [`io::ErrorKind::PermissionDenied`].
#[cfg(any(feature = "tcp", feature = "udp"))]
pub(crate) async fn resolve(endpoint: &Address, rule: Option<&DialRule>) -> io::Result<Vec<SocketAddr>> {
    let resolved: Vec<_> = tokio::net::lookup_host(endpoint.value()).await?.collect();
    // All or none: a name with one forbidden address among others is an attempt to get in.
    if let Some(rule) = rule
        && let Some(forbidden) = resolved.iter().find(|address| !rule.permits(address.ip()))
    {
        tracing::warn!(%endpoint, address = %forbidden, "the dial rule does not permit this");
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(resolved)
}

/// The dialled connections of one transport.
#[derive(Debug, Default)]
pub(crate) struct Dialled(Mutex<HashMap<Address, Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    /// The rule it was dialled by. Not shared between rules: a name may resolve to what one rule
    /// permits and another does not.
    rule: Option<DialRule>,
    connection: Connection,
}

impl Dialled {
    fn entries(&self) -> MutexGuard<'_, HashMap<Address, Vec<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live connection for `endpoint` under `rule`, or what `start` makes if fewer than `most` live.
    pub(crate) fn get(
        &self,
        endpoint: AddressRef<'_>,
        rule: Option<&DialRule>,
        most: usize,
        start: impl FnOnce(Address) -> Result<Connection, TransportError>,
    ) -> Option<Arc<dyn Step>> {
        let mut entries = self.entries();
        let fits = |entry: &&Entry| entry.rule.as_ref() == rule && !entry.connection.is_closed();
        if let Some(entry) = entries.get(endpoint.encoded()).and_then(|found| found.iter().find(fits)) {
            return Some(entry.connection.step());
        }
        entries.retain(|_, found| {
            found.retain(|entry| !entry.connection.is_closed());
            !found.is_empty()
        });
        if entries.values().map(Vec::len).sum::<usize>() >= most
            || tokio::runtime::Handle::try_current().is_err()
        {
            return None;
        }
        let endpoint = endpoint.to_owned();
        match start(endpoint.clone()) {
            Ok(connection) => {
                let step = connection.step();
                entries.entry(endpoint).or_default().push(Entry { rule: rule.cloned(), connection });
                Some(step)
            }
            Err(error) => {
                tracing::warn!(%endpoint, %error, "cannot dial");
                None
            }
        }
    }

    /// Ends all of them without draining.
    pub(crate) fn end(&self) {
        // The connections hold the router, which holds their dialer: nothing else would end them.
        drop(std::mem::take(&mut *self.entries()));
    }

    /// Closes all of them at once, each within `within`.
    pub(crate) async fn close(&self, within: Duration) {
        let all: Vec<_> = std::mem::take(&mut *self.entries()).into_values().flatten().collect();
        for entry in &all {
            entry.connection.begin_close();
        }
        let until = tokio::time::Instant::now() + within;
        for entry in all {
            entry.connection.close(until.saturating_duration_since(tokio::time::Instant::now())).await;
        }
    }
}
