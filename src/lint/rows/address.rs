//! Addresses in variables, such as `postgres://user:password@host:5432/name`, taken apart without judging them.

/// The parts of an address that lints look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address<'a> {
    /// What stands before `://`.
    pub scheme: &'a str,
    /// What stands between `:` and `@`.
    pub password: Option<&'a str>,
    /// The host, or several with commas, without ports; empty if there is none.
    pub host: &'a str,
}

/// The address that a value is, if it is one.
pub(super) fn address(value: &str) -> Option<Address<'_>> {
    let (scheme, rest) = value.trim().split_once("://")?;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    if scheme.is_empty() || !scheme.bytes().all(letter) {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    Some(Address {
        scheme,
        password: user.and_then(|user| Some(user.split_once(':')?.1)),
        host: without_port(host),
    })
}

/// A host without what follows its last `:`; one of version 6 keeps its brackets.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (value, expected) in [
            (
                "postgres://u:p@db:5432/x?sslmode=a",
                Some(("postgres", Some("p"), "db")),
            ),
            ("http://u@[::1]:80", Some(("http", None, "[::1]"))),
            ("redis://[::1]", Some(("redis", None, "[::1]"))),
            ("amqp://u:a:b@c@d/", Some(("amqp", Some("a:b@c"), "d"))),
            ("unix:///run/x", Some(("unix", None, ""))),
            ("://x", None),
            ("a b://x", None),
            ("db:5432", None),
        ] {
            let parts = address(value).map(|found| (found.scheme, found.password, found.host));
            assert_eq!(parts, expected, "{value}");
        }
    }
}
