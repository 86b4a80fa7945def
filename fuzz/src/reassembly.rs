//! Messages in pieces, with gaps, repetitions and contradictions, beside a reassembler that keeps everything in one
//! map and knows no bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use onward_channels::{Fragment, Now, Reassembly};

/// Messages that pieces may be of: fewer than are kept open, so that none has to give way.
const MESSAGES: u8 = 8;
/// How long an unfinished message is kept.
const KEPT: Duration = Duration::from_secs(30);
/// Bytes of a step before its piece: message and pause, index, count, length.
const HEAD: usize = 4;

/// An unfinished message of the plain reassembler.
struct Open {
    count: u16,
    pieces: BTreeMap<u16, Vec<u8>>,
    began: Duration,
}

/// Steps of one piece each: both reassemblers say the same of each, and the bounded one holds no more than it got.
/// Accepted is what completes a message.
pub fn f11_reassembly(data: &[u8]) -> bool {
    let (mut bounded, mut plain) = (Reassembly::default(), BTreeMap::new());
    let (mut rest, mut mono, mut received) = (data, Duration::ZERO, 0);
    let mut completed = false;
    while let Some((&[what, index, count, length], behind)) = rest.split_first_chunk::<HEAD>() {
        let (piece, behind) = behind.split_at(usize::from(length).min(behind.len()));
        rest = behind;
        // Up to 31 s pass before a step.
        mono += Duration::from_secs(u64::from(what / MESSAGES));
        let fragment = Fragment {
            message: u32::from(what % MESSAGES),
            index: u16::from(index),
            count: u16::from(count),
            piece,
        };
        received += piece.len();
        let expected = push(&mut plain, mono, &fragment);
        let whole = bounded.push(Now { mono, unix: 0 }, fragment).ok();
        assert_eq!(whole, expected, "both reassemblers say the same");
        completed |= matches!(whole, Some(Some(_)));
        let open = plain.values().map(|open: &Open| open.pieces.len()).sum::<usize>();
        assert_eq!(bounded.held_bytes() == 0, open == 0, "empty, it holds nothing");
        assert!(bounded.held_bytes() <= received + 256 * open, "what is held was received");
    }
    completed
}

/// `None` for a piece that contradicts others, whose message is then given up.
fn push(all: &mut BTreeMap<u32, Open>, now: Duration, fragment: &Fragment<'_>) -> Option<Option<Vec<u8>>> {
    all.retain(|_, open| now - open.began < KEPT);
    if fragment.index >= fragment.count {
        return None;
    }
    let open = all.entry(fragment.message).or_insert_with(|| Open {
        count: fragment.count,
        pieces: BTreeMap::new(),
        began: now,
    });
    let is_new = open.count == fragment.count && !open.pieces.contains_key(&fragment.index);
    if !is_new {
        all.remove(&fragment.message);
        return None;
    }
    open.pieces.insert(fragment.index, fragment.piece.to_vec());
    if open.pieces.len() < usize::from(open.count) {
        return Some(None);
    }
    let finished = all.remove(&fragment.message);
    Some(finished.map(|open| open.pieces.into_values().flatten().collect()))
}
