//! What can go wrong for the users of workers; split by who has to act.

use std::time::Duration;

use onward_routing::{Address, ErrorCode, Message, RouteError};

/// A message that was not accepted, given back with the reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The target had no room within the time a sender waits.
    #[error("the target is full")]
    Full(Message),
    /// Routing refused the message here, at this node.
    #[error("the message was refused: {code}")]
    Refused {
        /// Why.
        code: ErrorCode,
        /// The message as it was when it was refused.
        message: Message,
    },
}

impl SendError {
    pub(crate) fn refused(code: ErrorCode, message: Message) -> Self {
        Self::Refused { code, message }
    }

    /// The message that was not sent.
    #[must_use]
    pub fn into_message(self) -> Message {
        match self {
            Self::Full(message) | Self::Refused { message, .. } => message,
        }
    }

    /// The code a report of this failure carries.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Full(_) => ErrorCode::Overloaded,
            Self::Refused { code, .. } => *code,
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The request did not leave this node.
    #[error("the request was not sent")]
    NotSent(#[from] SendError),
    /// Somebody on the way, or the worker's node, says that the request failed.
    ///
    /// Over a transport this is a hint that anybody may forge; the outcome is then unknown.
    #[error("the request failed: {code}{}", place(.at.as_ref()))]
    Reported {
        /// What happened.
        code: ErrorCode,
        /// Where, if the other side says.
        at: Option<Address>,
    },
    /// No answer came in time; the outcome is unknown.
    #[error("no answer within {0:?}; the outcome is unknown")]
    Deadline(Duration),
    /// The connection or channel the request left by was lost; the outcome is unknown.
    #[error("the connection was lost; the outcome is unknown")]
    ConnectionLost,
    /// The answer is not what the caller asked for.
    #[error("the answer has another form")]
    Answer(#[source] PayloadError),
    /// A worker asked itself, which could never be answered.
    #[error("a worker cannot ask itself")]
    OneSelf,
    /// More requests are waiting than the node allows.
    #[error("too many requests are waiting for answers")]
    TooManyAsks,
}

fn place(at: Option<&Address>) -> String {
    at.map_or_else(String::new, |at| format!(" at `{at}`"))
}

/// Bytes that are not the type they should be, or a value that cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Decoding failed.
    #[error("not a value of the expected type")]
    Decode(#[source] minicbor::decode::Error),
    /// Bytes are left behind the value.
    #[error("{0} surplus bytes behind the value")]
    Trailing(usize),
    /// More than 64 arrays, maps and tags are open at once.
    #[error("nested too deeply")]
    TooDeep,
    /// Encoding failed.
    #[error("the value cannot be encoded: {0}")]
    Encode(String),
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another worker has this address.
    #[error("the address `{0}` is taken")]
    Taken(Address),
    /// The name is no address.
    #[error("`{name}` is no worker name")]
    Name {
        /// The name as given.
        name: String,
        /// Which rule it breaks.
        #[source]
        source: onward_routing::AddressError,
    },
    /// The route is malformed.
    #[error("malformed route")]
    Route(#[from] RouteError),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// A handler's own failure: logged here with its cause, told to the caller only as `failed`.
///
/// Made from any error by `?`; application errors that the caller should see belong into the reply,
/// as a `Result<R, E>` value.
#[derive(Debug)]
pub struct Failure(Box<dyn std::error::Error + Send + Sync>);

impl Failure {
    /// A failure with a text for the local log.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }

    /// The cause.
    #[must_use]
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync) {
        &*self.0
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}
