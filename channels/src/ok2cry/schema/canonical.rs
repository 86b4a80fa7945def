//! Canonical JSON: one text for one value, so that a digest names it.
//!
//! Source: RFC 8785.

use serde_json::{Number, Value};

/// The digest by which keys name `schema`: SHA-256 of [`canonical_json`]. `None` for what has no canonical form.
#[must_use]
pub fn schema_digest(schema: &Value) -> Option<[u8; 32]> {
    canonical_json(schema).map(|text| onward_keys::sha256(text.as_bytes()))
}

/// The canonical form of `value`. `None` for a number that no IEEE double stands for.
///
/// Source: RFC 8785 §3.2.
#[must_use]
pub fn canonical_json(value: &Value) -> Option<String> {
    let mut text = String::new();
    put(value, &mut text)?;
    Some(text)
}

fn put(value: &Value, text: &mut String) -> Option<()> {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => put_number(double(number)?, text),
        Value::String(string) => put_string(string, text),
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                put(item, text)?;
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            text.push('{');
            for (at, (name, value)) in members.into_iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                put_string(name, text);
                text.push(':');
                put(value, text)?;
            }
            text.push('}');
        }
    }
    Some(())
}

/// Integers beyond 2^53 lose digits in a double: two schemas would then have one digest.
fn double(number: &Number) -> Option<f64> {
    let exact = number.is_f64() || number.as_i64().is_some_and(|it| it.unsigned_abs() <= INTEGER_MAX);
    number.as_f64().filter(|double| exact && double.is_finite())
}

/// As ECMAScript writes a number: the shortest digits that are read back as the same double.
fn put_number(number: f64, text: &mut String) {
    if number == 0.0 {
        text.push('0');
        return;
    }
    // Of two shortest numbers that lie equally near, the even one: as serde_json writes them, and Rust does not.
    let Some(shortest) = Number::from_f64(number.abs()).map(|number| number.to_string()) else { return };
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let written = [whole, part].concat();
    let digits = written.trim_start_matches('0');
    let leading = written.len() - digits.len();
    let digits = digits.trim_end_matches('0');
    // The number is 0.digits × 10^point.
    let shift = i32::try_from(whole.len()).unwrap_or(0) - i32::try_from(leading).unwrap_or(0);
    let point = exponent.parse::<i32>().unwrap_or(0) + shift;
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    if number < 0.0 {
        text.push('-');
    }
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    if (1..=21).contains(&point) {
        let (whole, part) = digits.split_at(usize::try_from(point.min(count)).unwrap_or(0));
        text.push_str(whole);
        text.push_str(&zeros(point - count));
        if !part.is_empty() {
            text.push('.');
            text.push_str(part);
        }
    } else if (-5..=0).contains(&point) {
        text.push_str("0.");
        text.push_str(&zeros(-point));
        text.push_str(digits);
    } else {
        let (first, rest) = digits.split_at(1);
        text.push_str(first);
        if !rest.is_empty() {
            text.push('.');
            text.push_str(rest);
        }
        text.push_str(&format!("e{:+}", point - 1));
    }
}

fn put_string(string: &str, text: &mut String) {
    text.push('"');
    for letter in string.chars() {
        match letter {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            '\0'..='\u{1f}' => text.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => text.push(letter),
        }
    }
    text.push('"');
}

/// The largest integer up to which each has a double of its own.
const INTEGER_MAX: u64 = 1 << 53;

#[cfg(test)]
mod tests {
    use super::*;
    use base64ct::{Base64UrlUnpadded, Encoding as _};

    /// RFC 8785 appendix B, all that are numbers.
    #[test]
    fn numbers_agree_with_rfc_8785_appendix_b() {
        let mut agreed = 0;
        for (bits, expected) in NUMBERS {
            let mut text = String::new();
            put_number(f64::from_bits(bits), &mut text);
            assert_eq!(text, expected, "{bits:016x}");
            agreed += 1;
        }
        assert_eq!(agreed, 24);
        for not_a_number in [f64::NAN, f64::INFINITY] {
            assert!(Number::from_f64(not_a_number).is_none());
        }
    }

    /// RFC 8785 §3.2.2 and §3.2.3.
    #[test]
    fn texts_agree_with_rfc_8785_section_3_2() {
        let value: Value = serde_json::from_str(
            r#"{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
               "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#,
        )
        .unwrap();
        let expected = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(canonical_json(&value).as_deref(), Some(expected));
        let value: Value = serde_json::from_str(
            r#"{"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7}"#,
        )
        .unwrap();
        let expected = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}";
        assert_eq!(canonical_json(&value).as_deref(), Some(expected));
    }

    #[test]
    fn an_integer_that_a_double_cannot_hold_has_no_form() {
        assert_eq!(canonical_json(&9_007_199_254_740_992u64.into()).as_deref(), Some("9007199254740992"));
        assert_eq!(canonical_json(&9_007_199_254_740_993u64.into()), None);
    }

    /// RFC 7638 §3.1: a thumbprint is this digest of the members that a key needs.
    #[test]
    fn a_thumbprint_agrees_with_rfc_7638_section_3_1() {
        let modulus = concat!(
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK",
            "RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMic",
            "AtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3",
            "XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        );
        let key = serde_json::json!({ "n": modulus, "kty": "RSA", "e": "AQAB" });
        let thumbprint = Base64UrlUnpadded::encode_string(&schema_digest(&key).unwrap());
        assert_eq!(thumbprint, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn a_digest_does_not_depend_on_how_the_schema_is_written() {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let digest = schema_digest(&read(r#"{"type":"object","maxProperties":1}"#)).unwrap();
        assert_eq!(schema_digest(&read("{ \"maxProperties\": 1.0,\n\"type\": \"object\" }")), Some(digest));
        assert_ne!(schema_digest(&read(r#"{"type":"object","maxProperties":2}"#)), Some(digest));
    }

    const NUMBERS: [(u64, &str); 24] = [
        (0x0000_0000_0000_0000, "0"),
        (0x8000_0000_0000_0000, "0"),
        (0x0000_0000_0000_0001, "5e-324"),
        (0x8000_0000_0000_0001, "-5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "9007199254740992"),
        (0xc340_0000_0000_0000, "-9007199254740992"),
        (0x4430_0000_0000_0000, "295147905179352830000"),
        (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
        (0x44b5_2d02_c7e1_4af6, "1e+23"),
        (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
        (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
        (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x41b3_de43_5555_5553, "333333333.3333332"),
        (0x41b3_de43_5555_5554, "333333333.33333325"),
        (0x41b3_de43_5555_5555, "333333333.3333333"),
        (0x41b3_de43_5555_5556, "333333333.3333334"),
        (0x41b3_de43_5555_5557, "333333333.33333343"),
        (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
    ];
}
