//! npm's configuration: `.npmrc` files and `npm_config_…` variables, with scopes and tokens.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;

use super::{Host, base_address};
use crate::fetch::credentials::Credential;
use crate::fetch::error::Error;
use crate::fetch::registry::Base;

/// All settings of npm, the nearest winning.
#[derive(Debug)]
pub(in crate::fetch) struct NpmConfig {
    settings: BTreeMap<String, String>,
    registries: Option<String>,
    host: Host,
    /// What `npm` itself said, once it was asked.
    asked: OnceLock<Option<String>>,
}

/// Reads variables, then the project's, the user's and the system's `.npmrc`.
pub(in crate::fetch) fn configuration(host: &Host, registries: Option<&str>) -> Result<NpmConfig, Error> {
    let named = |key: &str, fallback| match variable(host, key) {
        Some(path) => Some(path.into()),
        None => fallback,
    };
    let files = [
        named("globalconfig", Some(host.etc.join("npmrc"))),
        named("userconfig", host.in_home(".npmrc")),
        Some(host.project.join(".npmrc")),
    ];
    let mut settings = BTreeMap::new();
    for path in files.into_iter().flatten() {
        if let Some(text) = host.read(&path)? {
            settings.extend(parse(&text, host));
        }
    }
    if let Some(registry) = variable(host, "registry") {
        settings.insert("registry".to_owned(), registry);
    }
    Ok(NpmConfig {
        settings,
        registries: registries.map(str::to_owned),
        host: host.clone(),
        asked: OnceLock::new(),
    })
}

impl NpmConfig {
    /// The registry of a scope, or of packages without one, with the credentials for it. May ask `npm`.
    pub(in crate::fetch) fn registry(&self, scope: Option<&str>) -> Result<Base, Error> {
        let scoped = scope.and_then(|scope| self.settings.get(&format!("@{scope}:registry")));
        let text = scoped
            .or_else(|| self.settings.get("registry"))
            .or(self.registries.as_ref())
            .cloned()
            .or_else(|| self.ask().clone())
            .ok_or(Error::NoAddress {
                ecosystem: "npm",
                asked: "neither npm_config_registry nor `.npmrc` nor `npm config`",
                key: "npm",
            })?;
        let base = base_address("npm's registry", &text)?;
        Ok(Base {
            credential: self.credential(&base.url).or(base.credential),
            url: base.url,
        })
    }

    fn ask(&self) -> &Option<String> {
        self.asked
            .get_or_init(|| self.host.ask(&["npm", "config", "get", "registry"]))
    }

    /// The credentials that `.npmrc` has for an address: those of the longest `//host/path/` that it is
    /// below.
    pub(in crate::fetch) fn credential(&self, url: &Url) -> Option<Credential> {
        let host = url.host_str()?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let mut path = url.path();
        loop {
            path = &path[..path.rfind('/')?];
            let setting = |key: &str| {
                let exact = format!("//{host}{port}{path}/:{key}");
                self.settings.get(&exact).filter(|value| !value.is_empty())
            };
            if let Some(token) = setting("_authToken") {
                return Some(Credential::bearer(token));
            }
            if let Some(encoded) = setting("_auth") {
                return Some(Credential::encoded(encoded));
            }
            if let (Some(user), Some(password)) = (setting("username"), setting("_password")) {
                let password = STANDARD.decode(password).ok()?;
                return Some(Credential::basic(user, &String::from_utf8(password).ok()?));
            }
        }
    }
}

/// `npm_config_<key>`, whatever its case.
fn variable(host: &Host, key: &str) -> Option<String> {
    let name = format!("npm_config_{key}");
    let mut vars = host.vars.iter();
    let (_, value) = vars.find(|(var, value)| var.eq_ignore_ascii_case(&name) && !value.is_empty())?;
    Some(value.clone())
}

/// The settings of one `.npmrc`; `${VARIABLE}` is replaced where the variable is set.
fn parse(text: &str, host: &Host) -> BTreeMap<String, String> {
    let setting = |line: &str| {
        let line = line.trim();
        if line.starts_with(['#', ';', '[']) {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        let value = value.trim();
        let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Some((expand(key.trim(), host), expand(bare.unwrap_or(value), host)))
    };
    text.lines().filter_map(setting).collect()
}

fn expand(text: &str, host: &Host) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        expanded.push_str(before);
        match after.split_once('}') {
            Some((name, after)) if host.vars.contains_key(name) => {
                expanded.push_str(&host.vars[name]);
                rest = after;
            }
            _ => {
                expanded.push_str("${");
                rest = after;
            }
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const NPMRC: &str = "\
; comment
registry = https://all.example/npm
@mine:registry=https://git.example/api/packages/mine/npm/
//git.example/api/packages/mine/npm/:_authToken=${TOKEN}
//all.example/:_auth=\"bWU6cHc=\"
//other.example:8443/:username=me
//other.example:8443/:_password=cHc=
";

    fn config(vars: &[(&str, &str)]) -> NpmConfig {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".npmrc"), NPMRC).unwrap();
        let host = Host {
            vars: vars
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            home: Some(home.path().into()),
            ..Host::default()
        };
        configuration(&host, Some("https://toml.example/")).unwrap()
    }

    #[test]
    fn scopes_have_their_own_registry_and_token() {
        let config = config(&[("TOKEN", "t0ken")]);
        let mine = config.registry(Some("mine")).unwrap();
        assert_eq!(mine.url.as_str(), "https://git.example/api/packages/mine/npm/");
        assert_eq!(mine.credential, Some(Credential::bearer("t0ken")));
        let all = config.registry(Some("img")).unwrap();
        assert_eq!(all.url.as_str(), "https://all.example/npm/");
        assert_eq!(all.credential, Some(Credential::encoded("bWU6cHc=")));
    }

    #[test]
    fn credentials_go_to_their_host_and_path_only() {
        let config = config(&[]);
        let find = |text: &str| config.credential(&Url::parse(text).unwrap());
        assert_eq!(
            find("https://other.example:8443/x/y.tgz"),
            Some(Credential::basic("me", "pw"))
        );
        assert_eq!(find("https://other.example/x/y.tgz"), None);
        assert_eq!(find("https://git.example/api/packages/yours/npm/x"), None);
    }

    #[test]
    fn variables_win_and_skep_toml_comes_last() {
        let config = config(&[("NPM_CONFIG_REGISTRY", "https://var.example")]);
        assert_eq!(
            config.registry(None).unwrap().url.as_str(),
            "https://var.example/"
        );
        let bare = configuration(&Host::default(), Some("https://toml.example/")).unwrap();
        assert_eq!(
            bare.registry(Some("mine")).unwrap().url.as_str(),
            "https://toml.example/"
        );
        assert!(
            configuration(&Host::default(), None)
                .unwrap()
                .registry(None)
                .is_err()
        );
    }

    proptest::proptest! {
        #[test]
        fn no_npmrc_panics(text in "([$@/{}=:\";#\n]|[a-z]){0,60}") {
            let _ = parse(&text, &Host::default());
        }
    }
}
