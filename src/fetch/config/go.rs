//! Go's configuration: which proxies have a module, and which modules no proxy may be asked for.

use globset::GlobBuilder;

use super::Host;
use crate::fetch::error::Error;
use crate::fetch::registry::Base;

/// One entry of `GOPROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fetch) struct Proxy {
    /// Where it is.
    pub base: Base,
    /// Whether the next one may be asked when this one cannot answer (`|` behind it), and not only when it
    /// says that there is no such module (`,`).
    pub lenient: bool,
}

/// What `GOPROXY` and its companions come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fetch) struct GoConfig {
    /// Proxies in their order; `direct` and everything after `off` is left out.
    pub proxies: Vec<Proxy>,
    /// Patterns of modules that no proxy may be asked for (`GONOPROXY`, else `GOPRIVATE`).
    private: Vec<String>,
}

/// Reads variables, the `go env -w` file, `[registries]`, and at last asks `go`.
pub(in crate::fetch) fn configuration(host: &Host, registries: Option<&str>) -> Result<GoConfig, Error> {
    let file = match host.var("GOENV") {
        Some("off") => None,
        Some(path) => Some(path.into()),
        None => host.user_config().map(|path| path.join("go/env")),
    };
    let file = file.map(|path| host.read(&path)).transpose()?.flatten();
    let file = file.unwrap_or_default();
    let setting = |name: &str| {
        let from_file = || {
            let mut lines = file.lines();
            let value = lines.find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        host.var(name).map(str::to_owned).or_else(from_file)
    };
    let private = setting("GONOPROXY")
        .or_else(|| setting("GOPRIVATE"))
        .unwrap_or_default();
    let list = setting("GOPROXY").filter(|list| names_a_proxy(list));
    let list = list
        .or_else(|| registries.map(str::to_owned))
        .or_else(|| host.ask(&["go", "env", "GOPROXY"]))
        .unwrap_or_default();
    let proxies = parse_list(&list)?;
    if proxies.is_empty() {
        return Err(Error::NoAddress {
            ecosystem: "Go",
            asked: "neither GOPROXY nor `go env`",
            key: "go",
        });
    }
    let private = private
        .split(',')
        .map(str::trim)
        .filter(|pattern| !pattern.is_empty());
    Ok(GoConfig {
        proxies,
        private: private.map(str::to_owned).collect(),
    })
}

impl GoConfig {
    /// Refuses modules that the configuration keeps away from proxies: to ask would give their name away.
    pub(in crate::fetch) fn check_public(&self, module: &str) -> Result<(), Error> {
        match self.private.iter().find(|pattern| matches(pattern, module)) {
            None => Ok(()),
            Some(pattern) => Err(Error::Private {
                package: module.to_owned(),
                reason: format!(
                    "`{pattern}` in GONOPROXY or GOPRIVATE; set GONOPROXY=none if a proxy of GOPROXY has it"
                ),
            }),
        }
    }
}

/// Whether a list says anything to us: `direct` and `off` do not, as nothing is built from a repository here.
fn names_a_proxy(list: &str) -> bool {
    list.split([',', '|'])
        .any(|entry| !["", "direct", "off"].contains(&entry.trim()))
}

fn parse_list(list: &str) -> Result<Vec<Proxy>, Error> {
    let mut proxies = Vec::new();
    for entry in list.split_inclusive([',', '|']) {
        let address = entry.trim_end_matches([',', '|']).trim();
        match address {
            "" | "direct" => continue,
            "off" => break,
            _ => {}
        }
        proxies.push(Proxy {
            base: super::base_address("GOPROXY", address)?,
            lenient: entry.ends_with('|'),
        });
    }
    Ok(proxies)
}

/// Whether a pattern matches a module path or a leading part of it, component by component, as
/// `golang.org/x/mod/module.MatchPrefixPatterns` says.
fn matches(pattern: &str, module: &str) -> bool {
    let parts = pattern.split('/').count();
    let prefix: Vec<_> = module.split('/').take(parts).collect();
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    prefix.len() == parts && glob.is_ok_and(|glob| glob.compile_matcher().is_match(prefix.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(vars: &[(&str, &str)]) -> Host {
        Host {
            vars: vars
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            ..Host::default()
        }
    }

    fn proxies(vars: &[(&str, &str)], registries: Option<&str>) -> Vec<(String, bool)> {
        let config = configuration(&host(vars), registries).unwrap();
        let proxies = config.proxies.into_iter();
        proxies
            .map(|proxy| (proxy.base.url.to_string(), proxy.lenient))
            .collect()
    }

    #[test]
    fn proxy_lists() {
        let both = [
            ("https://a.example/".to_owned(), true),
            ("https://b.example/p/".to_owned(), false),
        ];
        let list = "https://a.example|https://b.example/p,direct";
        assert_eq!(proxies(&[("GOPROXY", list)], Some("https://c.example")), both);
        assert_eq!(
            proxies(&[], Some("https://a.example")),
            [(both[0].0.clone(), false)]
        );
        assert_eq!(
            proxies(&[("GOPROXY", "direct")], Some("https://a.example")),
            [(both[0].0.clone(), false)]
        );
        assert_eq!(
            proxies(&[("GOPROXY", "https://a.example,off,https://b.example")], None).len(),
            1
        );
        assert!(configuration(&host(&[("GOPROXY", "nonsense")]), None).is_err());
    }

    #[test]
    fn the_file_of_go_env_is_read() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/go")).unwrap();
        std::fs::write(
            home.path().join(".config/go/env"),
            "GOFLAGS=-v\nGOPROXY=https://f.example\n",
        )
        .unwrap();
        let mut host = host(&[]);
        host.home = Some(home.path().into());
        let url = |host: &Host| configuration(host, None).unwrap().proxies[0].base.url.to_string();
        assert_eq!(url(&host), "https://f.example/");
        host.vars.insert("GOPROXY".into(), "https://v.example".into());
        assert_eq!(url(&host), "https://v.example/");
    }

    #[test]
    fn no_address_says_what_to_write() {
        let error = configuration(&host(&[]), None).unwrap_err();
        insta::assert_snapshot!(error, @r#"
        no address for Go packages: neither GOPROXY nor `go env` says where they are; write in skep.toml

            [registries]
            go = "https://…"
        "#);
    }

    #[test]
    fn private_modules_are_not_asked_for() {
        let vars = [
            ("GOPROXY", "https://a.example"),
            ("GOPRIVATE", "*.corp.example,git.example/team"),
        ];
        let config = configuration(&host(&vars), None).unwrap();
        for (module, public) in [
            ("git.example/team/api", false),
            ("git.example/team", false),
            ("git.example/teams", true),
            ("git.example", true),
            ("x.corp.example/y/z", false),
            ("corp.example/y", true),
        ] {
            assert_eq!(config.check_public(module).is_ok(), public, "{module}");
        }
    }
}
