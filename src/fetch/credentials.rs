//! Credentials and the files that hold them: `~/.netrc`, and users in addresses. They are never printed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;

use super::source::percent_decode;

/// The value of an `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credential(String);

impl Credential {
    /// User and password (RFC 7617).
    pub(super) fn basic(user: &str, password: &str) -> Credential {
        Credential::encoded(&STANDARD.encode(format!("{user}:{password}")))
    }

    /// User and password that are encoded already.
    pub(super) fn encoded(base64: &str) -> Credential {
        Credential(format!("Basic {base64}"))
    }

    /// A token (RFC 6750).
    pub(super) fn bearer(token: &str) -> Credential {
        Credential(format!("Bearer {token}"))
    }

    /// The header; a credential with characters that no header may hold is as good as none.
    pub(super) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Takes user and password out of an address.
pub(super) fn split_user(mut url: Url) -> (Url, Option<Credential>) {
    if url.username().is_empty() && url.password().is_none() {
        return (url, None);
    }
    let decode = |text: &str| percent_decode(text).unwrap_or_else(|| text.to_owned());
    let credential = Credential::basic(&decode(url.username()), &decode(url.password().unwrap_or("")));
    // Both fail only for addresses that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    (url, Some(credential))
}

/// The machines of a netrc file. `default` is left out: it would send a password to every host there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Netrc(Vec<(String, Credential)>);

impl Netrc {
    /// Reads the format of `netrc(5)`; what is malformed is passed over, as other readers do.
    pub(super) fn parse(text: &str) -> Netrc {
        let mut machines = Vec::new();
        let mut words = netrc_words(text).into_iter();
        let mut word = words.next();
        while let Some(keyword) = word {
            if keyword != "machine" {
                word = words.next();
                continue;
            }
            let host = words.next();
            let (mut login, mut password) = (None, None);
            loop {
                word = words.next();
                match word.as_deref() {
                    Some("login") => login = words.next(),
                    Some("password") => password = words.next(),
                    Some("account") => drop(words.next()),
                    _ => break,
                }
            }
            if let (Some(host), Some(login), Some(password)) = (host, login, password) {
                machines.push((host, Credential::basic(&login, &password)));
            }
        }
        Netrc(machines)
    }

    /// The first entry for a host.
    pub(super) fn find(&self, url: &Url) -> Option<Credential> {
        let host = url.host_str()?;
        let found = self.0.iter().find(|(machine, _)| machine == host);
        found.map(|(_, credential)| credential.clone())
    }
}

/// The words of a netrc file, without comments and macros; a word may stand in double quotes.
fn netrc_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut rest = line.trim_start();
        if rest.starts_with('#') {
            continue;
        }
        while !rest.is_empty() {
            let (word, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
            };
            if word == "macdef" {
                in_macro = true;
                break;
            }
            words.push(word.to_owned());
            rest = after.trim_start();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn netrc_files_are_read() {
        let netrc = Netrc::parse(
            "# mine\nmachine a.example login me password \"with space\"\nmacdef init\nmachine b.example\n\n\
             machine\n c.example\n  password two login you\ndefault login x password y\nmachine",
        );
        let find = |text: &str| netrc.find(&url(text));
        assert_eq!(
            find("https://a.example/x"),
            Some(Credential::basic("me", "with space"))
        );
        assert_eq!(
            find("https://c.example:8443/"),
            Some(Credential::basic("you", "two"))
        );
        assert_eq!(find("https://b.example/"), None);
        assert_eq!(find("https://d.example/"), None);
    }

    #[test]
    fn users_in_addresses_become_credentials() {
        let (bare, credential) = split_user(url("https://me:p%40ss@a.example/simple"));
        assert_eq!(bare.as_str(), "https://a.example/simple");
        assert_eq!(credential, Some(Credential::basic("me", "p@ss")));
        assert_eq!(format!("{credential:?}"), "Some(…)");
    }

    proptest::proptest! {
        #[test]
        fn no_netrc_panics(text in "(machine|login|password|macdef|default|[ \n\"#]|[a-z]){0,40}") {
            let _ = Netrc::parse(&text);
        }
    }
}
