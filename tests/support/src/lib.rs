//! What tests from outside have in common: a project in a directory of its own, `skep` run on it, what came of that with
//! whatever differs from run to run replaced, and what a machine must have for them.

mod http;
mod load;
mod mask;
mod needs;
mod ordinary;
mod project;
mod ran;
mod random;
mod wait;

pub use http::{Answer, Peer, get};
pub use load::Load;
pub use mask::{Kind, masked};
pub use needs::{ARCHITECTURES, BUSYBOX, has, has_busybox, is_real, variable};
pub use ordinary::as_an_ordinary_user;
pub use project::Project;
pub use ran::Ran;
pub use random::Random;
pub use wait::{free_port, until};
