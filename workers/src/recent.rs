//! Where the last message of an ingress went: most often the next one goes there too.
//!
//! Only what stays true as long as the router's generation does is kept, so that a rule or a worker that
//! goes is never used once more.

use std::fmt;
use std::sync::Arc;

use onward_routing::{Address, ErrorCode, Message};

use crate::router::{Known, Next, Router, Target};

/// The exposed target that an ingress reached last.
#[derive(Default)]
pub struct Recent {
    last: Option<Last>,
}

struct Last {
    address: Address,
    generation: u64,
    target: Target,
}

impl Recent {
    /// Passes on a message that came in from outside.
    pub fn forward(&mut self, router: &Arc<Router>, message: Message) -> Next {
        match self.target(router, &message) {
            Some(Ok(target)) => Next::ForwardTo(Known(target), message),
            Some(Err(code)) => Next::Refused(code, message),
            None => Next::Forward(message),
        }
    }

    /// The target of a message that goes where the last one went, or of one whose target can be kept.
    pub(crate) fn target(
        &mut self,
        router: &Arc<Router>,
        message: &Message,
    ) -> Option<Result<Target, ErrorCode>> {
        let next = message.next()?;
        let generation = router.generation();
        if let Some(last) = &self.last
            && last.generation == generation
            && last.address.as_ref() == next
        {
            return Some(Ok(last.target.clone()));
        }
        let target = router.exposed(message)?;
        if let Ok(target) = &target {
            self.last = Some(Last { address: next.to_owned(), generation, target: target.clone() });
        }
        Some(target)
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("last", &self.last.as_ref().map(|last| &last.address)).finish()
    }
}
