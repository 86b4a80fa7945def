//! What a served queue is asked, and answers.

use std::sync::Arc;
use std::time::Duration;

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use onward_transports::queue::{Durability, QueueError, Reason, Verdict};

/// A subscription's name: 16 random bytes of its subscriber.
pub(super) type SubscriptionId = ByteArray<16>;

#[derive(Debug, Decode, Encode)]
pub(crate) enum QueueRequest {
    /// Stores a message.
    #[n(0)]
    Publish {
        #[n(0)]
        subject: String,
        #[n(1)]
        mid: ByteArray<16>,
        #[n(2)]
        ttl_ms: u64,
        #[n(3)]
        bytes: ByteVec,
    },
    /// Fetches at most `most` messages of a subscription, which begins with its first fetch.
    #[n(1)]
    Fetch {
        #[n(0)]
        subscription: SubscriptionId,
        #[n(1)]
        subject: String,
        #[n(2)]
        most: u16,
    },
    /// Says what becomes of a delivery.
    #[n(2)]
    Settle {
        #[n(0)]
        subscription: SubscriptionId,
        #[n(1)]
        tag: u64,
        #[n(2)]
        verdict: u8,
        /// Milliseconds of a pause, or the code of a reason.
        #[n(3)]
        argument: u64,
    },
    /// Ends a subscription; what is not settled comes again.
    #[n(3)]
    Leave {
        #[n(0)]
        subscription: SubscriptionId,
    },
}

impl QueueRequest {
    /// The subscription that it is about.
    pub(crate) fn subscription(&self) -> Option<[u8; 16]> {
        match self {
            Self::Publish { .. } => None,
            Self::Fetch { subscription, .. }
            | Self::Settle { subscription, .. }
            | Self::Leave { subscription } => Some(**subscription),
        }
    }
}

#[derive(Debug, Decode, Encode)]
pub(crate) enum QueueAnswer {
    #[n(0)]
    Stored {
        #[n(0)]
        durability: u8,
        #[n(1)]
        is_duplicate: bool,
    },
    #[n(1)]
    Deliveries {
        #[n(0)]
        deliveries: Vec<Fetched>,
    },
    #[n(2)]
    Done,
    #[n(3)]
    Refused {
        #[n(0)]
        code: u8,
        /// The bound that was reached, where that is the reason.
        #[n(1)]
        limit: u64,
    },
}

/// One message of a fetch.
#[derive(Debug, Decode, Encode)]
pub(crate) struct Fetched {
    #[n(0)]
    pub(super) tag: u64,
    #[n(1)]
    pub(super) attempt: u32,
    #[n(2)]
    pub(super) bytes: ByteVec,
}

/// Codes of what a served queue refuses.
const QUOTA: u8 = 1;
const STORAGE_FULL: u8 = 2;
const TOO_LARGE: u8 = 3;
const EXPIRED: u8 = 4;
const STORAGE: u8 = 5;
const UNREACHABLE: u8 = 6;
const UNKNOWN: u8 = 7;
const CLOSED: u8 = 8;

/// Which bound was reached is not told: it is the server's affair.
const FOREIGN_QUOTA: &str = "quota of the served queue";
const FOREIGN_STORAGE: &str = "the storage of the served queue";

pub(crate) fn refused(error: &QueueError) -> QueueAnswer {
    let (code, limit) = match error {
        QueueError::QuotaExceeded { limit, .. } => (QUOTA, *limit),
        QueueError::StorageFull => (STORAGE_FULL, 0),
        QueueError::TooLarge { bytes_max, .. } => (TOO_LARGE, *bytes_max as u64),
        QueueError::Expired => (EXPIRED, 0),
        QueueError::Unreachable(_) => (UNREACHABLE, 0),
        QueueError::Unknown => (UNKNOWN, 0),
        QueueError::Closed => (CLOSED, 0),
        _ => (STORAGE, 0),
    };
    QueueAnswer::Refused { code, limit }
}

/// The error that a served queue reported for a message of `bytes`.
pub(crate) fn error_of(code: u8, limit: u64, bytes: usize) -> QueueError {
    match code {
        QUOTA => QueueError::QuotaExceeded { quota: FOREIGN_QUOTA, limit },
        STORAGE_FULL => QueueError::StorageFull,
        TOO_LARGE => QueueError::TooLarge { bytes, bytes_max: usize::try_from(limit).unwrap_or(usize::MAX) },
        EXPIRED => QueueError::Expired,
        UNREACHABLE => QueueError::Unreachable(None),
        CLOSED => QueueError::Closed,
        STORAGE => {
            QueueError::Storage(Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(FOREIGN_STORAGE)))
        }
        _ => QueueError::Unknown,
    }
}

/// The number of what a receipt promises.
pub(crate) fn durability_code(durability: Durability) -> u8 {
    match durability {
        Durability::BrokerReplicated => 1,
        Durability::BrokerDisk => 2,
        Durability::Disk => 3,
        _ => 0,
    }
}

/// What a served queue's receipt promises here: the server's own disk is a broker's.
pub(crate) fn durability_of(code: u8) -> Durability {
    match code {
        1 => Durability::BrokerReplicated,
        2 | 3 => Durability::BrokerDisk,
        _ => Durability::BrokerMemory,
    }
}

pub(crate) fn verdict_code(verdict: Verdict) -> (u8, u64) {
    match verdict {
        Verdict::Ack => (0, 0),
        Verdict::Nak(pause) => (1, u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
        Verdict::Term(reason) => (2, reason as u64),
        Verdict::Extend => (3, 0),
    }
}

pub(crate) fn verdict_of(code: u8, argument: u64) -> Option<Verdict> {
    match code {
        0 => Some(Verdict::Ack),
        1 => Some(Verdict::Nak(Duration::from_millis(argument))),
        2 => Reason::from_number(u8::try_from(argument).ok()?).map(Verdict::Term),
        3 => Some(Verdict::Extend),
        _ => None,
    }
}
