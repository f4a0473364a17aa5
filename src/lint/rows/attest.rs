//! What only a person can know: the day on which they last made sure of something, and the day on which something ends.

use std::path::Path;
use std::sync::Arc;

use chrono::NaiveDate;
use toml::value::Date;

use crate::lint::{Found, Inputs};
use crate::project::CONFIG;
use crate::stack::Place;

/// Days before the end of credentials from which on that is said.
const NOTICE: i64 = 14;

/// What `rules.attest` says was made sure of not too long ago.
pub(crate) fn attestation(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, attested) in &inputs.environment.rules.attest {
        let on = attested.on.get_ref();
        let (Some(then), Some(today)) = (day(on), day(&inputs.today)) else {
            continue;
        };
        let age = (today - then).num_days();
        let what = match age {
            ..0 => format!("`{name}` is dated {on}, which is yet to come"),
            age if age > i64::from(attested.days) => {
                format!(
                    "`{name}` was last made sure of on {on}, {age} days ago, and {} are the most",
                    attested.days
                )
            }
            _ => continue,
        };
        let place = place(inputs, &attested.on);
        found.push(place, None, what, "make sure of it, and write the day");
    }
}

/// Credentials of nodes that end soon, or have.
pub(crate) fn pull_credentials(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (host, pull) in &inputs.environment.pull {
        let Some(until) = &pull.until else { continue };
        let (Some(end), Some(today)) = (day(until.get_ref()), day(&inputs.today)) else {
            continue;
        };
        let left = (end - today).num_days();
        let end = match left {
            ..0 => format!("ended on {}", until.get_ref()),
            0..NOTICE => format!("end on {}, in {left} days", until.get_ref()),
            _ => continue,
        };
        let what = format!(
            "the credentials with which nodes pull from `{host}` as `{}` {end}",
            pull.user
        );
        let remedy = "log in with new ones, write their last day, and roll out: no replica is restarted";
        found.push(place(inputs, until), None, what, remedy);
    }
}

fn place(inputs: &Inputs<'_>, date: &toml::Spanned<Date>) -> Place {
    let (line, column) = inputs.project.line_and_column(date.span().start);
    Place {
        file: Arc::from(Path::new(CONFIG)),
        line,
        column,
    }
}

/// `None` for a date of no calendar, which TOML refuses.
fn day(date: &Date) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(i32::from(date.year), u32::from(date.month), u32::from(date.day))
}
