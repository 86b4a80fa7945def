//! F6: the records of one channel against a model of what its receivers accept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use onward_channels::{
    Content, Established, FirstMessage, FrameType, HandshakeTable, Initiator, Input, ListenerLimits, Mode,
    Opening, Output, Sequence, Session, Suite, Verdict,
};

use crate::party::{Party, at};

static PARTIES: LazyLock<[Party; 2]> = LazyLock::new(|| [Party::new(), Party::new()]);

/// Steps taken of one input; what follows them is ignored.
const STEPS_MAX: usize = 256;

/// A record under way; never dropped, so every step may deliver it again.
struct Sent {
    from: usize,
    sequence: Sequence,
    body: u8,
    record: Vec<u8>,
}

/// What one receiver has accepted, as docs/protocol.md §3.3 has it.
#[derive(Default)]
struct Model {
    epoch: u64,
    /// Until when the epoch before is accepted too.
    previous_until: Duration,
    seen: BTreeSet<u64>,
    /// The highest number of each epoch.
    highest: BTreeMap<u64, u64>,
}

impl Model {
    fn accepts(&self, mono: Duration, number: u64) -> bool {
        let epoch = number >> 16;
        if epoch > self.epoch {
            return epoch - self.epoch <= 64;
        }
        let is_kept = epoch == self.epoch || (epoch + 1 == self.epoch && mono < self.previous_until);
        let is_near = self.highest.get(&epoch).is_none_or(|highest| number + 1984 >= *highest);
        is_kept && is_near && !self.seen.contains(&number)
    }

    /// Returns whether the number is the highest of all.
    fn mark(&mut self, mono: Duration, number: u64) -> bool {
        let epoch = number >> 16;
        if epoch > self.epoch {
            self.epoch = epoch;
            self.previous_until = mono + Duration::from_secs(60);
        }
        let newest = self.seen.last().is_none_or(|last| number > *last);
        self.seen.insert(number);
        let highest = self.highest.entry(epoch).or_insert(number);
        *highest = number.max(*highest);
        newest
    }
}

struct Channel {
    mono: Duration,
    ends: [Session; 2],
    /// Of what each end receives.
    models: [Model; 2],
    sent: Vec<Sent>,
    opened: usize,
}

/// Steps on an open channel: seal, skip numbers, deliver again and out of order, change, reflect and make up
/// records, let time pass. Each number is accepted exactly when the model accepts it, hence once, and nothing else
/// ever is. Accepted is an input that brings a record across.
pub fn f6_records(data: &[u8]) -> bool {
    let mut channel = Channel::new();
    let mut rest = data;
    for _ in 0..STEPS_MAX {
        let Some(step) = rest.split_off_first() else {
            break;
        };
        let mut byte = || rest.split_off_first().copied().unwrap_or(0);
        match step & 7 {
            0 | 1 => channel.seal(usize::from(step & 1), byte()),
            2 => channel.skip(usize::from(step >> 3 & 1), u32::from(byte())),
            3 => channel.deliver(usize::from(byte())),
            4 => channel
                .deliver_changed(usize::from(byte()), usize::from(u16::from_be_bytes([byte(), byte()]))),
            5 => channel.reflect(usize::from(byte())),
            6 => {
                let length = usize::from(byte()).min(rest.len());
                let (made_up, behind) = rest.split_at(length);
                channel.refuses(usize::from(step >> 3 & 1), made_up.to_vec());
                rest = behind;
            }
            _ => channel.mono += Duration::from_millis(10) * u32::from(byte()).pow(2),
        }
    }
    // What was refused has changed nothing: the rest is still judged as the model says.
    for back in 0..channel.sent.len() {
        channel.deliver(back);
    }
    channel.opened > 0
}

impl Channel {
    fn new() -> Self {
        let mut models = [Model::default(), Model::default()];
        // The CONFIRM of the responder.
        models[0].mark(Duration::ZERO, 0);
        let [alice, bob] = &*PARTIES;
        let ends = open_channel(alice, bob).map(|end| end.session);
        Self { mono: Duration::ZERO, ends, models, sent: Vec::new(), opened: 0 }
    }

    fn seal(&mut self, from: usize, body: u8) {
        let mut record = Vec::new();
        let bytes = vec![body; usize::from(body)];
        let sealer = &mut self.ends[from].sealer;
        let write = |out: &mut Vec<u8>| out.extend_from_slice(&bytes);
        match sealer.seal_into(at(self.mono), FrameType::Data, bytes.len(), write, &mut record) {
            Ok(sequence) => {
                let last = self.sent.iter().rfind(|sent| sent.from == from);
                assert!(last.is_none_or(|last| sequence > last.sequence), "a number is given out once");
                self.sent.push(Sent { from, sequence, body, record });
            }
            Err(error) => panic!("not sealed: {error}"),
        }
    }

