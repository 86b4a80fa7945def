//! Workers and what carries messages between them on one node.
//!
//! A [`Worker`] handles one typed message at a time and has an address. The [`Router`] takes a message
//! along its onward route: hops and relays are steps on the sender's task, the end of the walk is a
//! bounded mailbox. Failures travel as error reports; panics are contained and supervised.
//!
//! This crate opens no sockets: transports feed it through [`Ingress`] and are fed through [`Step`].
//!
//! Specification: docs/protocol.md §1.

mod ask;
mod context;
mod error;
mod hop;
mod ingress;
mod mailbox;
mod payload;
mod recent;
mod room;
mod router;
mod run;
mod supervisor;
mod worker;

pub use context::Context;
pub use error::{AskError, Failure, PayloadError, SendError, StartError};
pub use hop::{Echo, Hop, Relay};
pub use ingress::{Blocked, Ingress};
pub use mailbox::{EndReason, Ended};
pub use payload::{NoReply, Payload, Raw, Reply, Serde};
pub use recent::Recent;
pub use room::{CHARGE_MIN, Charge, Closed, Room};
pub use router::{Counters, Dialer, FrameSink, Known, Limits, Next, Router, Step};
pub use run::{WorkerHandle, start};
pub use supervisor::{Restart, Strategy, Supervisor, SupervisorHandle};
pub use worker::{FnWorker, Worker};
