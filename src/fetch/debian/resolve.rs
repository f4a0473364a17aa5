//! From names to the set of packages that they come to. Pure: the same metadata gives the same lock.
//!
//! Breadth first from the requested names, by Pre-Depends and Depends. Of alternatives, one that is already
//! in the set is taken, else the first that any package satisfies; of several packages that provide a name,
//! the alphabetically first. There is no going back on a choice. A dependency that names an excluded package
//! among its alternatives counts as answered: excluding `debconf` shall not bring its replacement in.
//! Essential packages are not added: an image holds what it asks for.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::LockError;
use super::packages::Packages;
use super::relation::{Relation, groups};
use crate::lock::{DebianLock, DebianRequest};

/// The lock for a request, from the text of the suite's `Packages` file.
pub(super) fn resolve(text: &str, request: &DebianRequest) -> Result<DebianLock, LockError> {
    let packages = Packages::parse(text, request.arch);
    let mut resolver = Resolver {
        excluded: request.exclude.iter().map(String::as_str).collect(),
        chosen: BTreeMap::new(),
        queue: VecDeque::new(),
        packages: &packages,
        request,
    };
    resolver.choose_requested()?;
    while let Some(name) = resolver.queue.pop_front() {
        resolver.follow(name)?;
    }
    resolver.check_conflicts()?;
    let chosen = resolver.chosen.keys().filter_map(|name| packages.get(name));
    Ok(DebianLock {
        request: request.clone(),
        packages: chosen.map(|package| package.pin()).collect::<Result<_, _>>()?,
    })
}

struct Resolver<'a> {
    packages: &'a Packages<'a>,
    request: &'a DebianRequest,
    excluded: HashSet<&'a str>,
    /// What is in the set, and which package brought it in; nothing for the requested ones.
    chosen: BTreeMap<&'a str, Option<&'a str>>,
    queue: VecDeque<&'a str>,
}

impl<'a> Resolver<'a> {
    fn choose_requested(&mut self) -> Result<(), LockError> {
        for name in &self.request.packages {
            if self.excluded.contains(name.as_str()) {
                return Err(LockError::Request {
                    what: name.clone(),
                    expected: "a package to ask for, as the same request excludes it",
                });
            }
            match self.packages.get(name) {
                Some(package) => self.choose(package.name, None),
                None => return Err(self.unsatisfied(None, name)),
            }
        }
        Ok(())
    }

    fn choose(&mut self, name: &'a str, because: Option<&'a str>) {
        if !self.chosen.contains_key(name) {
            self.chosen.insert(name, because);
            self.queue.push_back(name);
        }
    }

    /// Adds what a package needs.
    fn follow(&mut self, name: &'a str) -> Result<(), LockError> {
        let Some(package) = self.packages.get(name) else {
            return Ok(());
        };
        for field in ["Pre-Depends", "Depends"] {
            for (text, alternatives) in groups(package.field(field)) {
                let satisfying: Vec<_> = alternatives
                    .iter()
                    .flat_map(|relation| self.packages.satisfying(relation))
                    .collect();
                let excluded = |name: &str| self.excluded.contains(name);
                let answered = alternatives.iter().any(|relation| excluded(relation.name))
                    || satisfying.iter().any(|name| self.chosen.contains_key(name))
                    || (!satisfying.is_empty() && satisfying.iter().all(|name| excluded(name)));
                if answered {
                    continue;
                }
                match satisfying.iter().find(|name| !excluded(name)) {
                    Some(found) => self.choose(found, Some(name)),
                    None => return Err(self.unsatisfied(Some(name), text)),
                }
            }
        }
        Ok(())
    }

    fn unsatisfied(&self, by: Option<&'a str>, wanted: &str) -> LockError {
        let mut chain = Vec::new();
        let mut here = by;
        while let Some(name) = here {
            chain.push(format!("`{name}`"));
            here = self.chosen.get(name).copied().flatten();
        }
        let chain = match chain.is_empty() {
            true => "the request".to_owned(),
            false => chain.join(", needed by "),
        };
        let first = groups(wanted).flat_map(|(_, alternatives)| alternatives).next();
        let other = first.and_then(|relation| self.packages.get(relation.name));
        LockError::Unsatisfied {
            chain,
            wanted: wanted.to_owned(),
            suite: format!("`{}` main for {}", self.request.suite, self.request.arch),
            hint: match other {
                Some(package) => format!(" (it has {} {})", package.name, package.version),
                None => String::new(),
            },
        }
    }