    /// Uses up numbers, up to a quarter of an epoch.
    fn skip(&mut self, from: usize, count: u32) {
        for _ in 0..count.pow(2) / 4 {
            assert!(self.ends[from].sealer.reserve(at(self.mono), FrameType::Data, 0).is_ok());
        }
    }

    fn deliver(&mut self, back: usize) {
        let Some(sent) = back_from_newest(&self.sent, back) else {
            return;
        };
        let (to, number) = (1 - sent.from, sent.sequence.value());
        let expected = self.models[to].accepts(self.mono, number);
        let mut record = sent.record.clone();
        match self.ends[to].opener.open_in_place(at(self.mono), &mut record) {
            Ok(frame) => {
                assert!(expected, "{number} was accepted before, or lies too far away");
                assert_eq!(frame.sequence, sent.sequence);
                assert_eq!(frame.content, Content::Data(&vec![sent.body; usize::from(sent.body)]));
                assert_eq!(frame.newest, self.models[to].mark(self.mono, number));
                self.opened += 1;
            }
            Err(error) => assert!(!expected, "{number} is refused: {error}"),
        }
    }

    fn deliver_changed(&mut self, back: usize, offset: usize) {
        let Some(sent) = back_from_newest(&self.sent, back) else {
            return;
        };
        let (to, mut record) = (1 - sent.from, sent.record.clone());
        let length = record.len();
        record[offset % length] ^= 1 << (offset / length % 8);
        self.refuses(to, record);
    }

    fn reflect(&mut self, back: usize) {
        if let Some(sent) = back_from_newest(&self.sent, back) {
            self.refuses(sent.from, sent.record.clone());
        }
    }

    fn refuses(&mut self, to: usize, mut record: Vec<u8>) {
        assert!(
            self.ends[to].opener.open_in_place(at(self.mono), &mut record).is_err(),
            "nobody sealed this"
        );
    }
}

fn back_from_newest(sent: &[Sent], back: usize) -> Option<&Sent> {
    sent.len().checked_sub(1).map(|newest| &sent[newest - back % sent.len()])
}

/// Both ends of a channel, the initiator's first.
pub(crate) fn open_channel(alice: &Party, bob: &Party) -> [Established; 2] {
    let now = at(Duration::ZERO);
    let (mode, suite) = (Mode::ClassicalXx, Suite::ChaChaPoly);
    let config = alice.config(bob.identifier());
    let initiator = Initiator::new(now, config, Opening::new(mode, suite, None), [1; 32]);
    let limits = ListenerLimits { allowed: [(mode, suite)].into(), ..ListenerLimits::default() };
    let listener = HandshakeTable::new(bob.config(alice.identifier()), limits);
    let (Ok(mut initiator), Ok(mut listener)) = (initiator, listener) else {
        panic!("no handshake");
    };
    let (mut responder, mut sessions) = (None, [None, None]);
    loop {
        match initiator.poll() {
            Output::Transmit(_, packet) => match &mut responder {
                None => match listener.receive(
                    now,
                    FirstMessage { flow: 1, behind: b"", packet: &packet },
                    [2; 32],
                ) {
                    Verdict::Accept { responder: accepted, .. } => responder = Some(accepted),
                    Verdict::Retry(retry) => initiator.handle(now, Input::Packet(&retry)),
                    other => panic!("no handshake: {other:?}"),
                },
                Some(responder) => responder.handle(now, Input::Packet(&packet)),
            },
            Output::Agree { peer, .. } => initiator.handle(now, alice.agree(&peer)),
            Output::Established(established) => sessions[0] = Some(*established),
            Output::Failed(failure) => panic!("no handshake: {failure}"),
            Output::Find(_) | Output::Admit | Output::Spend(..) | Output::Wait { .. } => {}
        }
        match responder.as_mut().map(|responder| responder.poll()) {
            Some(Output::Transmit(_, packet)) => initiator.handle(now, Input::Packet(&packet)),
            Some(Output::Agree { peer, .. }) => {
                if let Some(responder) = &mut responder {
                    responder.handle(now, bob.agree(&peer));
                }
            }
            Some(Output::Admit) => {
                if let Some(responder) = &mut responder {
                    responder.handle(now, Input::Admitted(true));
                }
            }
            Some(Output::Established(established)) => sessions[1] = Some(*established),
            Some(Output::Failed(failure)) => panic!("no handshake: {failure}"),
            Some(Output::Find(_) | Output::Spend(..) | Output::Wait { .. }) | None => {}
        }
        sessions = match sessions {
            [Some(initiator), Some(responder)] => return [initiator, responder],
            unfinished => unfinished,
        };
    }
}
