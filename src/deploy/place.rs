//! The target of an environment, of whatever kind.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Asker, Error};
use crate::build::{self, Setting};
use crate::project::{Environment, TargetKind};
use crate::registry::Settings;
use crate::rollout::{self, Preview, Roots, Swarm, Target, Whereabouts};

/// How long whoever changes a Swarm may be silent, if the environment does not say.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where an environment's releases run.
pub(super) enum Place {
    Preview(Preview),
    Swarm(Box<Swarm>),
}

impl Place {
    pub(super) fn open(
        setting: &Setting,
        name: &str,
        environment: &Environment,
        asker: &Asker<'_>,
        roots: &Arc<Roots>,
    ) -> Result<Place, Error> {
        let project = &setting.project;
        let state = rollout::state_directory(&asker.state_home, &project.config.project.name, name);
        let directory = environment
            .stack
            .parent()
            .map(|directory| project.root.join(directory));
        let directory = directory.unwrap_or_else(|| project.root.clone());
        match environment.target {
            TargetKind::Preview => Ok(Place::Preview(Preview::new(
                state,
                Arc::clone(&setting.store),
                directory,
                Arc::clone(roots),
                build::sandbox_program(),
                setting.cancel.clone(),
            ))),
            TargetKind::Swarm => Ok(Place::Swarm(Box::new(swarm(
                setting,
                environment,
                asker,
                state,
                directory,
            )?))),
        }
    }

    pub(super) fn target(&self) -> &dyn Target {
        match self {
            Place::Preview(preview) => preview,
            Place::Swarm(swarm) => swarm.as_ref(),
        }
    }
}

fn swarm(
    setting: &Setting,
    environment: &Environment,
    asker: &Asker<'_>,
    state: PathBuf,
    directory: PathBuf,
) -> Result<Swarm, Error> {
    let project = &setting.project;
    let fill = |text: &String| rollout::fill(project, environment, asker.variable, text);
    let managers = environment
        .managers
        .iter()
        .map(|manager| fill(manager.get_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Swarm::new(Whereabouts {
        name: rollout::stack_name(project, environment).to_owned(),
        managers,
        cluster: environment.cluster.clone(),
        patience: environment.patience.map_or(PATIENCE, |span| span.0),
        given: rollout::given(project, environment)?,
        secret_env: environment.secret_env.iter().cloned().collect(),
        state,
        directory,
        registry: settings(setting),
        pull: environment.pull.clone(),
        cancel: setting.cancel.clone(),
    })?)
}

/// How this project's registries are asked.
pub(super) fn settings(setting: &Setting) -> Settings {
    let plain_http = setting.project.config.push.plain_http.iter().cloned().collect();
    Settings::current(plain_http)
}
