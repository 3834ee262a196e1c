//! The credentials of a request.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Returns the user name of Basic authentication, which carries the write key. `None` for an empty name, and for other
/// schemes: SDKs set up for OAuth send `Bearer`, and the key in the body.
pub(super) fn basic_user(headers: &HeaderMap) -> Option<String> {
    let credentials = STANDARD.decode(scheme(headers, "basic")?).ok()?;
    let credentials = String::from_utf8(credentials).ok()?;
    let user = credentials.split_once(':').map_or(credentials.as_str(), |(user, _)| user);
    (!user.is_empty()).then(|| user.to_owned())
}

/// Returns the token of Bearer authentication.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    scheme(headers, "bearer")
}

fn scheme<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_basic_is_the_key() {
        let cases = [
            ("Basic a2V5Og==", Some("key")),
            ("basic  a2V5OnBhc3N3b3Jk", Some("key")),
            ("Basic a2V5", Some("key")),
            ("Basic Og==", None),
            ("Basic !!!", None),
            ("Basic /w==", None),
            ("Bearer a2V5Og==", None),
            ("a2V5Og==", None),
            ("", None),
        ];
        for (value, expected) in cases {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(basic_user(&headers).as_deref(), expected, "{value}");
        }
    }
}
