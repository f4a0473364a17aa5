//! Containers of the one engine that answers, and what became of them. Those of other nodes it does not know.

use super::services::part;
use super::{Engine, Error};

/// The most bytes of a health check's output that are kept.
const MAX_OUTPUT: usize = 4096;

/// How often a health check may fail in a row, unless it says so (Dockerfile reference, HEALTHCHECK).
const RETRIES: i64 = 3;

/// What an engine knows of a container's life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Whether the kernel ended one of its processes because the limit of its memory was reached.
    pub out_of_memory: bool,
    /// That limit in bytes; 0 if it has none.
    pub memory: u64,
    /// Its health check, once that has failed too often in a row.
    pub unhealthy: Option<Unhealthy>,
}

/// A health check that failed too often in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unhealthy {
    /// The exit code of the last one.
    pub exit_code: i64,
    /// What the last one printed, at most 4 KiB.
    pub output: String,
}

impl Engine {
    /// What became of a container; `None` if this engine has no such one.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] if no manager answers.
    pub fn container(&self, id: &str) -> Result<Option<Container>, Error> {
        let id = part(id)?.to_owned();
        let found = self.read(|docker| {
            let id = id.clone();
            async move { docker.inspect_container(&id, None).await }
        });
        let found = match found {
            Err(Error::NotFound(_)) => return Ok(None),
            found => found?,
        };
        let state = found.state.unwrap_or_default();
        let retries = found.config.and_then(|config| config.healthcheck?.retries);
        let retries = retries.filter(|retries| *retries > 0).unwrap_or(RETRIES);
        // Whatever ended is called unhealthy; only the count says whether it was.
        let failed = |times: Option<i64>| times.is_some_and(|times| times >= retries);
        let health = state.health.filter(|health| failed(health.failing_streak));
        let unhealthy = health.map(|health| {
            let log = health.log.unwrap_or_default();
            // The last one may have been ended with the container, and then says nothing.
            let telling = log.iter().rev().find(|check| {
                check.exit_code != Some(0) && check.output.as_ref().is_some_and(|output| !output.is_empty())
            });
            let last = telling.or(log.last()).cloned().unwrap_or_default();
            let mut output = last.output.unwrap_or_default();
            output.truncate(output.floor_char_boundary(MAX_OUTPUT));
            Unhealthy {
                exit_code: last.exit_code.unwrap_or_default(),
                output,
            }
        });
        let memory = found.host_config.and_then(|host| host.memory);
        Ok(Some(Container {
            out_of_memory: state.oom_killed.unwrap_or_default(),
            memory: memory.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default(),
            unhealthy,
        }))
    }
}
