//! The frame that all pages share once somebody is logged in.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::assets;
use crate::console::session::Session;
use crate::console::state::AdminState;
use crate::console::tokens::Role;

/// The frame around a page.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) role: &'static str,
    pub(super) is_admin: bool,
    /// The path of the page, which the navigation marks.
    path: String,
    pub(super) assets: &'static assets::Names,
}

/// A link in the navigation.
pub(super) struct Link {
    pub(super) path: &'static str,
    pub(super) name: &'static str,
    /// The key that follows `g`.
    pub(super) key: char,
    pub(super) is_here: bool,
}

impl Frame {
    /// Returns the links of the navigation.
    pub(super) fn links(&self) -> impl Iterator<Item = Link> {
        const LINKS: [(&str, &str, char); 6] = [
            ("/console", "Now", 'n'),
            ("/console/messages", "Messages", 'm'),
            ("/console/failures", "Failures", 'f'),
            ("/console/subscriptions", "Subscriptions", 's'),
            ("/console/replay", "Replay", 'r'),
            ("/console/settings", "Settings", 'c'),
        ];
        LINKS.into_iter().map(|(path, name, key)| Link {
            path,
            name,
            key,
            is_here: self
                .path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') && path != "/console"),
        })
    }
}

impl FromRequestParts<AdminState> for Frame {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &AdminState) -> Result<Self, Infallible> {
        // The layer around all pages has added the session.
        let session = parts.extensions.get::<Arc<Session>>();
        let role = session.map_or(Role::Viewer, |session| session.role);
        Ok(Self {
            role: role.as_str(),
            is_admin: role == Role::Admin,
            path: parts.uri.path().to_owned(),
            assets: assets::names(),
        })
    }
}
