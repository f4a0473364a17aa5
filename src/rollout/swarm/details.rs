//! What became of one replica, asked of the engine that had its container: the end of its log, its health check, and
//! whether it ran out of memory. A manager sees no containers of other nodes, and then says so.

use bollard::models::Task;

use super::{LINES, Swarm, logs};
use crate::docker::{Container, Engine, Unhealthy};
use crate::rollout::target::{Details, Replica};

/// Lines of a health check's output that a report shows.
const HEALTH_LINES: usize = 5;
/// What a task says whose health check failed.
pub(super) const HEALTH: &str = "its health check failed";

impl Swarm {
    pub(super) fn details_of(&self, replica: &Replica) -> Details {
        let (Some(id), Ok(engine)) = (&replica.id, self.engine()) else {
            return Details::default();
        };
        let mut details = Details {
            why: None,
            lines: logs::read_log(engine, id, Some(LINES), &self.about.cancel).unwrap_or_default(),
        };
        let task = engine
            .tasks(&[("id", id)])
            .ok()
            .and_then(|tasks| tasks.into_iter().next());
        let Some(task) = task else { return details };
        match container(engine, &task) {
            Some(container) => add(&mut details, container),
            None if replica.reason.as_deref() == Some(HEALTH) => {
                let node = task.node_id.unwrap_or_default();
                let names = engine.nodes().unwrap_or_default().into_iter();
                let mut names = names.filter(|there| there.id.as_ref() == Some(&node));
                let name = names
                    .next()
                    .and_then(|there| there.description?.hostname)
                    .unwrap_or(node);
                details
                    .lines
                    .push(format!("health check: only the node `{name}` has its output"));
            }
            None => {}
        }
        details
    }
}

/// The container of a task, if the engine that is asked has it.
fn container(engine: &Engine, task: &Task) -> Option<Container> {
    let status = task.status.as_ref()?.container_status.as_ref()?;
    let id = status.container_id.as_ref().filter(|id| !id.is_empty())?;
    engine.container(id).ok().flatten()
}

fn add(details: &mut Details, container: Container) {
    if container.out_of_memory {
        details.why = Some(match container.memory {
            0 => "it ran out of memory: its node has no more".to_owned(),
            limit => format!("it ran out of memory: its limit is {} MiB", limit >> 20),
        });
    } else if let Some(Unhealthy { exit_code, output }) = container.unhealthy {
        details.why = Some(HEALTH.to_owned());
        let mut lines = output.lines().filter(|line| !line.trim().is_empty()).peekable();
        if lines.peek().is_none() {
            details.lines.push(format!("health check: exit code {exit_code}"));
        }
        details.lines.extend(
            lines
                .take(HEALTH_LINES)
                .map(|line| format!("health check: {}", line.trim_end())),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(container: Container) -> String {
        let mut details = Details::default();
        add(&mut details, container);
        format!(
            "{}\n{}",
            details.why.unwrap_or_default(),
            details.lines.join("\n")
        )
    }

    #[test]
    fn memory_comes_before_health_and_output_before_codes() {
        let sick = |output: &str| Container {
            unhealthy: Some(Unhealthy {
                exit_code: 1,
                output: output.to_owned(),
            }),
            ..Container::default()
        };
        assert_eq!(of(Container::default()), "\n");
        insta::assert_snapshot!(of(sick("refused \n\nno route\n")), @"
        its health check failed
        health check: refused
        health check: no route
        ");
        insta::assert_snapshot!(of(sick("")), @"
        its health check failed
        health check: exit code 1
        ");
        let short = Container {
            out_of_memory: true,
            memory: 64 << 20,
            ..sick("refused")
        };
        assert_eq!(of(short), "it ran out of memory: its limit is 64 MiB\n");
    }
}
