//! What stands in the environments of services: settings that belong together, durations, how databases and stores
//! are reached. What a program reads from files is not seen here.

use std::time::Duration;

use super::address::{address, without_port};
use crate::lint::{Found, Inputs};
use crate::stack::{Service, Span};

/// Modes that go on without TLS when it is not to be had, as Postgres and MySQL call them.
const WEAK: &[&str] = &[
    "disable",
    "disabled",
    "allow",
    "prefer",
    "preferred",
    "off",
    "false",
];

/// A service has all variables of a group of `rules.together`, or none. `X_FILE` is as good as `X`.
pub(crate) fn together(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        for group in &inputs.environment.rules.together {
            let (has, lacks): (Vec<_>, Vec<_>) = group
                .iter()
                .map(String::as_str)
                .partition(|variable| is_set(service, variable));
            let [first, ..] = has.as_slice() else { continue };
            if !lacks.is_empty() {
                let what = format!(
                    "`{name}` has `{}`, and lacks `{}`",
                    has.join("`, `"),
                    lacks.join("`, `")
                );
                found.of_variable(name, first, what, "give it all of them, or none");
            }
        }
    }
}

fn is_set(service: &Service, variable: &str) -> bool {
    let filled = |name: &str| {
        service
            .environment
            .get(name)
            .is_some_and(|value| !value.is_empty())
    };
    filled(variable) || filled(&format!("{variable}_FILE"))
}

/// Durations of `rules.at_most`. A number alone counts seconds, and 0 is without end, as pools have it.
pub(crate) fn at_most(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        for (variable, most) in &inputs.environment.rules.at_most {
            let Some(value) = service.environment.get(variable) else {
                continue;
            };
            let what = match duration(value) {
                None => format!("`{variable}` of `{name}` is `{value}`, which is no duration"),
                Some(Duration::ZERO) => {
                    format!("`{variable}` of `{name}` is `{value}`, which is without end; {most} is the most")
                }
                Some(span) if span > most.0 => {
                    format!("`{variable}` of `{name}` is `{value}`, and {most} is the most")
                }
                Some(_) => continue,
            };
            found.of_variable(name, variable, what, format!("write `{most}` or less"));
        }
    }
}

fn duration(value: &str) -> Option<Duration> {
    let value = value.trim();
    let seconds = value.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| value.parse().ok().map(|span: Span| span.0))
}

/// Databases are reached with TLS or not at all.
pub(crate) fn sslmode(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    const REMEDY: &str = "write `require`, or `verify-full` with the authority's certificate";
    for (name, service) in &inputs.reading.stack.services {
        let names_mode = |variable: &str| {
            let variable = variable.to_ascii_uppercase();
            variable.ends_with("SSLMODE") || variable.ends_with("SSL_MODE")
        };
        let apart = service.environment.keys().any(|variable| names_mode(variable));
        for (variable, value) in &service.environment {
            let mode = if names_mode(variable) {
                Some(value.as_str())
            } else {
                mode_in(value)
            };
            match mode {
                Some(mode) if WEAK.contains(&mode.to_ascii_lowercase().as_str()) => {
                    let what = format!("`{variable}` of `{name}` asks for the mode `{mode}`");
                    found.of_variable(name, variable, what, REMEDY);
                }
                None if !apart && is_postgres(value) => {
                    let what =
                        format!("`{variable}` of `{name}` has no `sslmode`, and `prefer` is the default");
                    found.of_variable(name, variable, what, "add `?sslmode=require`");
                }
                _ => {}
            }
        }
    }
}

/// What follows `sslmode=`, in an address or in words.
fn mode_in(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("sslmode=")?;
    rest.trim_start_matches(['\'', '"'])
        .split(|letter: char| letter == '&' || letter == '\'' || letter == '"' || letter.is_whitespace())
        .next()
}

fn is_postgres(value: &str) -> bool {
    address(value).is_some_and(|address| {
        matches!(address.scheme, "postgres" | "postgresql") && !address.host.is_empty()
    })
}

/// The service that migrates reaches its database itself, or has an address for that alone.
pub(crate) fn migrate_pooler(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    let Some(migrate) = &inputs.environment.migrate else {
        return;
    };
    let Some(service) = inputs.reading.stack.services.get(&migrate.service) else {
        return;
    };
    let for_migrations = |(variable, value): (&String, &String)| {
        let named = variable.contains("MIGRAT") || variable.contains("DIRECT");
        let elsewhere = variable.ends_with("_FILE") && !value.is_empty();
        named && (elsewhere || pooler(value).is_none() && host(value).is_some())
    };
    if service.environment.iter().any(for_migrations) {
        return;
    }
    for (variable, value) in &service.environment {
        if let Some(host) = pooler(value) {
            found.of_variable(
                &migrate.service,
                variable,
                format!("`{}` migrates through the pooler `{host}`", migrate.service),
                "give it an address of the database itself, in a variable whose name has `MIGRATION` or `DIRECT` in it",
            );
        }
    }
}

/// The host of an address, or the whole value if it may be one.
fn host(value: &str) -> Option<&str> {
    let host = match address(value) {
        Some(address) => address.host,
        None => match value
            .split_whitespace()
            .find_map(|word| word.strip_prefix("host="))
        {
            Some(host) => host,
            None => without_port(value),
        },
    };
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (!host.is_empty() && host.bytes().all(inside)).then_some(host)
}

/// The host of a value, if it is called like a pooler: `pgbouncer`, `pooler` or `…-pooler` in its first part.
fn pooler(value: &str) -> Option<&str> {
    let host = host(value)?;
    let first = host.split('.').next().unwrap_or_default();
    (first == "pgbouncer" || first == "pooler" || first.ends_with("-pooler")).then_some(host)
}

/// Stores outside of the stack are reached with TLS.
pub(crate) fn plain_http_endpoint(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    let services = &inputs.reading.stack.services;
    for (name, service) in services {
        for (variable, value) in &service.environment {
            let upper = variable.to_ascii_uppercase();
            if !upper.ends_with("ENDPOINT") && !upper.contains("ENDPOINT_URL") {
                continue;
            }
            let Some(address) = address(value).filter(|address| address.scheme == "http") else {
                continue;
            };
            let here = services.contains_key(address.host)
                || matches!(address.host, "localhost" | "[::1]")
                || address.host.starts_with("127.");
            if !here {
                let what = format!("`{variable}` of `{name}` reaches `{}` without TLS", address.host);
                found.of_variable(name, variable, what, "write `https://`");
            }
        }
    }
}
