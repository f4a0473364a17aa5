//! A flag that says: stop. Raised once by the edge, watched by whatever takes long; it stops nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether a run should stop. Clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks everything that watches this flag to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Waits for `future`, and gives it up within 100 ms after the flag was raised: then there is no value.
    pub async fn unless_raised<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        while !self.is_raised() {
            if let Ok(value) = tokio::time::timeout(Duration::from_millis(100), &mut future).await {
                return Some(value);
            }
        }
        None
    }

    /// Whether to stop. Long waits look at least every 100 ms.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
