//! Sessions of the console: a cookie that says who is logged in, signed with a key derived from their token.
//!
//! Nothing is stored. So every replica knows a session, and a session ends when its token is removed from the
//! configuration.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::tokens::{Role, Tokens};
use crate::secret::Secret;

/// How long a session lasts.
const LENGTH: SignedDuration = SignedDuration::from_hours(12);

/// The purpose of the keys that are derived from tokens.
const PURPOSE: &[u8] = b"segment-loops console session 1\0";

/// The name of the cookie, over HTTP and over HTTPS. Browsers do not let other hosts of the domain set a cookie with
/// the prefix.
const NAME: &str = "segment-loops";
const SECURE_NAME: &str = "__Host-segment-loops";

/// The login of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) role: Role,
    /// When the session began.
    pub(super) since: Timestamp,
    /// Tells sessions apart in the audit log.
    pub(super) id: Uuid,
}

impl Session {
    /// Begins a session for a token, and returns it with the value of its cookie; `None` if the token is not
    /// configured.
    pub(super) fn begin(tokens: &Tokens, given: &[u8], now: Timestamp) -> Option<(Self, String)> {
        let (role, token) = tokens.find(given)?;
        let since = Timestamp::from_second(now.as_second()).ok()?;
        let session = Self { role, since, id: Uuid::now_v7() };
        let claims = session.claims();
        let signature =
            URL_SAFE_NO_PAD.encode(mac(token, claims.as_bytes()).finalize().into_bytes());
        let value = format!("{claims}.{signature}");
        Some((session, value))
    }

    /// Returns the session of a request; `None` if it has none, the session is over, or its token was removed.
    pub(super) fn of(tokens: &Tokens, headers: &HeaderMap, now: Timestamp) -> Option<Self> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut values = cookies.flat_map(|line| line.split(';')).filter_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            [NAME, SECURE_NAME].contains(&name).then_some(value)
        });
        values.find_map(|value| Self::read(tokens, value, now))
    }

    fn read(tokens: &Tokens, value: &str, now: Timestamp) -> Option<Self> {
        let (claims, signature) = value.rsplit_once('.')?;
        let mut parts = claims.split('.');
        let (role, since, id) = (parts.next()?, parts.next()?, parts.next()?);
        let role = Role::ALL.into_iter().find(|known| known.as_str() == role)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let is_ours =
            |token: &Secret| mac(token, claims.as_bytes()).verify_slice(&signature).is_ok();
        // Try all tokens, so that timing does not reveal which one matched.
        if !tokens.of(role).iter().fold(false, |found, token| found | is_ours(token)) {
            return None;
        }
        let since = Timestamp::from_second(since.parse().ok()?).ok()?;
        let session = Self { role, since, id: id.parse().ok()? };
        let age = now.duration_since(since);
        // A session may begin slightly in the future, by the clock of another replica.
        (age < LENGTH && age > -SignedDuration::from_mins(5)).then_some(session)
    }

    /// Returns a short name for lists. It gives no access.
    pub(super) fn short_id(&self) -> String {
        let id = self.id.simple().to_string();
        id[id.len() - 8..].to_owned()
    }

    fn claims(&self) -> String {
        format!("{}.{}.{}", self.role.as_str(), self.since.as_second(), self.id.simple())
    }
}

/// Returns `Set-Cookie` with the value of a session; without one, it removes the cookie.
///
/// `SameSite=Lax`, because links in alerts must work. It is safe, since no `GET` changes anything.
pub(super) fn cookie(value: Option<&str>, is_secure: bool) -> String {
    let (name, secure) = if is_secure { (SECURE_NAME, "; Secure") } else { (NAME, "") };
    let age = if value.is_some() { LENGTH.as_secs() } else { 0 };
    let value = value.unwrap_or_default();
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age}{secure}")
}

/// Returns the code that authenticates `claims`, made with the key derived from a token.
fn mac(token: &Secret, claims: &[u8]) -> Hmac<Sha256> {
    let key = Sha256::new_with_prefix(PURPOSE).chain_update(token.expose()).finalize();
    // HMAC pads keys with zeros to the length of a block.
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(&key);
    Hmac::<Sha256>::new(&block.into()).chain_update(claims)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn tokens(admin: &[&str], viewer: &[&str]) -> Tokens {
        let secrets = |tokens: &[&str]| tokens.iter().map(|token| Secret::new(*token)).collect();
        Tokens { admin: secrets(admin), viewer: secrets(viewer) }
    }

    fn now() -> Timestamp {
        "2026-11-01T12:00:00Z".parse().unwrap()
    }

    fn of(tokens: &Tokens, cookie: &str, now: Timestamp) -> Option<Session> {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
        Session::of(tokens, &headers, now)
    }

    #[test]
    fn a_session_has_the_role_of_its_token() {
        let tokens = tokens(&["acts"], &["looks", "other"]);
        for (token, role) in
            [("acts", Role::Admin), ("looks", Role::Viewer), ("other", Role::Viewer)]
        {
            let (session, value) = Session::begin(&tokens, token.as_bytes(), now()).unwrap();
            assert_eq!(session.role, role);
            for name in [NAME, SECURE_NAME] {
                let cookie = format!("theme=dark; {name}={value}; x=y");
                assert_eq!(of(&tokens, &cookie, now()), Some(session.clone()));
            }
        }
        assert_eq!(Session::begin(&tokens, b"wrong", now()), None);
        assert_eq!(Session::begin(&tokens, b"", now()), None);
    }

    #[test]
    fn a_session_ends_with_its_token_and_after_twelve_hours() {
        let both = tokens(&["old", "new"], &[]);
        let (_, value) = Session::begin(&both, b"old", now()).unwrap();
        let cookie = format!("{NAME}={value}");
        assert!(of(&both, &cookie, now()).is_some());
        assert_eq!(of(&tokens(&["new"], &[]), &cookie, now()), None);
        assert_eq!(of(&tokens(&["new"], &["old"]), &cookie, now()), None);
        let after = |hours| now() + SignedDuration::from_hours(hours);
        assert!(of(&both, &cookie, after(11)).is_some());
        assert_eq!(of(&both, &cookie, after(12)), None);
        assert_eq!(of(&both, &cookie, after(-1)), None);
    }

    #[test]
    fn nobody_can_make_one_or_change_one() {
        let tokens = tokens(&["acts"], &["looks"]);
        let (_, value) = Session::begin(&tokens, b"looks", now()).unwrap();
        let raised = value.replace("viewer", "admin");
        let unsigned = value.rsplit_once('.').unwrap().0;
        for wrong in [
            raised.as_str(),
            unsigned,
            &format!("{unsigned}."),
            &format!("{value}0"),
            &format!("{value}00"),
            "",
            ".",
            "....",
            "admin.1.1.1",
            "é.é.é.é",
        ] {
            let cookie = HeaderValue::from_bytes(format!("{NAME}={wrong}").as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(header::COOKIE, cookie)]);
            assert_eq!(Session::of(&tokens, &headers, now()), None, "{wrong}");
        }
    }
}
