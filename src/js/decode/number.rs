//! Numbers of JSON: their grammar, and the digits that a double cannot hold.

use crate::js::Value;

/// Whether these bytes are a number by JSON's grammar; Rust's own parser accepts more (`1.`, `+1`).
pub(super) fn is_number(text: &[u8]) -> bool {
    let rest = text.strip_prefix(b"-").unwrap_or(text);
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let exponent =
            exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let length = digits(exponent);
        return length > 0 && length == exponent.len();
    }
    rest.is_empty()
}

/// Turns a whole number that its double does not hold exactly into a string of its digits.
pub(super) fn keep_digits(value: &mut Value, written: &[u8]) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a double beyond the range differs from every whole number in it"
    )]
    let is_held =
        |number: f64, digits: &str| digits.parse().is_ok_and(|exact: i128| number as i128 == exact);
    if let Value::Number(number) = *value
        && let Some(digits) = whole_digits(written)
        && !is_held(number, &digits)
    {
        *value = Value::String(digits);
    }
}

/// The digits of a JSON number that is whole, however it is written: `175`, `175.0`, `1.75e2`.
fn whole_digits(written: &[u8]) -> Option<String> {
    /// A number with more digits is no id.
    const EXPONENT_MAX: usize = 100;
    let written = std::str::from_utf8(written).ok()?;
    let (sign, number) = match written.strip_prefix('-') {
        Some(number) => ("-", number),
        None => ("", written),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: usize = exponent.parse().ok().filter(|exponent| *exponent <= EXPONENT_MAX)?;
    let fraction = fraction.trim_end_matches('0');
    let zeros = exponent.checked_sub(fraction.len())?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(zeros));
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0".to_owned() } else { format!("{sign}{digits}") })
}
