//! A message on its way: one heap block behind a handle of two words.
//!
//! The block is laid out as `[head | room | return route | onward route | payload | meta]`. Taking the
//! first address off the onward route moves an offset, a hop writes into the room in front of the
//! return route, encoding copies the pieces out. Payloads above [`INLINE_MAX`] hang on the block as
//! [`Bytes`], so that they are shared and not copied.
//!
//! Every method leaves the message unchanged when it returns an error.
//!
//! Specification: docs/protocol.md §1.1, §1.2.

use core::cell::RefCell;
use core::fmt;
use core::time::Duration;

use bytes::Bytes;

use crate::address::{Address, AddressRef};
use crate::cbor::{Reader, put_head};
use crate::flow::FlowId;
use crate::report::{ErrorCode, ErrorReport};
use crate::route::RouteRef;
use crate::{HOPS_DEFAULT, HOPS_MAX, ROUTE_ADDRESSES_MAX, ROUTE_BYTES_MAX};

/// Largest payload in bytes that lives in the message's own block; larger ones are shared [`Bytes`].
pub const INLINE_MAX: usize = 4096;

/// Free bytes in front of a new message's return route: two addresses of ordinary length.
const ROOM: usize = 80;

/// One message: routes, hop budget, ingress flow, payload and untrusted meta hints.
///
/// The handle is 16 bytes. `Debug` prints routes and sizes, never the payload.
pub struct Message(Box<Block<[u8]>>);

struct Block<D: ?Sized> {
    head: Head,
    data: D,
}

#[derive(Clone)]
struct Head {
    flow: FlowId,
    /// The payload when it is larger than [`INLINE_MAX`].
    body: Option<Bytes>,
    ret_start: u16,
    ret_end: u16,
    onward_start: u16,
    onward_end: u16,
    payload_end: u16,
    meta_end: u16,
    ret_count: u8,
    onward_count: u8,
    hops: u8,
    /// How many of the nearest onward addresses this node's own relays put there.
    configured: u8,
    is_report: bool,
    /// Whether `expires` says anything.
    is_perishable: bool,
    /// Until when this node may hand it on: milliseconds of the node's clock, modulo 2^32.
    expires: u32,
}

/// Why a hop refuses a message; docs/protocol.md §1.2 *Hop*.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HopError {
    /// The hop budget is used up.
    #[error("the hop budget is used up")]
    HopLimit,
    /// A route would exceed 16 addresses or 1 KiB.
    #[error("a route would exceed its limit")]
    RouteFull,
    /// The onward route is empty.
    #[error("the onward route is empty")]
    NoNext,
}

/// The pieces a message is composed of.
pub(crate) struct Parts<'a> {
    pub(crate) onward: RouteRef<'a>,
    pub(crate) ret: RouteRef<'a>,
    pub(crate) payload: Payload<'a>,
    pub(crate) meta: &'a [u8],
    pub(crate) hops: u8,
    pub(crate) configured: u8,
    pub(crate) is_report: bool,
    pub(crate) flow: FlowId,
    pub(crate) expires: Option<u32>,
}

pub(crate) enum Payload<'a> {
    Inline(&'a [u8]),
    Shared(Bytes),
}

impl Message {
    /// A fresh local message with the default hop budget; an empty `ret` asks for no answer.
    #[must_use]
    pub fn new(onward: RouteRef<'_>, ret: RouteRef<'_>, payload: &[u8]) -> Self {
        let payload = if payload.len() <= INLINE_MAX {
            Payload::Inline(payload)
        } else {
            Payload::Shared(Bytes::copy_from_slice(payload))
        };
        Self::compose(Parts::fresh(onward, ret, payload), None)
    }

    /// As [`Message::new`], sharing a large body instead of copying it.
    #[must_use]
    pub fn with_body(onward: RouteRef<'_>, ret: RouteRef<'_>, body: &Bytes) -> Self {
        if body.len() <= INLINE_MAX {
            return Self::new(onward, ret, body);
        }
        Self::compose(Parts::fresh(onward, ret, Payload::Shared(body.clone())), None)
    }

    /// Composes a message in `spare`'s block if it fits there, else in a new one.
    pub(crate) fn compose(parts: Parts<'_>, spare: Option<Self>) -> Self {
        Self::compose_with_room(parts, ROOM, 0, spare)
    }

