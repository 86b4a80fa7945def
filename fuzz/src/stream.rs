//! F1: the stream decoder, whatever the pieces its bytes come in.

use onward_routing::{DecodeError, HEADER_BYTES_MAX, LENGTH_HEAD, Message, PAYLOAD_BYTES_MAX};
use onward_transports::fuzzing::{Received, receive};
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = match Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
}

/// A stream and how it is cut: four sizes for its pieces in turn, then preface and frames. Whatever the pieces,
/// the same messages arrive, and the end is what a reader of the whole stream would say.
pub fn f1_stream(data: &[u8]) -> bool {
    let Some((sizes, stream)) = data.split_first_chunk::<4>() else {
        return false;
    };
    let mut pieces = Vec::new();
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        // From 1 byte to 64 KiB, small ones more often.
        let (piece, behind) = rest.split_at(rest.len().min(usize::from(*size).pow(2) + 1));
        pieces.push(piece);
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    let whole = serve(&[stream]);
    assert_eq!(whole.is_whole, is_whole(stream));
    assert_eq!(whole, serve(&pieces), "how a stream is cut makes no difference");
    whole.is_whole
}

fn serve(pieces: &[&[u8]]) -> Received {
    match RUNTIME.with(|runtime| runtime.block_on(receive(pieces))) {
        Ok(received) => received,
        Err(error) => panic!("no connection: {error}"),
    }
}

/// What docs/protocol.md §2.1 says of a stream, read all at once.
fn is_whole(stream: &[u8]) -> bool {
    let Some((preface, mut frames)) = stream.split_first_chunk::<8>() else {
        return false;
    };
    let [magic @ .., _caps, 0, 0] = preface else {
        return false;
    };
    if magic != b"ONWD\x01" {
        return false;
    }
    while let Some((head, rest)) = frames.split_first_chunk::<LENGTH_HEAD>() {
        let length = u32::from_be_bytes(*head) as usize;
        if length > PAYLOAD_BYTES_MAX + HEADER_BYTES_MAX || length > rest.len() {
            return false;
        }
        let (frame, behind) = rest.split_at(length);
        let decoded = Message::decode(frame, PAYLOAD_BYTES_MAX);
        if length > 0 && matches!(decoded, Err(DecodeError::Malformed)) {
            return false;
        }
        frames = behind;
    }
    frames.is_empty()
}
