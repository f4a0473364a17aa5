//! `[environments.NAME.rules]` of skep.toml: what lints cannot know by themselves, such as which service must never
//! run twice. Data and its limits; what they are compared with is in `lint`.

use std::collections::BTreeMap;

use super::environment::Senseless;
use crate::stack::Span;

/// Facts that lints hold a release against. What is empty or `None` is not looked at. Unknown keys are errors.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Variables of which a service has all or none.
    pub together: Vec<Vec<String>>,
    /// Services of which never two run at the same time.
    pub singletons: Vec<String>,
    /// How many connections all services may open.
    pub connections: Option<Connections>,
    /// The longest duration that a variable may hold, by its name.
    pub at_most: BTreeMap<String, Span>,
    /// How long a service takes to boot at worst, by its name.
    pub boot: BTreeMap<String, Span>,
    /// How long every service has between the stop signal and the kill, at least.
    pub stop_grace: Option<Span>,
    /// Whether something stands before the nodes that all requests from outside go through.
    pub edge: bool,
    /// What somebody made sure of, by a name such as `restore_tested`.
    pub attest: BTreeMap<String, Attestation>,
}

/// What only a person can know.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The day on which it was made sure of last, as `2026-10-01`, and where it stands.
    pub on: toml::Spanned<toml::value::Date>,
    /// For how many days that is good.
    pub days: u32,
}

/// How many connections a server takes, such as a database.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    /// That many are refused.
    pub limit: u32,
    /// The variable that says how many one replica opens at most.
    pub variable: String,
}

impl Rules {
    /// What no type can say.
    pub(super) fn check(&self) -> Result<(), Senseless> {
        if let Some(group) = self.together.iter().find(|group| group.len() < 2) {
            let expected = "two or more variables in each group";
            return Err(("rules.together".to_owned(), format!("{group:?}"), expected));
        }
        match &self.connections {
            Some(connections) if connections.limit == 0 || connections.variable.is_empty() => Err((
                "rules.connections".to_owned(),
                connections.limit.to_string(),
                "a `limit` from 1 and the name of a `variable`",
            )),
            _ => Ok(()),
        }
    }
}
