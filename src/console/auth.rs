//! Who may ask: anyone with an admin token, sent as `Authorization: Bearer`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::http::Guesses;
use crate::http::error::ApiError;
use crate::secret::Secret;

/// The state of the layer.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) tokens: Arc<[Secret]>,
    pub(super) guesses: Arc<Guesses>,
}

/// Passes on requests that carry one of the tokens. The body of any other is not read.
pub(super) async fn require_token(
    State(Gate { tokens, guesses }): State<Gate>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match check(&tokens, request.headers()) {
        Ok(()) => Ok(next.run(request).await),
        Err(error) => Err(guesses.reject_admin(&request, error)),
    }
}

fn check(tokens: &[Secret], headers: &HeaderMap) -> Result<(), ApiError> {
    if tokens.is_empty() {
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
    match given {
        Some(given) if Secret::is_any_of(tokens, given) => Ok(()),
        _ => {
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
        let tokens: Vec<Secret> = tokens.iter().map(|token| Secret::new(*token)).collect();
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        check(&tokens, &headers).map_or_else(|error| error.status.as_u16(), |()| 200)
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
    fn without_tokens_nobody_gets_in() {
        for header in [None, Some("Bearer "), Some("Bearer old")] {
            assert_eq!(status(&[], header), 403, "{header:?}");
        }
    }
}
