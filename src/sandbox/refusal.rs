//! What a step of building a sandbox or a container was refused with. Only data; [`super::remedy`] says what helps.

use std::io;

/// What failed, and what the kernel said.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What was tried, such as `mount /proc`.
    pub step: String,
    /// What the kernel said.
    pub source: io::Error,
}

impl Refusal {
    /// The kernel's answer as a number; `EIO` where there was none.
    pub(crate) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(libc::EIO)
    }
}

pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// Names the step that an error belongs to.
pub(crate) trait During<T> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Refusal {
            step: step(),
            source: error.into(),
        })
    }
}
