//! What skep.toml puts up with: findings that are allowed go, until the day that was named. It takes away, and adds
//! what is wrong with the permissions themselves.

use std::path::Path;
use std::sync::Arc;

use super::{Error, Finding, Inputs, LINTS, Level, Place, Report, nearest};
use crate::project::{Allow, CONFIG};

/// The names under which permissions themselves are found fault with. They cannot be allowed.
const EXPIRED: &str = "expired-allow";
const UNUSED: &str = "unused-allow";

/// Takes away what is allowed. What no permission covers any more stays, and the permission is reported with it.
pub(super) fn apply(inputs: &Inputs<'_>, report: &mut Report) -> Result<(), Error> {
    let mut faults = Vec::new();
    for allow in &inputs.environment.allow {
        let place = place(inputs, allow);
        let name = allow.lint.get_ref();
        if !LINTS.iter().any(|lint| lint.name == name) {
            return Err(Error::NoLint {
                place,
                lint: name.clone(),
                remedy: match nearest(LINTS.iter().map(|lint| lint.name), name) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "docs/lints.md lists them".to_owned(),
                },
            });
        }
        let is_current = allow.until >= inputs.today;
        let needs_it =
            |finding: &&Finding| covers(allow, finding) && (is_current || !is_allowed(inputs, finding));
        // What blocks sorts first.
        match report
            .findings
            .iter()
            .filter(needs_it)
            .map(|finding| finding.level)
            .min()
        {
            None if may_be_about_an_image(allow, report) => {}
            None => faults.push(unused(place, allow)),
            Some(level) if !is_current => faults.push(expired(place, allow, level)),
            Some(_) => {}
        }
    }
    report.findings.retain(|finding| !is_allowed(inputs, finding));
    report.findings.extend(faults);
    Ok(())
}

fn is_allowed(inputs: &Inputs<'_>, finding: &Finding) -> bool {
    let mut current = inputs
        .environment
        .allow
        .iter()
        .filter(|allow| allow.until >= inputs.today);
    current.any(|allow| covers(allow, finding))
}

fn covers(allow: &Allow, finding: &Finding) -> bool {
    allow.lint.get_ref() == finding.lint && (allow.service.is_none() || allow.service == finding.service)
}

/// What is not judged yet may turn out to need the permission.
fn may_be_about_an_image(allow: &Allow, report: &Report) -> bool {
    match &allow.service {
        Some(service) => report.unjudged.contains(service),
        None => !report.unjudged.is_empty(),
    }
}

fn place(inputs: &Inputs<'_>, allow: &Allow) -> Place {
    let (line, column) = inputs.project.line_and_column(allow.lint.span().start);
    Place {
        file: Arc::from(Path::new(CONFIG)),
        line,
        column,
    }
}

fn unused(place: Place, allow: &Allow) -> Finding {
    Finding {
        lint: UNUSED,
        level: Level::Warn,
        place,
        service: allow.service.clone(),
        what: format!("nothing needs the permission for `{}`", allow.lint.get_ref()),
        remedy: "remove it".to_owned(),
        reason: "a permission that is not needed covers the next mistake",
    }
}

fn expired(place: Place, allow: &Allow, level: Level) -> Finding {
    Finding {
        lint: EXPIRED,
        level,
        place,
        service: allow.service.clone(),
        what: format!(
            "`{}` was allowed until {}, because: {}",
            allow.lint.get_ref(),
            allow.until,
            allow.reason.trim()
        ),
        remedy: "mend what it is about, or name a later day".to_owned(),
        reason: "what was to be put up with for a while tends to stay",
    }
}
