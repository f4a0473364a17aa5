//! Threads with small stacks: there are several per container.

use std::io;
use std::thread::{Builder, JoinHandle};

/// What the deepest of them needs, in bytes: encoding and decoding of specs.
const STACK: usize = 512 << 10;

/// Starts a thread.
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work)
}
