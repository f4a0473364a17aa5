//! The frame: levels, permissions, and that the table is what docs/lints.md says. What rows find is in `row_tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::rootfs::Config;

/// What a case is made of; the rest of it is the same everywhere.
pub(super) struct Case<'a> {
    /// `deploy/stack.yml`.
    pub stack: &'a str,
    /// Lines below `[environments.prod]`.
    pub toml: &'a str,
    pub target: Target,
    pub images: BTreeMap<String, Config>,
    /// Of the image of each service that has one.
    pub platforms: &'a [(&'a str, &'a str)],
    pub nodes: Option<&'a [Node]>,
    pub outside: Option<Outside>,
    pub kept: Option<&'a [Kept]>,
    /// Variables of `prod.env`, one a line.
    pub given: &'a [&'a str],
    pub tracked: Option<&'a [&'a str]>,
}

impl<'a> Case<'a> {
    pub(super) fn new(stack: &'a str, toml: &'a str) -> Case<'a> {
        Case {
            stack,
            toml,
            target: Target::Swarm,
            images: BTreeMap::new(),
            platforms: &[],
            nodes: None,
            outside: None,
            kept: None,
            given: &[],
            tracked: None,
        }
    }

    pub(super) fn check(&self) -> Result<Report, Error> {
        let text = format!(
            "[project]\nname = \"a\"\n[environments.prod]\ntarget = \"preview\"\nstack = \"deploy/stack.yml\"\n{}",
            self.toml
        );
        let project = Project {
            root: PathBuf::from("/project"),
            config: toml::from_str(&text).unwrap(),
            text,
        };
        let variable = |name: &str| self.given.contains(&name).then(|| "value".to_owned());
        let no_file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let file = Path::new("deploy/stack.yml");
        let reading = crate::stack::read(self.stack, file, &variable, &no_file).unwrap();
        let place = |(index, name): (usize, &&str)| {
            let place = Place {
                file: Arc::from(Path::new("prod.env")),
                line: index + 1,
                column: 1,
            };
            ((*name).to_owned(), place)
        };
        let tracked: Option<BTreeSet<PathBuf>> = self
            .tracked
            .map(|files| files.iter().map(PathBuf::from).collect());
        let mut platforms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (image, platform) in self.platforms {
            platforms
                .entry((*image).to_owned())
                .or_default()
                .insert((*platform).to_owned());
        }
        check(&Inputs {
            project: &project,
            environment: &project.config.environments["prod"],
            reading: &reading,
            given: &self.given.iter().enumerate().map(place).collect(),
            images: &self.images,
            platforms: &platforms,
            nodes: self.nodes,
            outside: self.outside.as_ref(),
            kept: self.kept,
            tracked: tracked.as_ref(),
            target: self.target,
            today: "2026-11-24"
                .parse::<toml::value::Datetime>()
                .unwrap()
                .date
                .unwrap(),
        })
    }

    /// What one lint found, one a line.
    #[track_caller]
    pub(super) fn of(&self, lint: &str) -> String {
        assert!(LINTS.iter().any(|row| row.name == lint), "{lint}");
        let report = self.check().unwrap();
        let mine = report.findings.iter().filter(|finding| finding.lint == lint);
        mine.map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    /// Everything that was found, and what it leads to.
    fn all(&self) -> String {
        let report = self.check().unwrap();
        let line = |finding: &Finding| format!("{:?} {finding}\n", finding.level);
        report.findings.iter().map(line).collect()
    }
}

/// A service that nothing is wrong with but a weak mode on line 4.
const WEAK: &str = "services:
  api:
    image: api
    environment: {DB_SSLMODE: prefer}
    healthcheck: {test: [CMD, /api]}
    stop_grace_period: 60s
    deploy: {resources: {limits: {memory: 64M}}}
networks: {default: {driver_opts: {encrypted: ''}}}
";

fn allow(entry: &str) -> String {
    Case::new(WEAK, &format!("[[environments.prod.allow]]\n{entry}")).all()
}

#[test]
fn a_finding_blocks_or_is_no_matter_as_the_target_has_it() {
    insta::assert_snapshot!(Case::new(WEAK, "").all(), @"Block deploy/stack.yml:4:19: sslmode: `DB_SSLMODE` of `api` asks for the mode `prefer`; write `require`, or `verify-full` with the authority's certificate");
    let preview = Case {
        target: Target::Preview,
        ..Case::new(WEAK, "")
    };
    assert_eq!(preview.all(), "");
    let plain = "services: {api: {image: api, environment: {API_TOKEN: x}, healthcheck: {test: x}}}";
    let preview = Case {
        target: Target::Preview,
        ..Case::new(plain, "")
    };
    insta::assert_snapshot!(preview.all(), @"Warn deploy/stack.yml:1:44: plain-secret: `API_TOKEN` of `api` holds a secret in the clear; make it a secret, and give `api` its file: `API_TOKEN_FILE: /run/secrets/…`");
}

