//! Times that a peer states, at the ends of their range and beyond every clock.

use onward_channels::identity::Purpose;
use onward_trials::{Row, size};

use crate::fixture::{NOW, Person, done};

/// How far a clock may be behind what a peer states, in seconds.
const AHEAD: u64 = 300;

#[test]
fn a35_no_stated_time_is_too_large() {
    let row = Row::new("A35");
    let person = Person::new();
    let edges =
        [0, 1, 1 << 31, 1 << 32, NOW - 1, NOW, NOW + 1, 1 << 63, (1 << 63) - NOW, u64::MAX - NOW, u64::MAX];
    let mut times: Vec<(u64, u64)> =
        edges.iter().flat_map(|iat| edges.iter().map(move |exp| (*iat, *exp))).collect();
    let mut random = 35_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random >> (random >> 58)
    };
    times.extend((0..size(100, 100_000)).map(|_| (next(), next())));
    let (mut tried, mut wrongly_accepted, mut accepted) = (0, 0, 0);
    for (iat, exp) in times {
        let attest =
            person.identity.attest(&person.vault, Purpose::CHANNEL_STATIC, &person.noise_static, iat, exp);
        let Ok(attestation) = done(attest) else { continue };
        let payload = person.payload_with(&attestation);
        for now in edges {
            tried += 1;
            if person.verify(&payload, now).is_ok() {
                accepted += 1;
                let in_time = iat <= now.saturating_add(AHEAD) && now < exp;
                wrongly_accepted += usize::from(!in_time);
            }
        }
    }
    row.exactly(&format!("of {tried} stated times, those accepted out of time"), wrongly_accepted, 0);
    row.at_least("stated times accepted", accepted, 1);
}
