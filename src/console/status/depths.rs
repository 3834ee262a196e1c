//! How much waits for destinations that no process reports on.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::queue::{Depth, Unavailable};

/// Counts what waits for destinations that no process reports on. Each count is kept for a while, because the page Now
/// is read again every few seconds. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Depths(Arc<Mutex<HashMap<String, Counted>>>);

#[derive(Debug)]
struct Counted {
    depth: Depth,
    valid_until: Instant,
}

impl Depths {
    /// Returns how much waits for a destination, counting it unless the last count is still valid. Callers at the same
    /// time wait for one count.
    pub(super) async fn of(
        &self,
        name: &str,
        count: impl AsyncFnOnce() -> Result<Depth, Unavailable>,
    ) -> Result<Depth, Unavailable> {
        let mut counts = self.0.lock().await;
        let began = Instant::now();
        counts.retain(|_, counted| began < counted.valid_until);
        if let Some(counted) = counts.get(name) {
            return Ok(counted.depth);
        }
        let depth = count().await?;
        let valid_until = Instant::now() + Depth::valid_for(began.elapsed());
        counts.insert(name.to_owned(), Counted { depth, valid_until });
        Ok(depth)
    }
}