    fn compose_with_room(parts: Parts<'_>, room: usize, gap: usize, spare: Option<Self>) -> Self {
        let (inline, body): (&[u8], _) = match parts.payload {
            Payload::Inline(bytes) => (bytes, None),
            Payload::Shared(body) => (&[], Some(body)),
        };
        let (ret, onward) = (parts.ret.encoded, parts.onward.encoded);
        let ret_end = room + ret.len();
        let onward_start = ret_end + gap;
        let onward_end = onward_start + onward.len();
        let payload_end = onward_end + inline.len();
        let meta_end = payload_end + parts.meta.len();
        let head = Head {
            flow: parts.flow,
            body,
            ret_start: offset(room),
            ret_end: offset(ret_end),
            onward_start: offset(onward_start),
            onward_end: offset(onward_end),
            payload_end: offset(payload_end),
            meta_end: offset(meta_end),
            ret_count: parts.ret.count,
            onward_count: parts.onward.count,
            hops: parts.hops,
            configured: parts.configured,
            is_report: parts.is_report,
            is_perishable: parts.expires.is_some(),
            expires: parts.expires.unwrap_or_default(),
        };
        let fitting = spare.filter(|spare| spare.0.data.len() >= meta_end);
        let mut block = match fitting.or_else(|| take_spare(meta_end)) {
            Some(Self(mut block)) => {
                block.head = head;
                block
            }
            None => allocate(head, meta_end),
        };
        let data = &mut block.data;
        data[room..ret_end].copy_from_slice(ret);
        data[onward_start..onward_end].copy_from_slice(onward);
        data[onward_end..payload_end].copy_from_slice(inline);
        data[payload_end..meta_end].copy_from_slice(parts.meta);
        Self(block)
    }

