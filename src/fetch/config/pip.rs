//! pip's configuration: the address of the package index.

use super::{Host, base_address, ini_value};
use crate::fetch::error::Error;
use crate::fetch::registry::Base;

/// Where pip itself keeps its default.
const DEFAULT: &str = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)";

/// The index: `PIP_INDEX_URL`, pip's configuration files, `[registries]`, and at last what pip itself says.
pub(in crate::fetch) fn index(host: &Host, registries: Option<&str>) -> Result<Base, Error> {
    if let Some(url) = host.var("PIP_INDEX_URL") {
        return base_address("PIP_INDEX_URL", url);
    }
    for path in files(host) {
        let Some(text) = host.read(&path)? else { continue };
        let found = ["download", "install", "global"].map(|section| ini_value(&text, section, "index-url"));
        if let Some(url) = found.into_iter().flatten().next() {
            return base_address(&path.display().to_string(), &url);
        }
    }
    let asked = || {
        let set = host.ask(&["python3", "-m", "pip", "config", "get", "global.index-url"]);
        set.or_else(|| host.ask(&["python3", "-c", DEFAULT]))
    };
    let url = registries
        .map(str::to_owned)
        .or_else(asked)
        .ok_or(Error::NoAddress {
            ecosystem: "PyPI",
            asked: "neither PIP_INDEX_URL nor `pip.conf` nor pip",
            key: "pypi",
        })?;
    base_address("the index of pip", &url)
}

/// pip's configuration files, the one that wins first.
fn files(host: &Host) -> Vec<std::path::PathBuf> {
    let explicit = host.var("PIP_CONFIG_FILE");
    if explicit == Some("/dev/null") {
        return Vec::new();
    }
    let site = host
        .var("VIRTUAL_ENV")
        .map(|path| std::path::Path::new(path).join("pip.conf"));
    let user = host.user_config().map(|path| path.join("pip/pip.conf"));
    [
        explicit.map(Into::into),
        site,
        user,
        host.in_home(".pip/pip.conf"),
        Some(host.etc.join("xdg/pip/pip.conf")),
        Some(host.etc.join("pip.conf")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_then_files_then_skep_toml() {
        let etc = tempfile::tempdir().unwrap();
        let mut host = Host {
            etc: etc.path().into(),
            ..Host::default()
        };
        let url = |host: &Host| {
            index(host, Some("https://toml.example/simple"))
                .unwrap()
                .url
                .to_string()
        };
        assert_eq!(url(&host), "https://toml.example/simple/");
        assert!(index(&host, None).is_err());

        let text = "[global]\n# index-url = https://no.example\ntimeout: 5\nindex_url = https://file.example/simple/\n";
        std::fs::write(etc.path().join("pip.conf"), text).unwrap();
        assert_eq!(url(&host), "https://file.example/simple/");

        host.vars
            .insert("PIP_INDEX_URL".into(), "https://u:p@var.example/simple".into());
        assert_eq!(url(&host), "https://var.example/simple/");
    }

    #[test]
    fn sections_are_told_apart() {
        let text = "[install]\nindex-url = a\n[global]\nindex-url: b\n[other]\nindex-url = c";
        for (section, value) in [("install", "a"), ("global", "b"), ("download", "")] {
            assert_eq!(ini_value(text, section, "index-url").unwrap_or_default(), value);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_pip_conf_panics(text in "(\\[|\\]|=|:|\n|#|global|index-url|\\PC){0,40}") {
            let _ = ini_value(&text, "global", "index-url");
        }
    }
}
