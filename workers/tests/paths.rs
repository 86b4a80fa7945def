//! Names that look like others: whoever decides on a name and whoever delivers to it read the same one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use onward_routing::{Address, FlowId, FlowKind, Message, PAYLOAD_BYTES_MAX};
use onward_trials::{Row, size};
use onward_workers::{Charge, Ingress, Limits, Next, Router, Step};

/// Counts what reaches it.
#[derive(Default)]
struct Count(AtomicU64);

impl Step for Count {
    fn step(&self, _: &Arc<Router>, message: Message, _: Option<Charge>) -> Next {
        self.0.fetch_add(1, Ordering::Relaxed);
        Next::Done(Some(message))
    }
}

/// Parts that names are made of: a worker that is exposed, one that is not, and what makes them look alike.
const PARTS: [&[u8]; 26] = [
    b"shop",
    b"admin",
    b"/",
    b"//",
    b"..",
    b".",
    b"./",
    b"../",
    b"%2e",
    b"%2f",
    b"%00",
    b"\0",
    b"\r\n",
    b" ",
    b"\t",
    b":",
    b"#",
    b"*",
    b"SHOP",
    "\u{455}hop".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{200b}".as_bytes(),
    b"=>",
    b"\xff",
    b"local:",
    b"tcp:",
];

/// A message to the local worker of this name, whatever the bytes are.
fn frame(name: &[u8]) -> Vec<u8> {
    let head = match name.len() {
        0..24 => vec![0x40 | name.len() as u8],
        long => vec![0x58, long as u8],
    };
    let address = [&[0x82, 0][..], &head, name].concat();
    [&[0x87, 1, 0, 0x18, 32, 0x81][..], &address, &[0x80, 0x40, 0xf6]].concat()
}

#[test]
fn a25_policy_and_router_read_the_same_name() {
    let row = Row::new("A25");
    let inputs = size(100_000, 100_000_000);
    let router = Router::new(Limits::default()).unwrap();
    let flow = FlowId::from_number(25);
    let (shop, admin) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let [shop_name, admin_name] = ["shop", "admin"].map(|name| Address::local(name).unwrap());
    router.add_step(&shop_name, Arc::clone(&shop) as Arc<dyn Step>).unwrap();
    router.add_step(&admin_name, Arc::clone(&admin) as Arc<dyn Step>).unwrap();
    router.reach_mut().open_flow(flow, FlowKind::Transport, None);
    router.reach_mut().expose(flow, &shop_name).unwrap();
    let mut ingress = Ingress::new(Arc::clone(&router), flow, Address::random(7));
    let mut random = 25_u64;
    let mut below = |end: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % end
    };
    let (mut disagreements, mut second_spellings, mut delivered, mut understood) = (0, 0, 0, 0);
    for _ in 0..inputs {
        let name: Vec<u8> = (0..=below(3)).flat_map(|_| PARTS[below(PARTS.len())]).copied().collect();
        let frame = frame(&name);
        let before = shop.0.load(Ordering::Relaxed);
        let decoded = Message::decode(&frame, PAYLOAD_BYTES_MAX);
        let allowed = decoded.as_ref().is_ok_and(|message| {
            understood += 1;
            let mut again = Vec::new();
            message.encode(&mut again);
            let next = message.next().unwrap();
            let parsed: Option<Address> = next.value().parse().ok();
            let same_text = next.value().as_bytes() == name && parsed.is_some_and(|it| it.as_ref() == next);
            second_spellings += u64::from(again != frame || !same_text);
            router.reach().check(flow, next, router.now()).is_ok()
        });
        let _ = ingress.accept(&frame);
        let was_delivered = shop.0.load(Ordering::Relaxed) > before;
        delivered += u64::from(was_delivered);
        disagreements += u64::from(allowed != was_delivered || was_delivered != (name == b"shop"));
    }
    row.exactly(&format!("of {inputs} names, those on which policy and router disagree"), disagreements, 0);
    row.exactly("names with a second spelling", second_spellings, 0);
    row.exactly("messages to a worker that is not exposed", admin.0.load(Ordering::Relaxed), 0);
    row.at_least("messages to the exposed worker", delivered, inputs as u64 / 100);
    row.at_least("names understood", understood, inputs as u64 / 20);
}