    /// Gives the message's block to a next message that this thread composes.
    pub fn recycle(self) {
        if let Some(spent) = self.spend() {
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < SPARE_MAX {
                    spare.push(spent);
                } else if let Some(smaller) =
                    spare.iter_mut().find(|spare| spare.0.data.len() < spent.0.data.len())
                {
                    *smaller = spent;
                }
            });
        }
    }

    /// The message without its shared payload, to be recycled later; `None` for a block too large to keep.
    #[must_use]
    pub fn spend(mut self) -> Option<Self> {
        // A block that had to be large once must not be pinned by small messages.
        (self.0.data.len() <= RECYCLED_MAX).then(|| {
            self.0.head.body = None;
            self
        })
    }

    /// The same message with at least `room` free bytes in front of the return route and `gap` in
    /// front of the onward route.
    fn regrow(&mut self, room: usize, gap: usize) {
        let body = self.0.head.body.take();
        let grown = {
            let parts = Parts {
                onward: self.onward(),
                ret: self.ret(),
                payload: body.map_or_else(|| Payload::Inline(self.inline()), Payload::Shared),
                meta: self.meta(),
                hops: self.0.head.hops,
                configured: self.0.head.configured,
                is_report: self.0.head.is_report,
                flow: self.0.head.flow,
                expires: self.expires(),
            };
            Self::compose_with_room(parts, room, gap, None)
        };
        *self = grown;
    }

    /// The ingress this message came by.
    #[must_use]
    pub fn flow(&self) -> FlowId {
        self.0.head.flow
    }

    /// Marks where the message came in; only an ingress calls this.
    pub fn set_flow(&mut self, flow: FlowId) {
        self.0.head.flow = flow;
    }

    /// Hops left.
    #[must_use]
    pub fn hops(&self) -> u8 {
        self.0.head.hops
    }

    /// Lowers the hop budget to at most [`HOPS_MAX`], as every ingress does.
    pub fn clamp_hops(&mut self) {
        self.0.head.hops = self.0.head.hops.min(HOPS_MAX);
    }

    /// Sets the hop budget of a fresh message, at most [`HOPS_MAX`].
    pub fn set_hops(&mut self, hops: u8) {
        self.0.head.hops = hops.clamp(1, HOPS_MAX);
    }

    /// Whether this is an error report (flags bit 0).
    #[must_use]
    pub fn is_report(&self) -> bool {
        self.0.head.is_report
    }

    /// Where the message still goes.
    #[must_use]
    pub fn onward(&self) -> RouteRef<'_> {
        let head = &self.0.head;
        RouteRef {
            encoded: &self.0.data[head.onward_start.into()..head.onward_end.into()],
            count: head.onward_count,
        }
    }

    /// How an answer comes back.
    #[must_use]
    pub fn ret(&self) -> RouteRef<'_> {
        let head = &self.0.head;
        RouteRef { encoded: &self.0.data[head.ret_start.into()..head.ret_end.into()], count: head.ret_count }
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.0.head.body.as_deref().unwrap_or_else(|| self.inline())
    }

    /// The payload to be changed in place; `None` when it is shared.
    #[must_use]
    pub fn inline_mut(&mut self) -> Option<&mut [u8]> {
        let Block { head, data } = &mut *self.0;
        head.body.is_none().then(|| &mut data[head.onward_end.into()..head.payload_end.into()])
    }

    /// The payload when it is shared rather than inline.
    #[must_use]
    pub fn body(&self) -> Option<&Bytes> {
        self.0.head.body.as_ref()
    }

    /// Takes a shared payload out and leaves an empty one.
    #[must_use]
    pub fn take_body(&mut self) -> Option<Bytes> {
        self.0.head.body.take()
    }

    /// The payload as shared bytes; copies an inline one.
    #[must_use]
    pub fn to_payload(&self) -> Bytes {
        self.body().cloned().unwrap_or_else(|| Bytes::copy_from_slice(self.inline()))
    }

    fn inline(&self) -> &[u8] {
        &self.0.data[self.0.head.onward_end.into()..self.0.head.payload_end.into()]
    }

    /// The encoded meta map, empty for none. Untrusted hints, passed on unread.
    pub(crate) fn meta(&self) -> &[u8] {
        &self.0.data[self.0.head.payload_end.into()..self.0.head.meta_end.into()]
    }

    /// The sender's hint of how long the message is worth delivering, in milliseconds.
    #[must_use]
    pub fn ttl_ms(&self) -> Option<u32> {
        let mut reader = Reader::new(self.meta());
        // Keys are sorted, so a key 1 is the first or follows only key 0.
        for _ in 0..reader.map()? {
            if reader.uint()? == 1 {
                return reader.u32();
            }
            reader.skip_item(2)?;
        }
        None
    }

    /// Notes that the message is at this node from `now` on, if it has a time-to-live hint: the hint counts anew at each
    /// node. Only the first call has an effect, and only a message with hints asks for the time.
    pub fn arrive(&mut self, now: impl FnOnce() -> Duration) {
        if self.meta().is_empty() || self.0.head.is_perishable {
            return;
        }
        if let Some(ttl_ms) = self.ttl_ms() {
            // Longer ones would not differ from those of the past.
            self.0.head.expires = clock_ms(now()).wrapping_add(ttl_ms.min(TTL_MS_MAX));
            self.0.head.is_perishable = true;
        }
    }

    /// Whether the message has been at this node for as long as its time-to-live hint allows.
    #[must_use]
    pub fn has_expired(&self, now: impl FnOnce() -> Duration) -> bool {
        self.expires().is_some_and(|expires| clock_ms(now()).wrapping_sub(expires) <= TTL_MS_MAX)
    }

    fn expires(&self) -> Option<u32> {
        self.0.head.is_perishable.then_some(self.0.head.expires)
    }

    /// Sets the meta map to a time-to-live hint alone.
    pub fn set_ttl_ms(&mut self, ttl_ms: u32) {
        let mut meta = vec![0xa1, 0x01];
        put_head(&mut meta, 0, ttl_ms.into());
        let body = self.0.head.body.take();
        let inline = self.inline().to_vec();
        let parts = Parts {
            onward: self.onward(),
            ret: self.ret(),
            payload: body.map_or(Payload::Inline(&inline), Payload::Shared),
            meta: &meta,
            hops: self.0.head.hops,
            configured: self.0.head.configured,
            is_report: self.0.head.is_report,
            flow: self.0.head.flow,
            expires: None,
        };
        *self = Self::compose(parts, None);
    }

    /// The nearest onward address.
    #[must_use]
    pub fn next(&self) -> Option<AddressRef<'_>> {
        self.onward().first()
    }

    /// Whether the nearest onward address was put there by this node's own relay, not by a peer.
    #[must_use]
    pub fn next_is_configured(&self) -> bool {
        self.0.head.configured > 0
    }

    /// Approximate bytes this message holds in memory; what bounded queues charge for it.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Head>() + self.0.data.len() + self.0.head.body.as_ref().map_or(0, Bytes::len)
    }

    /// The hop rule: the nearest onward address moves to the front of the return route.
    ///
    /// # Errors
    /// Each [`HopError`].
    pub fn hop(&mut self) -> Result<(), HopError> {
        let head = &self.0.head;
        let length = self.next().ok_or(HopError::NoNext)?.encoded().len();
        if head.hops <= 1 {
            return Err(HopError::HopLimit);
        }
        self.check_return_room(length)?;
        if usize::from(head.ret_start) < length {
            self.regrow(ROOM + length, 0);
        }
        let Block { head, data } = &mut *self.0;
        let from = usize::from(head.onward_start);
        head.ret_start -= length as u16;
        data.copy_within(from..from + length, head.ret_start.into());
        head.onward_start += length as u16;
        head.onward_count -= 1;
        head.configured = head.configured.saturating_sub(1);
        head.ret_count += 1;
        head.hops -= 1;
        Ok(())
    }

    /// What a transport sender does: takes the nearest address off and leaves the return route alone.
    ///
    /// # Errors
    /// [`HopError::NoNext`] and [`HopError::HopLimit`].
    pub fn leave(&mut self) -> Result<(), HopError> {
        let length = self.next().ok_or(HopError::NoNext)?.encoded().len();
        let head = &mut self.0.head;
        if head.hops <= 1 {
            return Err(HopError::HopLimit);
        }
        head.onward_start += length as u16;
        head.onward_count -= 1;
        head.configured = head.configured.saturating_sub(1);
        head.hops -= 1;
        Ok(())
    }

    /// What a static relay does: takes itself off and puts its configured route in front.
    ///
    /// # Errors
    /// Each [`HopError`].
    pub fn relay(&mut self, route: RouteRef<'_>) -> Result<(), HopError> {
        let own = self.next().ok_or(HopError::NoNext)?.encoded().len();
        let head = &self.0.head;
        if head.hops <= 1 {
            return Err(HopError::HopLimit);
        }
        let count = usize::from(head.onward_count) - 1 + route.len();
        let bytes = 1 + self.onward().encoded.len() - own + route.encoded.len();
        if count > ROUTE_ADDRESSES_MAX || bytes > ROUTE_BYTES_MAX {
            return Err(HopError::RouteFull);
        }
        let gap = usize::from(head.onward_start) + own - usize::from(head.ret_end);
        if gap < route.encoded.len() {
            self.regrow(ROOM, route.encoded.len());
        }
        let Block { head, data } = &mut *self.0;
        let end = usize::from(head.onward_start) + own;
        let start = end - route.encoded.len();
        data[start..end].copy_from_slice(route.encoded);
        head.onward_start = offset(start);
        head.onward_count = count as u8;
        head.configured = route.count;
        head.hops -= 1;
        Ok(())
    }

    /// Puts `address` in front of the return route, as an ingress does with its own.
    ///
    /// # Errors
    /// [`HopError::RouteFull`].
    pub fn prepend_return(&mut self, address: AddressRef<'_>) -> Result<(), HopError> {
        let encoded = address.encoded();
        self.check_return_room(encoded.len())?;
        if usize::from(self.0.head.ret_start) < encoded.len() {
            self.regrow(ROOM + encoded.len(), 0);
        }
        let Block { head, data } = &mut *self.0;
        let end = usize::from(head.ret_start);
        head.ret_start -= encoded.len() as u16;
        data[head.ret_start.into()..end].copy_from_slice(encoded);
        head.ret_count += 1;
        Ok(())
    }

    /// Takes the nearest return address off, as the receiver from a queue does with the mailbox that its
    /// sender wrote there.
    pub fn take_return(&mut self) -> Option<Address> {
        let first = self.ret().first()?.to_owned();
        let head = &mut self.0.head;
        head.ret_start += offset(first.as_ref().encoded().len());
        head.ret_count -= 1;
        Some(first)
    }

    /// Replaces the last return address, the sender's own, by another.
    ///
    /// # Errors
    /// [`HopError::RouteFull`] if the route would grow beyond its limit.
    pub fn replace_sender(&mut self, address: &Address) -> Result<(), HopError> {
        let ret = self.ret().to_owned().with_last(address).map_err(|_| HopError::RouteFull)?;
        let body = self.0.head.body.take();
        let inline = self.inline().to_vec();
        let parts = Parts {
            onward: self.onward(),
            ret: ret.as_ref(),
            payload: body.map_or(Payload::Inline(&inline), Payload::Shared),
            meta: self.meta(),
            hops: self.0.head.hops,
            configured: self.0.head.configured,
            is_report: self.0.head.is_report,
            flow: self.0.head.flow,
            expires: self.expires(),
        };
        *self = Self::compose(parts, None);
        Ok(())
    }

    fn check_return_room(&self, length: usize) -> Result<(), HopError> {
        let ret = self.ret();
        if ret.len() >= ROUTE_ADDRESSES_MAX || 1 + ret.encoded.len() + length > ROUTE_BYTES_MAX {
            return Err(HopError::RouteFull);
        }
        Ok(())
    }

    /// The answer to this message: onward along its return route, from `ret`, with fresh hops.
    ///
    /// `None` when no answer is wanted (the return route is empty). Reuses the message's block.
    #[must_use]
    pub fn into_reply(self, ret: RouteRef<'_>, payload: &[u8]) -> Option<Self> {
        if payload.len() > INLINE_MAX {
            return self.into_reply_body(ret, &Bytes::copy_from_slice(payload));
        }
        self.into_answer(ret, Payload::Inline(payload), false)
    }

    /// As [`Message::into_reply`], sharing a large body instead of copying it.
    #[must_use]
    pub fn into_reply_body(self, ret: RouteRef<'_>, body: &Bytes) -> Option<Self> {
        if body.len() <= INLINE_MAX {
            return self.into_reply(ret, body);
        }
        self.into_answer(ret, Payload::Shared(body.clone()), false)
    }

    /// The error report that tells this message's sender what happened to it.
    ///
    /// `None` when there is nobody to tell: the return route is empty or this is itself a report.
    #[must_use]
    pub fn into_report(self, code: ErrorCode, at: Option<&Address>) -> Option<Self> {
        if self.is_report() {
            return None;
        }
        let payload = ErrorReport { code, at: at.cloned() }.encode();
        self.into_answer(RouteRef::default(), Payload::Inline(&payload), true)
    }

    fn into_answer(self, ret: RouteRef<'_>, payload: Payload<'_>, is_report: bool) -> Option<Self> {
        let back = self.ret();
        if back.is_empty() {
            return None;
        }
        // The route is copied aside because it moves within the block it is read from.
        let mut short = [0; 128];
        let long;
        let encoded: &[u8] = match short.get_mut(..back.encoded.len()) {
            Some(short) => {
                short.copy_from_slice(back.encoded);
                short
            }
            None => {
                long = back.encoded.to_vec();
                &long
            }
        };
        let onward = RouteRef { encoded, count: back.count };
        let parts = Parts { is_report, ..Parts::fresh(onward, ret, payload) };
        Some(Self::compose(parts, Some(self)))
    }
}

