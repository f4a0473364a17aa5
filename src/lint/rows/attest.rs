//! What only a person can know, with the day on which they last made sure of it.

use std::path::Path;
use std::sync::Arc;

use chrono::NaiveDate;
use toml::value::Date;

use crate::lint::{Found, Inputs};
use crate::project::CONFIG;
use crate::stack::Place;

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
        let (line, column) = inputs.project.line_and_column(attested.on.span().start);
        let place = Place {
            file: Arc::from(Path::new(CONFIG)),
            line,
            column,
        };
        found.push(place, None, what, "make sure of it, and write the day");
    }
}

/// `None` for a date of no calendar, which TOML refuses.
fn day(date: &Date) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(i32::from(date.year), u32::from(date.month), u32::from(date.day))
}
