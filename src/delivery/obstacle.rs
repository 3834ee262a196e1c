//! Obstacles: faults that block a whole destination until a person removes them.

/// A fault that blocks a whole destination until a person removes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Loops refuses the key.
    Key,
    /// There is no Loops at the base URL.
    BaseUrl,
}

impl Obstacle {
    /// Returns what to do about it, for the log.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Obstacle::Key => {
                "Loops refuses the API key: delivery is paused, nothing is lost; set the correct key (api_key of this destination) and restart, or enable the key in Loops"
            }
            Obstacle::BaseUrl => {
                "there is no Loops at base_url, where every call gets a 404 or a response from another server: delivery is paused, nothing is lost; set base_url of this destination (LOOPS_BASE_URL) to a URL that ends in /v1, such as https://app.loops.so/api/v1, and restart"
            }
        }
    }
}