    fn check_conflicts(&self) -> Result<(), LockError> {
        let chosen = || self.chosen.keys().filter_map(|name| self.packages.get(name));
        for package in chosen() {
            for field in ["Conflicts", "Breaks"] {
                for (text, alternatives) in groups(package.field(field)) {
                    // A package may conflict with a name that it provides itself, to be the only one.
                    let other = |relation: &Relation<'_>| {
                        let satisfying = self.packages.satisfying(relation);
                        satisfying
                            .into_iter()
                            .find(|name| *name != package.name && self.chosen.contains_key(name))
                    };
                    if let Some(other) = alternatives.iter().find_map(other) {
                        return Err(LockError::Conflict {
                            one: package.name.to_owned(),
                            other: other.to_owned(),
                            relation: format!("{field}: {text}"),
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Arch;

    /// Lines `name version field=value; field=value`.
    fn suite(lines: &str) -> String {
        let paragraph = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (name, version) = (words.next()?, words.next()?);
            let fields = words
                .next()
                .unwrap_or_default()
                .split("; ")
                .filter_map(|field| field.split_once('='));
            let fields: String = fields.map(|(key, value)| format!("{key}: {value}\n")).collect();
            let sha256 = "0".repeat(64);
            Some(format!(
                "Package: {name}\nVersion: {version}\nArchitecture: amd64\n{fields}\
                 Filename: pool/{name}.deb\nSize: 1\nSHA256: {sha256}\n\n"
            ))
        };
        lines.lines().filter_map(|line| paragraph(line.trim())).collect()
    }

    fn names(lines: &str, packages: &[&str], exclude: &[&str]) -> Result<String, String> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let request = DebianRequest {
            suite: "bookworm".into(),
            arch: Arch::Amd64,
            packages: owned(packages),
            exclude: owned(exclude),
        };
        let lock = resolve(&suite(lines), &request).map_err(|error| error.to_string())?;
        let names: Vec<_> = lock.packages.into_iter().map(|package| package.name).collect();
        Ok(names.join(" "))
    }

    const SUITE: &str = "\
        app 1 Pre-Depends=base; Depends=libc (>= 2) | old-libc, mta, awk:any
        base 1
        libc 2.36
        old-libc 1
        exim 1 Provides=mta
        postfix 1 Provides=mta
        gawk 1 Provides=awk
        mawk 1 Provides=awk
        cycle-a 1 Depends=cycle-b
        cycle-b 1 Depends=cycle-a
        versioned 1 Depends=lib-abi (>= 2)
        lib2 5 Provides=lib-abi (= 2)
        lib1 5 Provides=lib-abi (= 1)
        broken 1 Depends=app2
        app2 1 Depends=libc (>= 3)
        ui 1 Depends=debconf | debconf-2.0
        debconf 1 Depends=perl
        cdebconf 1 Provides=debconf-2.0
        perl 5
        enemy 1 Conflicts=libc (<< 9)
        alone 1 Provides=mta; Conflicts=mta";

    #[test]
    fn dependencies_are_followed() {
        assert_eq!(names(SUITE, &["app"], &[]).unwrap(), "alone app base gawk libc");
        assert_eq!(names(SUITE, &["cycle-a"], &[]).unwrap(), "cycle-a cycle-b");
        assert_eq!(names(SUITE, &["versioned"], &[]).unwrap(), "lib2 versioned");
        assert_eq!(names(SUITE, &[], &[]).unwrap(), "");
    }

    #[test]
    fn what_is_there_is_preferred_and_the_order_of_the_request_does_not_matter() {
        for request in [["app", "mawk", "postfix"], ["postfix", "mawk", "app"]] {
            assert_eq!(names(SUITE, &request, &[]).unwrap(), "app base libc mawk postfix");
        }
        assert_eq!(
            names(SUITE, &["app", "old-libc", "exim"], &[]).unwrap(),
            "app base exim gawk old-libc"
        );
    }

    #[test]
    fn exclusions_answer_dependencies() {
        assert_eq!(names(SUITE, &["ui"], &[]).unwrap(), "debconf perl ui");
        assert_eq!(names(SUITE, &["ui"], &["debconf"]).unwrap(), "ui");
        assert_eq!(names(SUITE, &["ui"], &["perl"]).unwrap(), "debconf ui");
        assert_eq!(
            names(SUITE, &["app"], &["mta", "gawk"]).unwrap(),
            "app base libc mawk"
        );
        assert_eq!(
            names(SUITE, &["app"], &["alone", "exim", "postfix"]).unwrap(),
            "app base gawk libc"
        );
        assert!(names(SUITE, &["ui"], &["ui"]).is_err());
    }

    #[test]
    fn errors_name_the_chain() {
        insta::assert_snapshot!(names(SUITE, &["broken"], &[]).unwrap_err(), @"`app2`, needed by `broken` needs `libc (>= 3)`, which `bookworm` main for amd64 does not have (it has libc 2.36)");
        insta::assert_snapshot!(names(SUITE, &["nothing"], &[]).unwrap_err(), @"the request needs `nothing`, which `bookworm` main for amd64 does not have");
        insta::assert_snapshot!(names(SUITE, &["app", "enemy"], &[]).unwrap_err(), @"`enemy` and `libc` cannot be installed together: enemy says `Conflicts: libc (<< 9)`");
        insta::assert_snapshot!(names(SUITE, &["alone", "exim"], &[]).unwrap_err(), @"`alone` and `exim` cannot be installed together: alone says `Conflicts: mta`");
    }

    #[test]
    fn the_highest_version_counts_and_other_architectures_do_not() {
        let text = suite("a 1.9\na 1.10\na 1.2") + "Package: b\nVersion: 1\nArchitecture: arm64\n";
        let packages = Packages::parse(&text, Arch::Amd64);
        assert_eq!(packages.get("a").unwrap().version, "1.10");
        assert!(packages.get("b").is_none());
    }

    #[test]
    fn hostile_fields_are_refused() {
        for (field, value) in [
            ("Filename", "../x.deb"),
            ("Filename", "/x.deb"),
            ("SHA256", "0"),
            ("Size", "-1"),
        ] {
            // The first field of a name counts.
            let text = suite(&format!("a 1 {field}={value}"));
            let package = *Packages::parse(&text, Arch::Amd64).get("a").unwrap();
            assert!(package.pin().is_err(), "{field}: {value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_order_of_paragraphs_does_not_matter(order in proptest::sample::subsequence((0..21).collect::<Vec<_>>(), 21), swap: (u8, u8)) {
            let mut lines: Vec<_> = order.iter().filter_map(|n| SUITE.lines().nth(*n)).collect();
            let (a, b) = (swap.0 as usize % lines.len(), swap.1 as usize % lines.len());
            lines.swap(a, b);
            proptest::prop_assert_eq!(names(&lines.join("\n"), &["app", "ui"], &[]), names(SUITE, &["app", "ui"], &[]));
        }
    }
}
