//! What one lint finds: it names a path of the stack file, and the place is looked up here.

use std::collections::BTreeSet;

use super::{Finding, Level, Lint};
use crate::stack::{Place, Reading};

/// The findings of one lint.
pub(super) struct Found<'a> {
    reading: &'a Reading,
    lint: &'static Lint,
    level: Level,
    pub(super) findings: Vec<Finding>,
    pub(super) unjudged: BTreeSet<String>,
}

impl<'a> Found<'a> {
    pub(super) fn new(reading: &'a Reading, lint: &'static Lint, level: Level) -> Found<'a> {
        Found {
            reading,
            lint,
            level,
            findings: Vec::new(),
            unjudged: BTreeSet::new(),
        }
    }

    /// Something about a service, at one of its keys.
    pub(super) fn of_service(&mut self, service: &str, key: &str, what: String, remedy: impl Into<String>) {
        let place = self.reading.place(&format!("services.{service}.{key}")).clone();
        self.push(place, Some(service), what, remedy);
    }

    /// The same, and no more than a warning.
    pub(super) fn warning(&mut self, service: &str, key: &str, what: String, remedy: impl Into<String>) {
        self.of_service(service, key, what, remedy);
        if let Some(finding) = self.findings.last_mut() {
            finding.level = Level::Warn;
        }
    }

    /// Something about a service's variable.
    pub(super) fn of_variable(
        &mut self,
        service: &str,
        variable: &str,
        what: String,
        remedy: impl Into<String>,
    ) {
        self.of_service(service, &format!("environment.{variable}"), what, remedy);
    }

    /// Something at a path of the stack file.
    pub(super) fn at(&mut self, path: &str, what: String, remedy: impl Into<String>) {
        self.push(self.reading.place(path).clone(), None, what, remedy);
    }

    /// Something at a place of its own.
    pub(super) fn push(
        &mut self,
        place: Place,
        service: Option<&str>,
        what: String,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding {
            lint: self.lint.name,
            level: self.level,
            place,
            service: service.map(str::to_owned),
            what,
            remedy: remedy.into(),
            reason: self.lint.reason,
        });
    }

    /// The service's image would say it, and is not known.
    pub(super) fn unjudged(&mut self, service: &str) {
        self.unjudged.insert(service.to_owned());
    }
}
