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
/// Messages that are handed on before others run: workers empty their mailboxes, which one read could fill, and nothing
/// waits in lanes for those that keep up.
const YIELD_MESSAGES: usize = 64;

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
    #[cfg(feature = "udp")]
    #[error("the peer does not answer")]
    Silent,
    #[error("a frame is no message")]
    Decode(#[source] DecodeError),
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
    let (mut at, mut handed_on) = (0, 0);
    let rest = loop {
        let bytes = &buffer.filled()[at..];
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
        let frame = &buffer.filled()[start..end];
        let accepted = if length > SHARED_MIN {
            // One copy into memory of its own, which the payload keeps and a record is opened in.
            ingress.accept_shared(&Bytes::copy_from_slice(frame))
        } else {
            ingress.accept(frame)
        };
        match accepted {
            Ok(None) => {}
            Ok(Some(blocked)) => ingress.pause(blocked).await,
            Err(DecodeError::Malformed) => return Err(Lost::Decode(DecodeError::Malformed)),
            // A message of a later version or beyond this node's limits is no fault of a peer that only
            // passes it on; it is dropped, and the frames behind it stand where they should.
            Err(error) => tracing::debug!(connection = %egress.address, %error, "a message was dropped"),
        }
        handed_on += 1;
        if handed_on % YIELD_MESSAGES == 0 {
            tokio::task::yield_now().await;
        }
    };
    buffer.consume(at);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Registration;
    use onward_routing::{Address, FlowId, Message, Route, RouteRef};
    use onward_workers::{Echo, Limits, Router, start};
    use tokio::io::DuplexStream;
    use tokio::task::JoinHandle;

    /// An accepted connection whose peer is the test; the clock stands still unless all wait.
    struct Served {
        router: Arc<Router>,
        flow: FlowId,
        task: JoinHandle<Result<(), Lost>>,
        peer: DuplexStream,
        began: Instant,
    }

    fn serve() -> Served {
        serve_with(Limits::default())
    }

    fn serve_with(limits: Limits) -> Served {
        let router = Router::new(limits).unwrap();
        let registration = Registration::new(&router, None, 256 * 1024, usize::MAX).unwrap();
        let flow = registration.egress.flow;
        let (own, peer) = tokio::io::duplex(64 * 1024);
        let served = Arc::clone(&router);
        let task = tokio::spawn(async move {
            let streams = Streams::new(StreamLimits::default());
            let mut halves = tokio::io::split(own);
            greet(&mut halves.0, &mut halves.1, &streams.limits).await?;
            let egress = &registration.egress;
            egress.open(&served);
            let mut ingress = Ingress::new(Arc::clone(&served), egress.flow, egress.address.clone());
            carry(&mut halves, egress, &mut ingress, &streams).await
        });
        Served { router, flow, task, peer, began: Instant::now() }
    }

    fn frame(to: &str, payload: &[u8]) -> Vec<u8> {
        let onward = Route::from(Address::local(to).unwrap());
        let ret = Route::from(Address::local("me").unwrap());
        let mut bytes = vec![0; LENGTH_HEAD];
        Message::new(onward.as_ref(), ret.as_ref(), payload).encode(&mut bytes);
        let length = (bytes.len() - LENGTH_HEAD) as u32;
        bytes[..LENGTH_HEAD].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    async fn lost(task: JoinHandle<Result<(), Lost>>) -> Lost {
        task.await.unwrap().unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn n2_2_a_preface_that_trickles_ends_after_5_s() {
        let mut served = serve();
        for byte in &PREFACE[..7] {
            served.peer.write_all(&[*byte]).await.unwrap();
            sleep(Duration::from_millis(600)).await;
        }
        assert!(matches!(lost(served.task).await, Lost::SlowPreface));
        assert_eq!(served.began.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn n2_2_a_frame_that_trickles_ends_after_20_s() {
        let mut served = serve();
        served.peer.write_all(&PREFACE).await.unwrap();
        sleep(Duration::from_secs(7)).await;
        let trickle = tokio::spawn(async move {
            for byte in frame("echo", &[0; 100]) {
                if served.peer.write_all(&[byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        assert!(matches!(lost(served.task).await, Lost::SlowFrame));
        assert_eq!(served.began.elapsed().as_secs(), 27);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_hears_keepalives_and_is_left_after_120_s() {
        let mut served = serve();
        served.peer.write_all(&PREFACE).await.unwrap();
        let mut heard = Vec::new();
        served.peer.read_to_end(&mut heard).await.unwrap();
        assert!(matches!(lost(served.task).await, Lost::Idle));
        assert_eq!(served.began.elapsed().as_secs(), 120);
        assert_eq!(heard, [&PREFACE[..], &KEEPALIVE, &KEEPALIVE].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn keepalives_keep_a_connection() {
        let mut served = serve();
        served.peer.write_all(&PREFACE).await.unwrap();
        for _ in 0..10 {
            sleep(Duration::from_secs(40)).await;
            served.peer.write_all(&KEEPALIVE).await.unwrap();
        }
        assert!(!served.task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_preface_ends_the_connection_and_unknown_capabilities_do_not() {
        for (at, is_taken) in [(0, false), (4, false), (5, true), (6, false), (7, false)] {
            let mut served = serve();
            let mut preface = PREFACE;
            preface[at] ^= 0x20;
            served.peer.write_all(&preface).await.unwrap();
            served.peer.shutdown().await.unwrap();
            assert_eq!(served.task.await.unwrap().is_ok(), is_taken, "byte {at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_way_to_cut_frames_into_reads_gives_the_same_answers() {
        let message = [frame("echo", b"one"), frame("echo", &[7; 40_000]), frame("echo", b"two")].concat();
        for piece in [1, 3, 1000, 20_000, message.len()] {
            let served = serve();
            let echo = Address::local("echo").unwrap();
            start(&served.router, &echo, Echo).unwrap();
            served.router.reach_mut().expose(served.flow, &echo).unwrap();
            let (mut from_peer, mut to_peer) = tokio::io::split(served.peer);
            let bytes = [&PREFACE[..], &message].concat();
            let sending = tokio::spawn(async move {
                for piece in bytes.chunks(piece) {
                    to_peer.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                to_peer
            });
            let mut preface = [0; 8];
            from_peer.read_exact(&mut preface).await.unwrap();
            for expected in [&b"one"[..], &[7; 40_000], b"two"] {
                let length = from_peer.read_u32().await.unwrap() as usize;
                let mut answer = vec![0; length];
                from_peer.read_exact(&mut answer).await.unwrap();
                let answer = Message::decode(&answer, 1 << 20).unwrap();
                assert_eq!(answer.payload(), expected, "in pieces of {piece}");
                assert_eq!(answer.ret(), RouteRef::default());
            }
            sending.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_keeps_up_gets_all_of_a_read_that_its_mailbox_could_not_hold() {
        const MESSAGES: usize = 2 * YIELD_MESSAGES;
        // A mailbox for the messages of one turn, and no lanes to speak of.
        let mailbox_bytes = YIELD_MESSAGES * 512;
        let mut served = serve_with(Limits { mailbox_bytes, lanes_bytes: 0, ..Limits::default() });
        let echo = Address::local("echo").unwrap();
        start(&served.router, &echo, Echo).unwrap();
        served.router.reach_mut().expose(served.flow, &echo).unwrap();
        let messages = frame("echo", b"x").repeat(MESSAGES);
        assert!(messages.len() < crate::frame::BUFFER_MIN, "one read has them all");
        served.peer.write_all(&PREFACE).await.unwrap();
        served.peer.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        served.peer.write_all(&messages).await.unwrap();
        for _ in 0..MESSAGES {
            let mut answer = vec![0; served.peer.read_u32().await.unwrap() as usize];
            served.peer.read_exact(&mut answer).await.unwrap();
            assert!(!Message::decode(&answer, 1 << 20).unwrap().is_report());
        }
        assert_eq!(served.router.counters().undeliverable.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn n1_8_a_frame_above_the_limit_or_cut_short_ends_the_connection() {
        let mut served = serve();
        served.peer.write_all(&PREFACE).await.unwrap();
        served.peer.write_all(&((1 << 20) + 3 * 1024 + 1_u32).to_be_bytes()).await.unwrap();
        assert!(matches!(lost(served.task).await, Lost::TooBig));

        let mut served = serve();
        served.peer.write_all(&PREFACE).await.unwrap();
        served.peer.write_all(&frame("echo", b"cut")[..9]).await.unwrap();
        served.peer.shutdown().await.unwrap();
        assert!(matches!(lost(served.task).await, Lost::Truncated));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_no_message_end_the_connection_and_a_later_version_does_not() {
        let mut served = serve();
        served.peer.write_all(&PREFACE).await.unwrap();
        let mut later = frame("echo", b"");
        later[5] = 2;
        served.peer.write_all(&later).await.unwrap();
        served.peer.write_all(&[0, 0, 0, 1, 0xff]).await.unwrap();
        let mut rest = Vec::new();
        served.peer.read_to_end(&mut rest).await.unwrap();
        assert!(matches!(lost(served.task).await, Lost::Decode(DecodeError::Malformed)));
    }
}
