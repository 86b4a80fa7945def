//! The examples of the JOSE standards.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use onward_keys::{JoseKey, SignatureError};

/// RFC 8037 A.4 and A.5, RFC 7515 A.3 and A.2: each verifies, and with a changed byte does not.
#[test]
fn signatures_agree_with_the_examples_of_jose() {
    let rsa = if cfg!(feature = "accel") { Ok(()) } else { Err(SignatureError::Unsupported) };
    let cases = [
        (JoseKey::EdDsa(array(ED25519_X)), EDDSA, Ok(())),
        (JoseKey::Es256(array(P256_X), array(P256_Y)), ES256, Ok(())),
        (JoseKey::Rs256(decode(RSA_N), vec![1, 0, 1]), RS256, rsa),
    ];
    let mut agreed = 0;
    for (key, token, expected) in cases {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut signature = decode(signature);
        assert_eq!(key.verify(message.as_bytes(), &signature), expected, "{}", key.algorithm());
        assert!(key.verify(&message.as_bytes()[1..], &signature).is_err(), "{}", key.algorithm());
        signature[5] ^= 1;
        assert!(key.verify(message.as_bytes(), &signature).is_err(), "{}", key.algorithm());
        agreed += 1;
    }
    assert_eq!(agreed, 3);
}

/// base64url without padding.
fn decode(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = text.chars().flat_map(|digit| {
        let value = ALPHABET.find(digit).unwrap();
        (0..6).rev().map(move |bit| (value >> bit & 1) as u8)
    });
    let bits: Vec<u8> = bits.collect();
    bits.as_chunks::<8>().0.iter().map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit)).collect()
}

fn array(text: &str) -> [u8; 32] {
    decode(text).try_into().unwrap()
}

const ED25519_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
    hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

const P256_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const P256_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNv\
    bS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

const RSA_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR\
    T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo\
    7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91\
    kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNv\
    bS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_\
    O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0\
    GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqV\
    t5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
