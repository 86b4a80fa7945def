//! The entries for fuzzing what is received: by a stream connection any bytes, in any pieces, by a UDP
//! socket any datagrams, and from a broker anything beside a message.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use onward_routing::{Address, Message};
use onward_workers::{Charge, Ingress, Limits, Next, Router, Step};
use tokio::io::{AsyncRead, ReadBuf};

use crate::egress::Registration;
use crate::limits::{StreamLimits, Streams};
use crate::stream::{carry, greet};

#[cfg(feature = "udp")]
pub use crate::udp::datagrams;

/// Reads what a broker carries beside a message, in both ways that it is written, and writes again what was understood.
#[cfg(feature = "queue")]
#[must_use]
pub fn beside(bytes: &bytes::Bytes) -> [Option<Vec<u8>>; 2] {
    use crate::queue::head::{Head, expires};
    [
        Head::split(bytes).map(|(head, message)| head.before(&message)),
        expires(bytes).map(|number| number.to_string().into_bytes()),
    ]
}

/// Reads what a Redis server answers, in the encoding of its protocol, as both answers that bring entries of a stream: of each
/// its name, the message in it and when that ends.
#[cfg(feature = "redis")]
#[must_use]
pub fn stream_entries(answer: &[u8]) -> [Vec<(String, bytes::Bytes, Option<u64>)>; 2] {
    use crate::queue::redis::reply::{Entry, claimed, read};
    let Ok(answer) = redis::parse_redis_value(answer) else { return [Vec::new(), Vec::new()] };
    [read(answer.clone()), claimed(answer).1]
        .map(|entries| entries.into_iter().map(|Entry { id, bytes, expires }| (id, bytes, expires)).collect())
}

/// What came of a connection.
#[derive(Debug, Eq, PartialEq)]
pub struct Received {
    /// The messages for the local address `sink`, in order: the payload of each.
    pub payloads: Vec<Vec<u8>>,
    /// Whether the stream was a preface and whole frames to its end.
    pub is_whole: bool,
}

/// Serves one connection whose reads give `pieces` in turn, the last followed by the end of the stream.
///
/// # Errors
/// When there is no randomness for a router.
///
/// # Cancel safety
/// Everything it made is dropped with it.
pub async fn receive(pieces: &[&[u8]]) -> io::Result<Received> {
    let router = Router::new(Limits::default())?;
    let streams = Streams::new(StreamLimits::default());
    let sink = Arc::new(Sink::default());
    let registration =
        Registration::new(&router, None, streams.limits.send_bytes, usize::MAX).map_err(io::Error::other)?;
    let egress = &registration.egress;
    let address = Address::local("sink").map_err(io::Error::other)?;
    router.add_step(&address, Arc::<Sink>::clone(&sink)).map_err(io::Error::other)?;
    router.reach_mut().expose(egress.flow, &address).map_err(io::Error::other)?;

    let pieces = pieces.iter().rev().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec()).collect();
    let mut halves = (Pieces(pieces), tokio::io::sink());
    let mut ingress = Ingress::new(Arc::clone(&router), egress.flow, egress.address.clone());
    let served = async {
        greet(&mut halves.0, &mut halves.1, &streams.limits).await?;
        egress.open(&router);
        carry(&mut halves, egress, &mut ingress, &streams).await
    };
    let is_whole = served.await.is_ok();
    let payloads = std::mem::take(&mut *sink.0.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Received { payloads, is_whole })
}

/// Keeps the payloads of all it is given.
#[derive(Default)]
struct Sink(Mutex<Vec<Vec<u8>>>);

impl Step for Sink {
    fn step(&self, _: &Arc<Router>, message: Message, _: Option<Charge>) -> Next {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(message.payload().to_vec());
        Next::Done(Some(message))
    }
}

/// Reads that give one piece each; the last in the list comes first.
struct Pieces(Vec<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}
