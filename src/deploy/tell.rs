//! Tells whoever is to know what came of a rollout, also of one that did not begin. Of plans and looks nobody is told.

use std::time::Instant;

use chrono::Utc;

use super::{Deployment, Error};
use crate::release::ReleaseId;
use crate::rollout::{self, About, Mask, Notice, Report};

impl Deployment<'_> {
    /// Rolls out, and tells what came of it.
    pub(super) fn told(
        &self,
        release: Option<&ReleaseId>,
        run: impl FnOnce(&rollout::Setting<'_>) -> Result<Report, Error>,
    ) -> Result<Report, Error> {
        let began = Instant::now();
        self.within(|setting| {
            let result = run(setting);
            let about = self.about(release, began);
            self.tell(match &result {
                Ok(report) => Notice::new(&about, Ok(report)),
                Err(Error::Rollout(error)) => Notice::new(&about, Err(error)),
                Err(error) => refused(&about, error),
            });
            result
        })
    }

    /// What comes before a rollout; it is told if there will be none.
    pub(super) fn or_tell<T>(
        &self,
        release: Option<&ReleaseId>,
        before: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        before().inspect_err(|error| self.tell(refused(&self.about(release, began), error)))
    }

    /// What covers the values of the environment's secret variables, as its files are now.
    pub(super) fn mask(&self) -> Mask {
        rollout::mask_of(&self.setting.project, self.environment, self.asker.variable)
    }

    fn about<'b>(&'b self, release: Option<&'b ReleaseId>, began: Instant) -> About<'b> {
        About {
            project: &self.setting.project.config.project.name,
            environment: &self.name,
            release,
            by: &self.asker.by,
            at: Utc::now(),
            took: began.elapsed(),
        }
    }

    fn tell(&self, notice: Notice) {
        let to = &self.environment.notify;
        if to.is_empty() {
            return;
        }
        let notice = notice.masked(&self.mask());
        let (root, cancel) = (&self.setting.project.root, &self.setting.cancel);
        let warnings = rollout::notify(to, root, self.asker.variable, &notice, cancel);
        let warn = |warning| self.setting.events.warn(warning);
        warnings.into_iter().for_each(warn);
    }
}

/// What is said of a rollout that did not begin.
fn refused(about: &About<'_>, error: &Error) -> Notice {
    let lines = match error {
        Error::Blocked { findings, .. } => findings.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    Notice::refused(about, error.to_string(), lines)
}
