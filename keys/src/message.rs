//! The shape of what is asked of a service and what it answers, the key service and the key cache alike.
//!
//! A request is `[v=1, id u32, op u8, args]`, an answer `[v=1, id u32, status u8, result/null]`, status 0 meaning that
//! it was done. Decoding takes only the deterministic encoding and borrows. What an operation and its arguments mean
//! is not known here.
//!
//! Specification: docs/protocol.md §5.4, §7.1.

use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};

use crate::strict::{self, Malformed};

const VERSION: u8 = 1;

/// The status of what was done.
const DONE: u8 = 0;

/// Reads a request of at most `bytes_max` bytes: its id, and what `call` makes of the operation and of the arguments.
///
/// # Errors
/// [`Malformed`].
pub fn read_request<'b, T>(
    bytes: &'b [u8],
    bytes_max: usize,
    call: impl FnOnce(u8, &mut Decoder<'b>) -> Result<T, decode::Error>,
) -> Result<(u32, T), Malformed> {
    strict::decode_once(bytes, bytes_max, |d| {
        strict::array(d, 4)?;
        strict::version(d, VERSION)?;
        let (id, operation) = (d.u32()?, d.u8()?);
        Ok((id, call(operation, d)?))
    })
}

/// Writes a request but for its arguments, which follow.
///
/// # Errors
/// Of the writer.
pub fn put_request<W: Write>(
    e: &mut Encoder<W>,
    id: u32,
    operation: u8,
) -> Result<(), encode::Error<W::Error>> {
    e.array(4)?.u8(VERSION)?.u32(id)?.u8(operation)?.ok()
}

/// Reads an answer of at most `bytes_max` bytes: its id, and the result, still encoded, or what `refusal` knows the
/// status as.
///
/// # Errors
/// [`Malformed`], also for an unknown status.
pub fn read_answer<R>(
    bytes: &[u8],
    bytes_max: usize,
    refusal: impl FnOnce(u8) -> Option<R>,
) -> Result<(u32, Result<&[u8], R>), Malformed> {
    strict::decode_once(bytes, bytes_max, |d| {
        strict::array(d, 4)?;
        strict::version(d, VERSION)?;
        let (id, status) = (d.u32()?, d.u8()?);
        if status == DONE {
            return Ok((id, Ok(strict::any(d, 1)?)));
        }
        let refusal = refusal(status).ok_or_else(|| strict::refuse(d, "unknown status"))?;
        d.null()?;
        Ok((id, Err(refusal)))
    })
}

/// Writes an answer: the result as `put` does, or the status of the refusal.
///
/// # Errors
/// Of the writer.
pub fn put_answer<W: Write, T>(
    e: &mut Encoder<W>,
    id: u32,
    answer: Result<T, u8>,
    put: impl FnOnce(T, &mut Encoder<W>) -> Result<(), encode::Error<W::Error>>,
) -> Result<(), encode::Error<W::Error>> {
    e.array(4)?.u8(VERSION)?.u32(id)?;
    match answer {
        Ok(result) => {
            e.u8(DONE)?;
            put(result, e)
        }
        Err(status) => e.u8(status)?.null()?.ok(),
    }
}
