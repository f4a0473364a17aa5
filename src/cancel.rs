//! A flag that says: stop. Raised once by the edge, watched by whatever takes long; it stops nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a run should stop. Clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks everything that watches this flag to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether to stop. Long waits look at least every 100 ms.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
