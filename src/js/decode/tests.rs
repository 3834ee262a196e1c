//! That all that senders write is read, and nothing that is not JSON.

use proptest::prelude::*;

use super::*;

#[test]
fn reads_what_senders_write() {
    let cases = [
        ("\u{feff} {\"a\" : [1, -0.5e+2,true,false,null]} ", r#"{"a":[1,-50,true,false,null]}"#),
        (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
        (r#"{"__proto__":{"x":1},"b":2}"#, r#"{"b":2}"#),
        (
            r#""\ud83d\ude00 \ud83d \ude00 \ud83dx \ud83d\u0041""#,
            "\"😀 \u{fffd} \u{fffd} \u{fffd}x \u{fffd}A\"",
        ),
        (r#""\"\\\/\b\f\n\r\t\u00e9\u0000""#, "\"\\\"\\\\/\\b\\f\\n\\r\\té\\u0000\""),
        ("[NaN, Infinity, -Infinity, 1e400]", "[null,null,null,null]"),
        ("12345678901234567890", "12345678901234567000"),
        ("1180591620717411303424", "1.1805916207174113e+21"),
    ];
    for (text, expected) in cases {
        assert_eq!(
            decode(text.as_bytes()).map(|value| value.to_json()),
            Ok(expected.to_owned()),
            "{text}"
        );
    }
    assert_eq!(decode(b"\"a\xffb\""), Ok(Value::from("a\u{fffd}b")));
    assert_eq!(decode(b"-Infinity"), Ok(Value::Number(f64::NEG_INFINITY)));
}

#[test]
fn refuses_what_is_no_json() {
    for text in [
        "",
        " ",
        "{",
        "[",
        "\"",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{\"a\":1,}",
        "[1,]",
        "[1 2]",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "--1",
        "tru",
        "nul",
        "1 1",
        "\"\n\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "'a'",
        "-",
    ] {
        assert!(decode(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn depth_is_bounded_and_fits_a_small_stack() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let check = move || {
        for (depth, taken) in
            [(DEPTH_MAX - 1, true), (DEPTH_MAX, true), (DEPTH_MAX + 1, false), (1_000_000, false)]
        {
            let read = decode(nested(depth).as_bytes());
            assert_eq!(read.is_ok(), taken, "{depth}");
            if let Ok(value) = read {
                assert_eq!(value.to_json(), nested(depth));
                drop(value.clone());
            }
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn what_it_writes_it_reads(text in "\\PC*", number in any::<f64>()) {
        let value = Value::Array(vec![Value::String(text), Value::Number(number)]);
        let stored = value.to_stored_json();
        let read = decode(stored.as_bytes()).unwrap();
        prop_assert_eq!(read.to_stored_json(), stored);
    }
}
