//! F9 and part of F15: what the key service reads from clients, from its disk and from its operator.

use onward_keyd::policy::Policy;
use onward_keys::WipedBuffer;
use onward_keys::general::request::GeneralCall;
use onward_keys::general::wrapping::WrappedKey;
use onward_keys::service::{Call, Reply, Request, frame};

/// Frames as a connection brings them: a request that is read has one encoding, and an answer is read without harm.
/// Accepted when every byte belonged to a request.
pub fn f9_service(data: &[u8]) -> bool {
    let mut rest = data;
    let mut requests = 0;
    while let Ok(Some((content, used))) = frame(rest) {
        if let Ok(reply) = Reply::decode(content) {
            let read = [
                reply.done().is_ok(),
                reply.key().is_ok(),
                reply.signature().is_ok(),
                reply.shared().is_ok(),
                reply.state().is_ok(),
                reply.verdict().is_ok(),
                reply.encapsulated().is_ok(),
            ];
            assert!(read.iter().filter(|read| **read).count() <= 1, "one answer has one meaning");
            // An empty list of keys is no list of anything else, and a signature or a secret is bytes.
            let _ = (reply.keys(), reply.bytes());
        }
        let Ok(request) = Request::decode(content) else {
            return false;
        };
        if let Call::General(GeneralCall::Unwrap { wrapped, .. }) = request.call
            && let Ok(key) = WrappedKey::decode(wrapped)
        {
            assert_eq!(key.encode(), wrapped, "a wrapped key has one encoding");
        }
        let mut again = WipedBuffer::new();
        request.put(&mut again);
        assert_eq!(again[..], rest[..used], "a request has one encoding");
        rest = &rest[used..];
        requests += 1;
    }
    requests > 0 && rest.is_empty()
}

/// The file of a sealed store, before any passphrase is asked for.
pub fn f9_store(data: &[u8]) -> bool {
    onward_keys::store::decode_for_fuzzing(data)
}

/// A policy file: what is read names its rules, and decides without harm.
pub fn f15_policy(data: &[u8]) -> bool {
    use onward_keyd::policy::{Client, Wish};
    use onward_keys::KeyUsage;
    use onward_keys::service::CallKind;

    let Some(policy) = std::str::from_utf8(data).ok().and_then(|text| Policy::parse(text).ok()) else {
        return false;
    };
    for call in CallKind::ALL {
        let wish = Wish { call, label: "a/b", usage: Some(KeyUsage::ChannelStatic), kind: None, hour: 12 };
        let client = Client { uid: 1000, gid: 1000, exe: None };
        let decided = policy.decide(&client, &wish);
        assert!(decided.is_none_or(|(rule, _)| (1..=policy.len()).contains(&usize::from(rule))));
        assert_eq!(policy.explain(&client, &wish).ends_with("denied\n"), decided.is_none());
    }
    true
}
