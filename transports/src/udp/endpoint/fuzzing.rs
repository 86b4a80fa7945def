//! The entry for fuzzing what a UDP socket receives: any bytes, as one datagram and as many.

use super::*;

/// Addresses that datagrams come from: that of the peer, and of three who have shown nothing.
const ADDRESSES: u16 = 4;

/// Gives `data` to the decoder, and, cut into datagrams, to an endpoint that listens and has a peer; says
/// whether it is a datagram.
///
/// # Panics
/// When it decodes to something that encodes to other bytes, when somebody who has shown nothing is sent
/// more than three times what he sent or becomes a peer, or when more is held than may be.
#[must_use]
pub fn datagrams(data: &[u8]) -> bool {
    let decoded = Datagram::decode(data);
    if let Some(datagram) = decoded {
        assert!(datagram.encode() == data, "a datagram has one encoding");
    }
    let limits = DatagramLimits::default();
    let (mut seed, mut now) = (7_u128, Duration::ZERO);
    let mut random = move || {
        seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).wrapping_add(1);
        seed
    };
    let mut endpoint = Endpoint::new(limits.clone(), Arc::default(), now, &mut random);
    endpoint.listen(true);
    let Some(own) = connect(&mut endpoint, &mut random) else { return decoded.is_some() };
    let (mut came, mut went) = ([0; ADDRESSES as usize], [0; ADDRESSES as usize]);
    let mut rest = data;
    while let Some(([how, length], behind)) = rest.split_first_chunk::<2>() {
        let (bytes, behind) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = behind;
        let from = u16::from(how & 3);
        let datagram = match (how >> 2) & 7 {
            0 => bytes.to_vec(),
            // Of this kind, and for the one who is known.
            kind => [&[0x4f, 0x57, 1, kind], &own.to_bytes()[..], bytes].concat(),
        };
        now += Duration::from_millis(300) * u32::from(how >> 5);
        if endpoint.due() <= now {
            endpoint.tick(now, &mut random);
        }
        came[usize::from(from)] += datagram.len();
        let _ = endpoint.receive(now, address(from), &datagram, &mut random);
        while let Some(output) = endpoint.poll() {
            match output {
                Output::Transmit { to, bytes } => went[usize::from(to.port() - 1)] += bytes.len(),
                Output::Gone(_) => return decoded.is_some(),
                said => panic!("nobody showed anything: {said:?}"),
            }
        }
        let is_bounded = |stranger: &usize| went[*stranger] <= AMPLIFICATION_MAX * came[*stranger];
        assert!((1..usize::from(ADDRESSES)).all(|stranger| is_bounded(&stranger)), "{went:?} for {came:?}");
        assert!(endpoint.reassembly.bytes() <= limits.reassembly_peer_bytes);
    }
    decoded.is_some()
}

/// Makes the first address a peer; returns the id that it sends to.
fn connect(endpoint: &mut Endpoint, random: &mut dyn FnMut() -> u128) -> Option<Cid> {
    let initiator = Cid::new(1)?;
    let token = endpoint.tokens.make(Duration::ZERO, address(0), initiator);
    let init = Datagram::Init { initiator, token: Some(&token) }.encode();
    let _ = endpoint.receive(Duration::ZERO, address(0), &init, random);
    let Some(Output::Accepted(own)) = endpoint.poll() else { return None };
    endpoint.poll().map(|_| own)
}

fn address(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], number + 1))
}
