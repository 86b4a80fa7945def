//! One connection over a byte stream: preface, frames in, frames out, keepalives and deadlines.
//!
//! Reading and writing are two loops of one task, so that a message that only passes through wakes
//! nobody else. Any violation ends the connection; there is no resynchronisation. Nothing here
//! knows what kind of stream it is.
//!
//! Specification: docs/protocol.md §2.1.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onward_routing::{DecodeError, HEADER_BYTES_MAX, LENGTH_HEAD};
use onward_workers::Ingress;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::egress::{Batch, Egress, SHARED_MIN, Taken};
use crate::frame::{Buffer, KEEPALIVE, PREFACE, frame_length, is_preface};
use crate::limits::{StreamLimits, Streams};

/// How long a closing connection waits for its peer to close too.
const LINGER: Duration = Duration::from_secs(5);
/// After so many bytes in one read the reader lets others run before the next.
const YIELD_BYTES: usize = 16 * 1024;

/// The two halves of a stream.
pub(crate) type Halves<R, W> = (R, W);

/// What can be read from for a connection.
pub(crate) trait Reader: AsyncRead + Send + Unpin + 'static {}
impl<T: AsyncRead + Send + Unpin + 'static> Reader for T {}

/// What can be written to for a connection.
pub(crate) trait Writer: AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncWrite + Send + Unpin + 'static> Writer for T {}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the peer took too long for its preface")]
    SlowPreface,
    #[error("the peer does not speak this protocol")]
    Preface,
    #[error("a frame took too long to complete")]
    SlowFrame,
    #[error("nothing came for too long")]
    Idle,
    #[error("the peer takes nothing")]
    Stuck,
    #[error("a frame exceeds the limit")]
    TooBig,
    #[error("the stream ended within a frame")]
    Truncated,
    #[error("a frame is no message")]
    Decode(#[from] DecodeError),
    #[error("the stream failed")]
    Io(#[from] io::Error),
}

/// Sends the preface and waits for the peer's.
pub(crate) async fn greet<R: Reader, W: Writer>(
    reader: &mut R,
    writer: &mut W,
    limits: &StreamLimits,
) -> Result<(), Lost> {
    let both = async {
        writer.write_all(&PREFACE).await?;
        let mut theirs = [0; PREFACE.len()];
        reader.read_exact(&mut theirs).await?;
        if is_preface(theirs) { Ok(()) } else { Err(Lost::Preface) }
    };
    timeout(limits.preface, both).await.unwrap_or(Err(Lost::SlowPreface))
}

/// Carries frames both ways until the peer closes, the egress has drained, or something is wrong.
pub(crate) async fn carry<R: Reader, W: Writer>(
    halves: &mut Halves<R, W>,
    egress: &Egress,
    ingress: &mut Ingress,
    streams: &Arc<Streams>,
) -> Result<(), Lost> {
    let (reader, writer) = halves;
    let mut reading = pin!(read_frames(reader, egress, ingress, streams));
    tokio::select! {
        biased;
        result = &mut reading => return result,
        result = write_frames(writer, egress, &streams.limits) => result?,
    }
    // Closing with unread bytes would make the system discard what is still on its way to the peer.
    timeout(LINGER, reading).await.unwrap_or(Ok(()))
}

async fn read_frames<R: Reader>(
    reader: &mut R,
    egress: &Egress,
    ingress: &mut Ingress,
    streams: &Arc<Streams>,
) -> Result<(), Lost> {
    let limits = &streams.limits;
    let frame_max = ingress.router().limits().payload_bytes + HEADER_BYTES_MAX;
    // Not longer than any deadline, so that one that begins between two ticks is kept to the point.
    let tick = limits.frame.min(limits.idle);
    let mut timer = pin!(sleep(tick));
    let mut buffer = Buffer::new(Arc::clone(streams));
    let mut heard = Instant::now();
    let mut quiet = true;
    // Since when the buffer begins with an unfinished frame, and its length if that is known.
    let mut unfinished: Option<(Instant, Option<usize>)> = None;
    loop {
        let length = unfinished.and_then(|(_, length)| length);
        let read = async {
            buffer.make_room(length).await;
            reader.read(buffer.free()).await
        };
        let count = tokio::select! {
            biased;
            count = read => count?,
            () = &mut timer => {
                let now = Instant::now();
                let frame_due = unfinished.map(|(since, _)| since + limits.frame);
                if frame_due.is_some_and(|due| due <= now) {
                    return Err(Lost::SlowFrame);
                }
                if heard + limits.idle <= now {
                    return Err(Lost::Idle);
                }
                if std::mem::replace(&mut quiet, true) {
                    buffer.shrink();
                }
                let due = frame_due.unwrap_or(now + tick).min(heard + limits.idle).min(now + tick);
                timer.as_mut().reset(due);
                continue;
            }
        };
        if count == 0 {
            return if unfinished.is_some() { Err(Lost::Truncated) } else { Ok(()) };
        }
        heard = Instant::now();
        quiet = false;
        let is_full = buffer.received(count);
        let before = buffer.filled().len();
        let rest = deliver(&mut buffer, egress, ingress, frame_max).await?;
        let left = buffer.filled().len();
        unfinished = match unfinished {
            _ if left == 0 => None,
            Some((since, _)) if left == before => Some((since, rest)),
            _ => Some((heard, rest)),
        };
        if is_full {
            buffer.grow_for_speed();
        }
        if count >= YIELD_BYTES {
            tokio::task::yield_now().await;
        }
    }
}

/// Hands every whole frame in the buffer to the ingress; returns the announced length of the rest.
async fn deliver(
    buffer: &mut Buffer,
    egress: &Egress,
    ingress: &mut Ingress,
    frame_max: usize,
) -> Result<Option<usize>, Lost> {
    let mut at = 0;
    // Once a large frame is whole, the buffer becomes shared memory that large payloads keep.
    let mut shared: Option<Bytes> = None;
    let rest = loop {
        let bytes = &shared.as_deref().unwrap_or_else(|| buffer.filled())[at..];
        let length = match frame_length(bytes, frame_max)? {
            Some(length) if bytes.len() >= LENGTH_HEAD + length => length,
            rest => break rest,
        };
        let (start, end) = (at + LENGTH_HEAD, at + LENGTH_HEAD + length);
        at = end;
        if length == 0 {
            continue;
        }
        egress.touch();
        let blocked = if length > SHARED_MIN {
            let memory = shared.get_or_insert_with(|| buffer.freeze());
            ingress.accept_shared(&memory.slice(start..end))?
        } else {
            ingress.accept(&shared.as_deref().unwrap_or_else(|| buffer.filled())[start..end])?
        };
        if let Some(blocked) = blocked {
            ingress.pause(blocked).await;
        }
    };
    match shared {
        Some(memory) => buffer.refill(&memory[at..]).await,
        None => buffer.consume(at),
    }
    Ok(rest)
}

async fn write_frames<W: Writer>(writer: &mut W, egress: &Egress, limits: &StreamLimits) -> Result<(), Lost> {
    let mut batch = Batch::default();
    let mut timer = pin!(sleep(limits.keepalive));
    let mut sent = Instant::now();
    loop {
        tokio::select! {
            biased;
            taken = poll_fn(|cx| egress.poll_take(cx, &mut batch)) => {
                if taken == Taken::Drained {
                    writer.shutdown().await?;
                    return Ok(());
                }
                write_batch(writer, &batch, limits.idle).await?;
                egress.written();
                batch.clear();
                sent = Instant::now();
            }
            () = &mut timer => {
                let now = Instant::now();
                if sent + limits.keepalive <= now {
                    // Nothing was sent for so long that the buffers of a busy time can go.
                    batch = Batch::default();
                    egress.shrink();
                    write_all(writer, &KEEPALIVE, limits.idle).await?;
                    sent = now;
                }
                timer.as_mut().reset(sent + limits.keepalive);
            }
        }
    }
}

async fn write_batch<W: Writer>(writer: &mut W, batch: &Batch, stuck: Duration) -> Result<(), Lost> {
    if let Some(bytes) = batch.plain() {
        return write_all(writer, bytes, stuck).await;
    }
    let mut pieces = batch.pieces();
    let mut rest = &mut pieces[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let count = progress(stuck, writer.write_vectored(rest)).await?;
        IoSlice::advance_slices(&mut rest, count);
    }
    Ok(())
}

async fn write_all<W: Writer>(writer: &mut W, bytes: &[u8], stuck: Duration) -> Result<(), Lost> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = progress(stuck, writer.write(rest)).await?;
        rest = &rest[count..];
    }
    Ok(())
}

/// One write, which must get somewhere in time.
async fn progress(stuck: Duration, write: impl Future<Output = io::Result<usize>>) -> Result<usize, Lost> {
    match timeout(stuck, write).await {
        Err(_) => Err(Lost::Stuck),
        Ok(Ok(0)) => Err(Lost::Io(io::ErrorKind::WriteZero.into())),
        Ok(result) => Ok(result?),
    }
}
