//! The tokens of people, and the role that each of them gives.

use std::sync::Arc;

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
