//! Secrets: values that never appear in a log, an error or a response.

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// A key, token or shared secret. `Debug` is redacted; there is no `Display` and no `Serialize`.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.expose().as_bytes())
    }
}

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// Returns the secret itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns whether `given` is this secret, in time that does not depend on where they differ.
    pub fn matches(&self, given: &[u8]) -> bool {
        self.expose().as_bytes().ct_eq(given).into()
    }

    /// Returns whether `given` is one of `secrets`, in time that does not depend on which.
    pub fn is_any_of(secrets: &[Secret], given: &[u8]) -> bool {
        secrets.iter().fold(false, |found, secret| found | secret.matches(given))
    }

    /// Returns whether the secret is empty.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}