impl<'a> Parts<'a> {
    fn fresh(onward: RouteRef<'a>, ret: RouteRef<'a>, payload: Payload<'a>) -> Self {
        Self {
            onward,
            ret,
            payload,
            meta: &[],
            hops: HOPS_DEFAULT,
            configured: 0,
            is_report: false,
            flow: FlowId::LOCAL,
            expires: None,
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("flow", &self.flow())
            .field("onward", &self.onward())
            .field("ret", &self.ret())
            .field("hops", &self.hops())
            .field("is_report", &self.is_report())
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// Every part of a block is bounded, so that all offsets fit 16 bits; a limit raised beyond that
/// would be caught here in tests.
fn offset(at: usize) -> u16 {
    debug_assert!(at <= BLOCK_MAX, "a block's parts are bounded");
    at as u16
}

/// Milliseconds of a clock, modulo 2^32.
fn clock_ms(now: Duration) -> u32 {
    now.as_millis() as u32
}

/// The longest time to live that is kept, in milliseconds: 24 days. Half of the clock's range is ahead, half behind.
const TTL_MS_MAX: u32 = i32::MAX as u32;

/// Largest block that is kept for the next message.
const RECYCLED_MAX: usize = 1984;

/// Blocks that a thread keeps: a record and the message in it, and one in hand.
const SPARE_MAX: usize = 4;

thread_local! {
    /// The blocks of messages that this thread was done with.
    static SPARE: RefCell<Vec<Message>> = const { RefCell::new(Vec::new()) };
}

/// A block that holds `length` bytes, if the thread keeps one.
fn take_spare(length: usize) -> Option<Message> {
    let take = |spare: &RefCell<Vec<Message>>| {
        let mut spare = spare.borrow_mut();
        let fitting = spare.iter().enumerate().filter(|(_, spare)| spare.0.data.len() >= length);
        let (smallest, _) = fitting.min_by_key(|(_, spare)| spare.0.data.len())?;
        Some(spare.swap_remove(smallest))
    };
    // No thread-local storage any more means that the thread is ending: a fresh block will do.
    SPARE.try_with(take).ok().flatten()
}

/// Room, two routes, an inline payload and meta at their limits, and what a regrown block adds.
const BLOCK_MAX: usize = 8192;

/// A zeroed block of the smallest size class that holds `length` bytes.
fn allocate(head: Head, length: usize) -> Box<Block<[u8]>> {
    match length {
        0..=192 => Box::new(Block { head, data: [0; 192] }),
        193..=448 => Box::new(Block { head, data: [0; 448] }),
        449..=960 => Box::new(Block { head, data: [0; 960] }),
        961..=1984 => Box::new(Block { head, data: [0; 1984] }),
        1985..=4032 => Box::new(Block { head, data: [0; 4032] }),
        _ => Box::new(Block { head, data: [0; BLOCK_MAX] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Route;

    fn route(text: &str) -> Route {
        text.parse().unwrap()
    }

    #[test]
    fn the_handle_is_small() {
        assert!(size_of::<Message>() <= 32);
    }

    #[test]
    fn a_hop_moves_itself_to_the_return_route() {
        let mut message = Message::new(route("a => b => c").as_ref(), route("me").as_ref(), b"hi");
        message.hop().unwrap();
        message.hop().unwrap();
        assert_eq!(message.onward().to_string(), "c");
        assert_eq!(message.ret().to_string(), "b => a => me");
        assert_eq!((message.hops(), message.payload()), (HOPS_DEFAULT - 2, &b"hi"[..]));
    }

    #[test]
    fn a_reply_goes_back_the_way_the_request_came() {
        let mut message = Message::new(route("a => b").as_ref(), route("me").as_ref(), &[7; 2000]);
        message.hop().unwrap();
        let reply = message.into_reply(route("b").as_ref(), b"ok").unwrap();
        assert_eq!(reply.onward().to_string(), "a => me");
        assert_eq!(reply.ret().to_string(), "b");
        assert_eq!(reply.payload(), b"ok");
        assert!(
            Message::new(route("a").as_ref(), Route::empty().as_ref(), b"")
                .into_reply(route("a").as_ref(), b"")
                .is_none()
        );
    }

    #[test]
    fn routes_keep_their_limits_and_room_grows() {
        let long = "x".repeat(60);
        let names: Vec<_> = (0..16).map(|n| format!("{n:02}{}", &long[..56])).collect();
        let mut message = Message::new(route(&names.join(" => ")).as_ref(), Route::empty().as_ref(), b"body");
        for _ in 0..16 {
            message.hop().unwrap();
        }
        assert_eq!(message.ret().len(), 16);
        assert_eq!(message.ret().first().unwrap().value(), names[15]);
        assert_eq!(message.payload(), b"body");
        let before = format!("{message:?}");
        let own = Address::local("w").unwrap();
        assert_eq!(message.prepend_return(own.as_ref()), Err(HopError::RouteFull));
        assert_eq!(message.hop(), Err(HopError::NoNext));
        assert_eq!(format!("{message:?}"), before);
    }

    #[test]
    fn what_was_put_in_front_of_the_return_route_is_taken_off_it() {
        let mut message = Message::new(route("w").as_ref(), route("me").as_ref(), b"body");
        let mailbox: Address = format!("queue:q/{}", "a2".repeat(16)).parse().unwrap();
        message.prepend_return(mailbox.as_ref()).unwrap();
        assert_eq!(message.take_return(), Some(mailbox));
        assert_eq!((message.ret().to_string(), message.ret().len()), ("me".to_owned(), 1));
        assert_eq!(message.take_return().map(|address| address.to_string()), Some("me".to_owned()));
        assert_eq!(message.take_return(), None);
        assert_eq!((message.onward().to_string(), message.payload()), ("w".to_owned(), &b"body"[..]));
    }

    #[test]
    fn the_hop_budget_ends_a_loop() {
        let mut message = Message::new(route("a => b => c").as_ref(), Route::empty().as_ref(), b"");
        message.set_hops(2);
        message.hop().unwrap();
        assert_eq!(message.hop(), Err(HopError::HopLimit));
        assert_eq!(message.leave(), Err(HopError::HopLimit));
        assert_eq!(message.onward().to_string(), "b => c");
    }

    #[test]
    fn a_relay_prepends_its_route_and_hides_itself() {
        let mut message = Message::new(route("relay => w").as_ref(), route("me").as_ref(), &[1; 300]);
        let configured = route("tcp:far.example:4000 => there => and-there");
        message.relay(configured.as_ref()).unwrap();
        assert_eq!(message.onward().to_string(), format!("{configured} => w"));
        assert_eq!(message.ret().to_string(), "me");
        assert_eq!(message.payload(), [1; 300]);
        let sixteen = route(&vec!["w"; 16].join(" => "));
        assert_eq!(message.relay(sixteen.as_ref()), Err(HopError::RouteFull));
    }

    #[test]
    fn a_recycled_block_holds_nothing_of_the_message_before() {
        let first = Message::with_body(
            route("a => b").as_ref(),
            route("me").as_ref(),
            &vec![1; INLINE_MAX + 1].into(),
        );
        first.recycle();
        let second = Message::new(route("c").as_ref(), Route::empty().as_ref(), b"hi");
        assert!(second.body().is_none() && second.ret().is_empty() && second.meta().is_empty());
        assert_eq!((second.onward().to_string().as_str(), second.payload()), ("c", &b"hi"[..]));
    }

    #[test]
    fn a_time_to_live_counts_from_when_the_message_came() {
        let at = |milliseconds: u64| move || Duration::from_millis(milliseconds);
        let mut message = Message::new(route("a => b").as_ref(), route("me").as_ref(), b"hi");
        message.arrive(|| panic!("nobody asks for the time"));
        assert!(!message.has_expired(|| panic!("nobody asks for the time")));
        message.set_ttl_ms(50);
        assert!(!message.has_expired(at(1_000_000)), "it has not come yet");
        message.arrive(at(100));
        message.arrive(at(149));
        message.hop().unwrap();
        message.replace_sender(&Address::random(5)).unwrap();
        assert!(!message.has_expired(at(149)));
        assert!(message.has_expired(at(150)) && message.has_expired(at(86_400_000)));
        assert_eq!(message.ttl_ms(), Some(50), "it is passed on as it came");
        // The clock's milliseconds do not fit what is kept of them.
        let end = u64::from(u32::MAX);
        for (ttl_ms, lasts) in [(10, 9), (u32::MAX, 86_400_000)] {
            message.set_ttl_ms(ttl_ms);
            message.arrive(at(end - 5));
            assert!(!message.has_expired(at(end - 5 + lasts)), "{ttl_ms}");
        }
        let answer = message.into_reply(RouteRef::default(), b"").unwrap();
        assert!(!answer.has_expired(at(end + 86_400_000_000)), "an answer has no hint");
    }

    #[test]
    fn large_bodies_are_shared() {
        let body = Bytes::from(vec![9; INLINE_MAX + 1]);
        let mut message = Message::with_body(route("a => b").as_ref(), route("me").as_ref(), &body);
        message.hop().unwrap();
        message.replace_sender(&Address::random(5)).unwrap();
        message.set_ttl_ms(70_000);
        assert_eq!(message.body().unwrap().as_ptr(), body.as_ptr());
        assert_eq!(message.ttl_ms(), Some(70_000));
        assert_eq!(message.ret().last().unwrap().random_id(), Some(5));
    }
}
