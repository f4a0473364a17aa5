//! What a stack is on a Docker Swarm: its services, networks and volumes as the engine's API has them, and a normal form
//! in which they are compared. Pure: it asks no engine, and opens no file.
//!
//! A service is converted as `docker stack deploy` does it, so that its tools understand the result, and a stack that it
//! deployed can be taken over. `docs/stack.md` lists what differs.

mod canonical;
mod change;
mod container;
mod deploy;
mod endpoint;
mod limits;
mod mounts;
mod networks;
mod node;
mod shown;
mod spec;
#[cfg(test)]
mod tests;

pub use canonical::{Names, canonical, revision, task_template};
pub use change::impossible;
pub use limits::unsupported;
pub use networks::{differences, network, network_name};
pub use node::Node;
pub use shown::shown;
pub use spec::{Error, ObjectRef, PinnedImage, Surroundings, scoped, service};

/// On everything that belongs to a stack: its name.
pub const NAMESPACE: &str = "com.docker.stack.namespace";

/// On services: the image as it was asked for.
pub const IMAGE: &str = "com.docker.stack.image";

/// Labels of ours begin so. They never enter a comparison.
pub const OURS: &str = "skep.";

/// On a service: as whom nodes pull its image, and until when that lasts. The one label of ours that is compared: so
/// that credentials which were renewed reach every service.
pub const PULL: &str = "skep.pull";
