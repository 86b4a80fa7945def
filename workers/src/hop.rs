//! The steps a route passes on a node: the plain hop and the static relay. And the echo worker.
//!
//! Specification: docs/protocol.md §1.2.

use std::sync::Arc;

use onward_routing::{Message, Route};

use crate::context::Context;
use crate::error::Failure;
use crate::payload::Raw;
use crate::room::Charge;
use crate::router::{Next, Router, Step};
use crate::worker::Worker;

/// Passes messages on: takes itself off the onward route and puts itself on the return route.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hop;

impl Step for Hop {
    fn step(&self, _: &Arc<Router>, mut message: Message, _: Option<Charge>) -> Next {
        let result = message.hop();
        Next::after(result, message)
    }
}

/// Passes messages on along a configured route, which it puts in its own place; it does not appear
/// on the return route.
#[derive(Clone, Debug)]
pub struct Relay {
    route: Route,
}

impl Relay {
    /// A relay to `route`.
    #[must_use]
    pub fn new(route: Route) -> Self {
        Self { route }
    }
}

impl Step for Relay {
    fn step(&self, _: &Arc<Router>, mut message: Message, _: Option<Charge>) -> Next {
        let result = message.relay(self.route.as_ref());
        Next::after(result, message)
    }
}

/// Answers every message with its own bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Worker for Echo {
    type Request = Raw;
    type Reply = Raw;

    async fn handle(&mut self, _: &mut Context, request: Raw) -> Result<Raw, Failure> {
        Ok(request)
    }
}
