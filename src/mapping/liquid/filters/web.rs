//! Filters of URLs and HTML, encodings and digests.

use std::fmt::Write as _;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit as _, Mac as _};
use regex::Regex;
use sha2::{Digest as _, Sha256};

use super::super::budget::{Budget, RenderError};
use super::super::val::Val;
use super::args::{Named, arg};

pub(super) const ALL: &[Named] = &[
    ("base64_decode", |value, _, _| Ok(Val::from(base64_decode(&value.text())))),
    ("base64_encode", |value, _, _| {
        Ok(Val::from(base64::engine::general_purpose::STANDARD.encode(value.text())))
    }),
    ("cgi_escape", |value, _, _| {
        Ok(Val::from(escape_url(&value.text(), b"-_.~").replace("%20", "+")))
    }),
    ("escape", |value, _, _| Ok(Val::from(escape(&value.text())))),
    ("escape_once", |value, _, _| Ok(Val::from(escape(&unescape(&value.text()))))),
    ("hmac_sha256", |value, args, _| {
        let mac = Hmac::<Sha256>::new_from_slice(arg(args, 0).text().as_bytes());
        let mac = mac.map_err(|_| RenderError::new("hmac_sha256 takes no such key"))?;
        Ok(Val::from(hex(&mac.chain_update(value.text()).finalize().into_bytes())))
    }),
    ("sha256", |value, _, _| Ok(Val::from(hex(&Sha256::digest(value.text()))))),
    ("slugify", slugify),
    ("strip_html", |value, _, _| Ok(Val::from(strip_html(&value.text())))),
    ("uri_escape", |value, _, _| {
        Ok(Val::from(escape_url(&value.text(), b"-_.!~*'();,/?:@&=+$#[]")))
    }),
    ("url_decode", |value, _, _| match unescape_url(&value.text()) {
        Some(text) => Ok(Val::from(text.replace('+', " "))),
        None => Err(RenderError::new("URI malformed")),
    }),
    ("url_encode", |value, _, _| {
        Ok(Val::from(escape_url(&value.text(), b"-_.!~*'()").replace("%20", "+")))
    }),
    ("xml_escape", |value, _, _| Ok(Val::from(escape(&value.text())))),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Decodes Base64 as Node does: both alphabets, up to the padding, ignoring other characters.
fn base64_decode(text: &str) -> String {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    // Node looks at the lower byte of each UTF-16 code unit.
    let bytes = text.encode_utf16().map(|unit| unit.to_le_bytes()[0]);
    let digits = bytes.take_while(|byte| *byte != b'=').filter_map(|byte| match byte {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        byte => (byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')).then_some(byte),
    });
    let mut digits: Vec<u8> = digits.collect();
    // A single digit is less than a byte.
    digits.truncate(digits.len() - usize::from(digits.len() % 4 == 1));
    let bytes = GeneralPurpose::new(&STANDARD, config).decode(digits).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Encodes everything but letters, digits and `kept` as `%XX`.
fn escape_url(text: &str, kept: &[u8]) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// Decodes `%XX`; `None` if a `%` is not followed by two digits, or if the bytes are not UTF-8.
fn unescape_url(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (high, low) = (rest.first()?, rest.get(1)?);
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        bytes.push(digit(high)? * 16 + digit(low)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

const ESCAPES: [(char, &str); 5] =
    [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;")];

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match ESCAPES.iter().find(|(plain, _)| *plain == c) {
            Some((_, escaped)) => out.push_str(escaped),
            None => out.push(c),
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find('&') {
        out.push_str(&rest[..place]);
        rest = &rest[place..];
        let (plain, escaped) = ESCAPES
            .into_iter()
            .find(|(_, escaped)| rest.starts_with(escaped))
            .unwrap_or(('&', "&"));
        out.push(plain);
        rest = &rest[escaped.len()..];
    }
    out + rest
}

/// Removes scripts, styles and comments with their contents, and all other tags.
fn strip_html(text: &str) -> String {
    let mut blocks =
        vec![("<script", "</script>"), ("<style", "</style>"), ("<!--", "-->"), ("<", ">")];
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find('<') {
        out.push_str(&rest[..place]);
        rest = &rest[place..];
        let mut end = None;
        // If the end of a kind is not found now, it never will be: look for it only once.
        blocks.retain(|(open, close)| {
            if end.is_some() || !rest.starts_with(open) {
                return true;
            }
            end = rest[open.len()..].find(close).map(|at| open.len() + at + close.len());
            end.is_some()
        });
        match end {
            Some(end) => rest = &rest[end..],
            None => break,
        }
    }
    out + rest
}

/// What each mode of `slugify` replaces by a hyphen.
static SLUG_GAPS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let modes = [
        ("raw", r"[\s\x{FEFF}&&[^\x{85}]]+"),
        ("default", r"[^\p{M}\p{L}\p{Nd}]+"),
        ("latin", r"[^\p{M}\p{L}\p{Nd}]+"),
        ("pretty", r"[^\p{M}\p{L}\p{Nd}._~!$&'()+,;=@]+"),
        ("ascii", r"[^A-Za-z0-9]+"),
    ];
    modes.into_iter().filter_map(|(mode, gap)| Some((mode, Regex::new(gap).ok()?))).collect()
});

fn slugify(value: Val, args: &[Val], _: &mut Budget) -> Result<Val, RenderError> {
    let mut text = value.text();
    let mode = match arg(args, 0) {
        Val::Undefined => "default".to_owned(),
        mode => mode.js_text(),
    };
    if let Some((_, gap)) = SLUG_GAPS.iter().find(|(known, _)| *known == mode) {
        if mode == "latin" {
            text = text.chars().map(|c| unaccented(c).unwrap_or(c.to_string())).collect();
        }
        let slug = gap.replace_all(&text, "-");
        let slug = slug.strip_prefix('-').unwrap_or(&slug);
        text = slug.strip_suffix('-').unwrap_or(slug).to_owned();
    }
    let keeps_case = arg(args, 1).plain().is_truthy();
    Ok(Val::from(if keeps_case { text } else { text.to_lowercase() }))
}

/// Returns a letter without its accent, by the table of LiquidJS' mode `latin`.
fn unaccented(c: char) -> Option<String> {
    let plain = match c {
        'à' | 'á' | 'â' | 'ã' | 'ä' | 'å' => "a",
        'æ' => "ae",
        'ç' => "c",
        'è' | 'é' | 'ê' | 'ë' => "e",
        'ì' | 'í' | 'î' | 'ï' => "i",
        'ð' => "d",
        'ñ' => "n",
        'ò' | 'ó' | 'ô' | 'õ' | 'ö' | 'ø' => "o",
        'ù' | 'ú' | 'û' | 'ü' => "u",
        'ý' | 'ÿ' => "y",
        'ß' => "ss",
        'œ' => "oe",
        'þ' => "th",
        'ẞ' => "SS",
        'Œ' => "OE",
        'Þ' => "TH",
        _ => return None,
    };
    Some(plain.to_owned())
}