#[test]
fn what_is_allowed_is_silent_until_its_day_is_over() {
    let today = "lint = \"sslmode\"\nreason = \"the cable is ours\"\nuntil = 2026-11-24\n";
    assert_eq!(allow(today), "");
    assert_eq!(allow(&format!("service = \"api\"\n{today}")), "");
    insta::assert_snapshot!(allow("lint = \"sslmode\"\nreason = \"the cable is ours\"\nuntil = 2026-11-23\n"), @"
    Block deploy/stack.yml:4:19: sslmode: `DB_SSLMODE` of `api` asks for the mode `prefer`; write `require`, or `verify-full` with the authority's certificate
    Block skep.toml:7:8: expired-allow: `sslmode` was allowed until 2026-11-23, because: the cable is ours; mend what it is about, or name a later day
    ");
}

#[test]
fn of_two_permissions_the_later_one_counts() {
    let two = "lint = \"sslmode\"\nreason = \"a\"\nuntil = 2026-11-23\n[[environments.prod.allow]]\nlint = \"sslmode\"\nreason = \"b\"\nuntil = 2027-01-01\n";
    insta::assert_snapshot!(allow(two), @"Warn skep.toml:7:8: unused-allow: nothing needs the permission for `sslmode`; remove it");
}

#[test]
fn a_permission_that_nothing_needs_is_said() {
    let unused = "lint = \"singleton\"\nreason = \"a\"\nuntil = 2027-01-01\n";
    insta::assert_snapshot!(allow(unused), @"
    Block deploy/stack.yml:4:19: sslmode: `DB_SSLMODE` of `api` asks for the mode `prefer`; write `require`, or `verify-full` with the authority's certificate
    Warn skep.toml:7:8: unused-allow: nothing needs the permission for `singleton`; remove it
    ");
    // It may be about the image, which nobody knows.
    let unknown = WEAK.replace("    healthcheck: {test: [CMD, /api]}\n", "");
    let toml = "[[environments.prod.allow]]\nlint = \"health-check\"\nreason = \"a\"\nuntil = 2027-01-01\n";
    let case = Case::new(&unknown, toml);
    assert!(!case.all().contains("unused-allow"), "{}", case.all());
    assert_eq!(case.check().unwrap().unjudged, ["api".to_owned()].into());
    let known = Case {
        images: [("api".to_owned(), Config::default())].into(),
        ..Case::new(&unknown, toml)
    };
    assert!(!known.all().contains("health-check"), "{}", known.all());
    assert_eq!(known.check().unwrap().unjudged, [].into());
}

#[test]
fn names_that_nothing_has_are_the_users_mistake() {
    let error = |toml: &str| Case::new(WEAK, toml).check().unwrap_err().to_string();
    let allow = |entry: &str| {
        error(&format!(
            "[[environments.prod.allow]]\n{entry}\nreason = \"a\"\nuntil = 2027-01-01\n"
        ))
    };
    insta::assert_snapshot!(allow("lint = \"ssl-mode\""), @"skep.toml:7:8: `ssl-mode` is no lint; did you mean `sslmode`?");
    insta::assert_snapshot!(allow("lint = \"anything\""), @"skep.toml:7:8: `anything` is no lint; docs/lints.md lists them");
    insta::assert_snapshot!(allow("lint = \"sslmode\"\nservice = \"web\""), @"skep.toml names the service `web` in `allow`, and `deploy/stack.yml` has `api`");
    insta::assert_snapshot!(error("rules = {singletons = [\"worker\"]}"), @"skep.toml names the service `worker` in `rules.singletons`, and `deploy/stack.yml` has `api`");
    insta::assert_snapshot!(error("rules = {boot = {worker = \"60s\"}}"), @"skep.toml names the service `worker` in `rules.boot`, and `deploy/stack.yml` has `api`");
}

#[test]
fn the_page_lists_every_lint_with_its_levels() {
    let page = std::fs::read_to_string("docs/lints.md").unwrap();
    let word = |level: Option<Level>| match level {
        Some(Level::Block) => "blocks",
        Some(Level::Warn) => "warns",
        None => "·",
    };
    let mut listed = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cells: Vec<&str> = line
            .split(" | ")
            .map(|cell| cell.trim_matches([' ', '|', '`']))
            .collect();
        let Some(lint) = LINTS.iter().find(|lint| lint.name == cells[0]) else {
            continue;
        };
        assert!(listed.insert(lint.name), "`{}` is listed twice", lint.name);
        let [preview, swarm] = [cells[1], cells[2]];
        assert_eq!(
            (preview, swarm),
            (word(lint.preview), word(lint.swarm)),
            "`{}`",
            lint.name
        );
    }
    let names: BTreeSet<_> = LINTS.iter().map(|lint| lint.name).collect();
    assert_eq!(listed, names);
    assert_eq!(names.len(), LINTS.len(), "two lints have one name");
}
