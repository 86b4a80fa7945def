//! Proofs of the audit log against the published test vectors of transparency-dev/merkle: good and bad ones.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use onward_keys::audit::{extends, includes};

#[test]
fn proofs_agree_with_the_published_vectors() {
    let (mut inclusions, mut consistencies, mut good) = (0, 0, 0);
    let text = include_str!("data/merkle.txt");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, expected, first, second, hashes @ ..] = &words[..] else { panic!("{line}") };
        let (first, second) = (first.parse().unwrap(), second.parse().unwrap());
        // A hash of another length is refused by the decoder, before a proof is looked at.
        let hashes: Option<Vec<[u8; 32]>> =
            hashes.iter().map(|hash| hex::decode(&hash[1..]).unwrap().try_into().ok()).collect();
        let accepted = hashes.is_some_and(|hashes| {
            let [one, root, path @ ..] = &hashes[..] else { panic!("{line}") };
            match *kind {
                "inclusion" => includes(first, second, one, path, root),
                _ => extends(first, second, one, root, path),
            }
        });
        assert_eq!(accepted, *expected == "good", "{line}");
        good += usize::from(accepted);
        if *kind == "inclusion" { inclusions += 1 } else { consistencies += 1 }
    }
    assert_eq!((inclusions, consistencies, good), (98, 97, 11));
}
