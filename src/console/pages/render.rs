//! Renders pages, also those of errors.

use std::convert::Infallible;

use askama::Template;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use futures_util::future;
use futures_util::stream::{self, StreamExt as _};

use super::frame::Frame;
use crate::http::error::ApiError;

/// Tells nginx to pass on each part of a response at once.
pub(super) const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Renders a page.
pub(super) fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => not_rendered(&error),
    }
}

fn not_rendered(error: &askama::Error) -> Response {
    tracing::error!(%error, "a page cannot be rendered");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the page cannot be shown: please report the line `a page cannot be rendered` in the log",
    )
    .into_response()
}

/// Sends a page up to a mark at once, and the rest when the part at the mark is ready. It is for parts that may take
/// longer than a reader wants to wait for a page, and needs no script.
pub(super) fn in_two(
    page: &impl Template,
    mark: &str,
    part: impl Future<Output = askama::Result<String>> + Send + 'static,
) -> Response {
    let text = match page.render() {
        Ok(text) => text,
        Err(error) => return not_rendered(&error),
    };
    let (head, tail) = text.split_once(mark).unwrap_or((&text, ""));
    let (head, tail) = (head.to_owned(), tail.to_owned());
    let rest = async move {
        match part.await {
            Ok(part) => part + &tail,
            Err(error) => {
                tracing::error!(%error, "a part of a page cannot be rendered");
                tail
            }
        }
    };
    let parts = stream::once(future::ready(head)).chain(stream::once(rest));
    let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
    ([(ACCEL_BUFFERING, HeaderValue::from_static("no"))], Html(body)).into_response()
}

/// A page that says what went wrong and what to do.
#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame,
    title: &'a str,
    message: &'a str,
}

/// Makes the page of an error, for people who are logged in.
pub(super) fn error_page(frame: Frame, error: &ApiError) -> Response {
    let title = match error.status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::SERVICE_UNAVAILABLE => "The store does not answer",
        status if status.is_client_error() => "That does not work",
        _ => "Something went wrong",
    };
    html(error.status, &ErrorPage { frame, title, message: &error.message })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[derive(Template)]
    #[template(source = "head<!--here-->tail", ext = "html")]
    struct Page;

    #[tokio::test]
    async fn a_page_is_sent_up_to_what_is_not_made_yet() {
        let answer = in_two(&Page, "<!--here-->", future::pending());
        let mut parts = answer.into_body().into_data_stream();
        assert_eq!(parts.next().await.unwrap().unwrap(), "head");
        assert!(future::poll_immediate(parts.next()).await.is_none(), "the rest is not made yet");
        let answer = in_two(&Page, "<!--here-->", async { Ok(" and ".to_owned()) });
        assert_eq!(to_bytes(answer.into_body(), 100).await.unwrap(), "head and tail");
    }
}
