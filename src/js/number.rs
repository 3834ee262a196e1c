//! Numbers and their strings: `Number(…)` of a string, `String(…)` of a number.

use super::string::is_space;

/// Returns a number as `String(…)` writes it: `100`, `1e+21`, `1.5e-7`, `0` for `-0`, `Infinity`.
pub fn number_text(number: f64) -> String {
    ryu_js::Buffer::new().format(number).to_owned()
}

/// Returns the number that `Number(…)` makes of a string: 0 of an empty one, NaN of one that is not a number.
///
/// White space at the ends is ignored; `0x`, `0o` and `0b` are understood, without a sign.
pub fn number_of_text(text: &str) -> f64 {
    let text = text.trim_matches(is_space);
    let (sign, digits) = match text.as_bytes() {
        [] => return 0.0,
        [b'-', ..] => (-1.0, &text[1..]),
        [b'+', ..] => (1.0, &text[1..]),
        [b'0', b'x' | b'X', ..] => return whole_number(&text[2..], 16),
        [b'0', b'o' | b'O', ..] => return whole_number(&text[2..], 8),
        [b'0', b'b' | b'B', ..] => return whole_number(&text[2..], 2),
        _ => (1.0, text),
    };
    if digits == "Infinity" {
        return sign * f64::INFINITY;
    }
    // Rust's parser differs only in that it also accepts `inf`, `nan` and `infinity`.
    let is_decimal = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let number = is_decimal.then(|| digits.parse::<f64>().ok()).flatten();
    number.map_or(f64::NAN, |number| sign * number)
}

fn whole_number(digits: &str, radix: u32) -> f64 {
    let value = |c: char| c.to_digit(radix).map(f64::from);
    let add = |sum: f64, c| Some(sum * f64::from(radix) + value(c)?);
    if digits.is_empty() { f64::NAN } else { digits.chars().try_fold(0.0, add).unwrap_or(f64::NAN) }
}

/// Returns a count, such as an array's length, as a number.
#[expect(clippy::cast_precision_loss, reason = "nothing in memory has 2^53 parts")]
pub fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        let cases = [
            (100.0, "100"),
            (-0.0, "0"),
            (1e21, "1e+21"),
            (1e20, "100000000000000000000"),
            (1.5e-7, "1.5e-7"),
            (0.000_001, "0.000001"),
            (f64::INFINITY, "Infinity"),
            (9_007_199_254_740_993.0, "9007199254740992"),
        ];
        for (number, expected) in cases {
            assert_eq!(number_text(number), expected);
        }
    }

    #[test]
    fn strings_are_read_as_number_reads_them() {
        let cases = [
            ("", 0.0),
            (" \u{feff}\n", 0.0),
            (" 12.5 ", 12.5),
            ("+.5", 0.5),
            ("5.", 5.0),
            ("-1e3", -1000.0),
            ("1e400", f64::INFINITY),
            ("0x1F", 31.0),
            ("0O17", 15.0),
            ("0b101", 5.0),
            ("-Infinity", f64::NEG_INFINITY),
        ];
        for (text, expected) in cases {
            assert_eq!(number_of_text(text).to_bits(), expected.to_bits(), "{text}");
        }
        for text in
            ["12px", "-0x10", "0x", "0b2", "inf", "nan", "infinity", "1_000", "--1", ".", "e5"]
        {
            assert!(number_of_text(text).is_nan(), "{text}");
        }
    }
}
