//! Authorization: the tokens of people, and the layer around the API, which expects an admin token as
//! `Authorization: Bearer`. The console exchanges a token of either role for a [`session`](super::session).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::audit::Actor;
use crate::http::Guesses;
use crate::http::error::ApiError;
use crate::secret::Secret;

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Look at everything except the contents of messages.
    Viewer,
    /// Everything.
    Admin,
}

impl Role {
    pub(super) const ALL: [Role; 2] = [Role::Viewer, Role::Admin];

    /// Returns the name of the role, as sessions hold it and pages show it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Admin => "admin",
        }
    }
}

/// The configured tokens. If there are none, nobody gets in.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// Tokens that allow everything.
    pub admin: Arc<[Secret]>,
    /// Tokens that only allow looking.
    pub viewer: Arc<[Secret]>,
}

impl Tokens {
    /// Returns the tokens of a role.
    pub(super) fn of(&self, role: Role) -> &[Secret] {
        match role {
            Role::Viewer => &self.viewer,
            Role::Admin => &self.admin,
        }
    }

    /// Returns the configured token that equals `given`, and its role. Compares with all tokens, so that timing does
    /// not reveal which one matched.
    pub(super) fn find(&self, given: &[u8]) -> Option<(Role, &Secret)> {
        let all =
            Role::ALL.into_iter().flat_map(|role| self.of(role).iter().map(move |t| (role, t)));
        all.fold(None, |found, (role, token)| match token.matches(given) {
            true => Some((role, token)),
            false => found,
        })
    }

    /// Returns whether no token is configured.
    pub(super) fn is_empty(&self) -> bool {
        self.admin.is_empty() && self.viewer.is_empty()
    }
}

/// The state of [`require_token`].
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) tokens: Tokens,
    pub(super) guesses: Arc<Guesses>,
}

/// Passes on requests with an admin token, and rejects all others without reading their bodies.
pub(super) async fn require_token(
    State(Gate { tokens, guesses }): State<Gate>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match check(&tokens, request.headers()) {
        Ok(number) => {
            let session = format!("token-{number}");
            request.extensions_mut().insert(Actor { role: Role::Admin, session: session.into() });
            Ok(next.run(request).await)
        }
        Err(error) => Err(guesses.reject_admin(&request, error)),
    }
}

/// Returns which of the admin tokens was given, counted from 1.
fn check(tokens: &Tokens, headers: &HeaderMap) -> Result<usize, ApiError> {
    if tokens.admin.is_empty() {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "no_admin_token",
            "the admin API is off: set ADMIN_TOKEN (server.admin_tokens) and restart",
        ));
    }
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().as_bytes());
    match given.and_then(|given| tokens.find(given)) {
        Some((Role::Admin, given)) => {
            let index = tokens.admin.iter().position(|token| token == given);
            Ok(index.unwrap_or_default() + 1)
        }
        Some((Role::Viewer, _)) => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "viewer_token",
            "this is a viewer token, which opens the console alone: send an admin token (server.admin_tokens)",
        )),
        None => {
            let error = ApiError::unauthorized(
                "the admin token is missing or wrong: send Authorization: Bearer ADMIN_TOKEN",
            );
            Err(ApiError { is_guess: given.is_some(), ..error })
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn status(tokens: &[&str], header: Option<&'static str>) -> u16 {
        status_of(tokens, &[], header)
    }

    fn status_of(admin: &[&str], viewer: &[&str], header: Option<&'static str>) -> u16 {
        let secrets = |tokens: &[&str]| tokens.iter().map(|token| Secret::new(*token)).collect();
        let tokens = Tokens { admin: secrets(admin), viewer: secrets(viewer) };
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        check(&tokens, &headers).map_or_else(|error| error.status.as_u16(), |_| 200)
    }

    #[test]
    fn each_token_is_enough_and_nothing_else_is() {
        for header in ["Bearer old", "Bearer new", "bearer new", "BEARER  new "] {
            assert_eq!(status(&["old", "new"], Some(header)), 200, "{header}");
        }
        for header in ["Bearer", "Bearer ", "Bearer other", "Bearer old new", "Basic new", "new"] {
            assert_eq!(status(&["old", "new"], Some(header)), 401, "{header}");
        }
        assert_eq!(status(&["old", "new"], None), 401);
    }

    #[test]
    fn a_viewer_token_opens_no_part_of_the_api() {
        assert_eq!(status_of(&["acts"], &["looks"], Some("Bearer looks")), 403);
        assert_eq!(status_of(&["acts"], &["looks"], Some("Bearer acts")), 200);
        assert_eq!(status_of(&["acts"], &["looks"], Some("Bearer other")), 401);
        assert_eq!(status_of(&[], &["looks"], Some("Bearer looks")), 403);
    }

    #[test]
    fn without_tokens_nobody_gets_in() {
        for header in [None, Some("Bearer "), Some("Bearer old")] {
            assert_eq!(status(&[], header), 403, "{header:?}");
        }
    }
}
