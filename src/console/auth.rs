//! Authorization: the layer around the API, which expects an admin token as `Authorization: Bearer`. The console
//! exchanges a token of either role for a [`session`](super::session).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::audit::Actor;
use super::tokens::{Role, Tokens};
use crate::http::Guesses;
use crate::http::error::ApiError;

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
    use crate::secret::Secret;

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
