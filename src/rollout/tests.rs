use std::collections::BTreeMap;
use std::time::Duration;

use chrono::DateTime;

use super::fake::Fake;
use super::*;
use crate::cancel::Cancel;
use crate::event::Events;
use crate::release::{Release, ReleaseId, ReleasedImage, Version};
use crate::stack::{self, Stack};

/// Release number `n`, with images like `api=a db=d`, the secret `key` with the content of `key`, and a migration.
pub(super) fn release(n: u32, images: &str, key: &str) -> (Record, Contents) {
    let time = DateTime::from_timestamp(1_795_561_200 + i64::from(n), 0).unwrap();
    let id = ReleaseId::new(None, time);
    let image = |word: &str| {
        let (name, digest) = word.split_once('=').unwrap();
        let image = ReleasedImage {
            repository: name.to_owned(),
            digest: digest.to_owned(),
            platforms: BTreeMap::new(),
        };
        (name.to_owned(), image)
    };
    let version = Version::of(&format!("app_key_{key}"));
    let record = Record {
        release: Release {
            id,
            images: images.split_whitespace().map(image).collect(),
            sources: Vec::new(),
            secrets: [("key".to_owned(), version.clone())].into(),
            configs: BTreeMap::new(),
            migration: None,
            by: "me@here".to_owned(),
            at: time,
        },
        stack: Stack {
            services: [(
                "api".to_owned(),
                stack::Service {
                    image: "api".to_owned(),
                    ..Default::default()
                },
            )]
            .into(),
            ..Stack::default()
        },
        migrate: Some(Migrate {
            service: "api".to_owned(),
            command: vec!["up".to_owned()],
            timeout: Duration::from_millis(200),
            version: Some(vec!["version".to_owned()]),
            breaking: false,
        }),
        probes: BTreeMap::new(),
        checks: BTreeMap::new(),
        addresses: BTreeMap::new(),
        singletons: Default::default(),
        found: BTreeMap::new(),
        probed: Vec::new(),
        secret_env: std::collections::BTreeSet::new(),
        began: time,
        outcome: Outcome::Pending,
    };
    (
        record,
        Contents([((Kind::Secret, version), key.as_bytes().to_vec())].into()),
    )
}

pub(super) fn options() -> Options {
    Options {
        timeout: Duration::from_millis(500),
        keep: 2,
        skip_probes: false,
        stateful: false,
        seen: None,
        owner: "me@here".to_owned(),
    }
}

fn run(target: &Fake, (record, contents): &(Record, Contents)) -> Result<Report, Error> {
    let (events, cancel, options) = (Events::none(), Cancel::default(), options());
    let setting = Setting {
        target,
        options: &options,
        events: &events,
        cancel: &cancel,
    };
    Rollout::run(&setting, record.clone(), contents)
}

fn running(target: &Fake) -> String {
    let observed = target.observe().unwrap();
    let service = |(name, service): (&String, &Service)| {
        let tasks: Vec<&str> = service.tasks.iter().map(|task| task.revision.as_str()).collect();
        format!("{name}={}", tasks.join(","))
    };
    observed
        .services
        .iter()
        .map(service)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn the_first_release_and_then_nothing_to_do() {
    let target = Fake::default();
    let first = release(1, "api=a1 db=d1 web=w1", "k");
    let report = run(&target, &first).unwrap();
    assert!(report.changed);
    let done = [
        "put app_key_k",
        "roll db",
        "task version",
        "task up",
        "task version",
        "roll api",
        "roll web",
    ];
    assert_eq!(target.take_done(), done);
    assert_eq!(running(&target), "api=a1,a1 db=d1 web=w1");
    let record = target.history().unwrap().remove(0);
    assert_eq!(
        record.release.migration,
        Some(crate::release::Migration {
            before: Some(3),
            after: Some(3)
        })
    );
    let again = run(&target, &release(2, "api=a1 db=d1 web=w1", "k")).unwrap();
    assert!(!again.changed);
    assert_eq!(again.release, report.release);
    assert_eq!(target.take_done(), [""; 0]);
    assert_eq!(target.history().unwrap().len(), 1);
}

#[test]
fn a_change_sends_a_canary_and_touches_nothing_else() {
    let target = Fake::default();
    run(&target, &release(1, "api=a1 db=d1 web=w1", "k")).unwrap();
    target.take_done();
    run(&target, &release(2, "api=a2 db=d1", "k")).unwrap();
    let done = [
        "task version",
        "task up",
        "task version",
        "canary of api",
        "roll api",
        "remove web",
    ];
    assert_eq!(target.take_done(), done);
    assert_eq!(running(&target), "api=a2,a2 db=d1");
}

#[test]
fn a_failing_migration_rolls_nothing() {
    let target = Fake {
        exits: [("up".to_owned(), 1)].into(),
        ..Fake::default()
    };
    let error = run(&target, &release(1, "api=a1 db=d1", "k")).unwrap_err();
    let Error::Stands { step, reason, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (step.as_str(), reason.lines.as_slice()),
        ("migrate", &["goose: version 3".to_owned()][..])
    );
    assert_eq!(running(&target), "db=d1");
    assert_eq!(target.journal().unwrap(), None);
}

#[test]
fn a_migration_that_hangs_is_stopped() {
    let target = Fake {
        exits: [("up".to_owned(), -1)].into(),
        ..Fake::default()
    };
    let error = run(&target, &release(1, "api=a1", "k")).unwrap_err().to_string();
    assert!(error.contains("ran for longer than"), "{error}");
    assert_eq!(target.take_done().last().unwrap(), "stop task");
}

#[test]
fn a_bad_release_is_undone_by_the_same_steps() {
    for bad in ["crash/2", "sick/2", "slow/2"] {
        let target = Fake::default();
        run(&target, &release(1, "api=a1 db=d1 web=w1", "k")).unwrap();
        target.take_done();
        let error = run(&target, &release(2, &format!("api={bad} db=d1 web=w2"), "k2")).unwrap_err();
        let Error::RolledBack { step, to, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(
            (step.as_str(), to),
            ("canary of api", &release(1, "", "").0.release.id)
        );
        assert_eq!(running(&target), "api=a1,a1 db=d1 web=w1");
        let history = target.history().unwrap();
        assert!(
            history[0].outcome.succeeded()
                && matches!(
                    history[1].outcome,
                    Outcome::Failed {
                        rolled_back: true,
                        ..
                    }
                )
        );
        assert!(
            !run(&target, &release(3, "api=a1 db=d1 web=w1", "k"))
                .unwrap()
                .changed
        );
    }
}

#[test]
fn without_a_release_before_it_a_bad_one_stands() {
    let target = Fake::default();
    let error = run(&target, &release(1, "api=crash/1", "k")).unwrap_err();
    let Error::Stands { reason, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(reason.message, "api.1 failed: exited with code 1");
    assert_eq!(reason.lines, ["no database"]);
}

#[test]
fn problems_and_locks_refuse_before_anything_is_touched() {
    let target = Fake {
        problems: vec![Problem::environment("port 8000 is taken")],
        ..Fake::default()
    };
    let error = run(&target, &release(1, "api=a1", "k")).unwrap_err();
    assert!(matches!(error, Error::Problems { .. }), "{error}");
    assert_eq!(target.take_done(), [""; 0]);
    assert!(target.history().unwrap().is_empty() && target.journal().unwrap().is_none());
    target.locked.set(true);
    let error = run(&target, &release(1, "api=a1", "k")).unwrap_err();
    assert!(
        matches!(error, Error::Target(TargetError::Locked { .. })),
        "{error}"
    );
    assert_eq!(target.take_done(), [""; 0]);
}

#[test]
fn a_death_after_any_change_is_finished_by_the_next_rollout() {
    let first = release(1, "api=a1 db=d1 web=w1", "k");
    let second = release(2, "api=a2 db=d1 new=n1", "k2");
    let mut died = 0;
    for lives in 0.. {
        let target = Fake::default();
        run(&target, &first).unwrap();
        target.lives.set(Some(lives));
        match run(&target, &second) {
            Ok(_) => break,
            Err(_) => died += 1,
        }
        target.lives.set(None);
        run(&target, &second).unwrap();
        assert_eq!(
            running(&target),
            "api=a2,a2 db=d1 new=n1",
            "died after {lives} changes"
        );
        assert_eq!(target.journal().unwrap(), None);
        assert!(target.history().unwrap()[0].outcome.succeeded());
    }
    assert!(died > 7, "{died}");
}

#[test]
fn any_kept_release_can_be_brought_back_with_its_secrets() {
    let target = Fake::default();
    let releases: Vec<_> = (1..=3)
        .map(|n| release(n, &format!("api=a{n} db=d1"), &format!("k{n}")))
        .collect();
    for release in &releases {
        run(&target, release).unwrap();
    }
    // Two are kept.
    assert_eq!(target.history().unwrap().len(), 2);
    let secrets = target.observe().unwrap().secrets;
    assert_eq!(
        secrets.into_iter().collect::<Vec<_>>(),
        ["app_key_k2", "app_key_k3"]
    );
    target.take_done();
    let (events, cancel, options) = (Events::none(), Cancel::default(), options());
    let setting = Setting {
        target: &target,
        options: &options,
        events: &events,
        cancel: &cancel,
    };
    for n in [1, 2] {
        let record = target
            .history()
            .unwrap()
            .into_iter()
            .find(|record| record.release.id == releases[n].0.release.id);
        Rollout::back(&setting, record.unwrap()).unwrap();
        assert_eq!(running(&target), format!("api=a{0},a{0} db=d1", n + 1));
        assert_eq!(target.take_done(), ["canary of api", "roll api"]);
    }
}

#[test]
fn a_probe_that_fails_undoes_the_release_and_changed_probes_are_asked() {
    let mut target = Fake::default();
    run(&target, &release(1, "api=a1", "k")).unwrap();
    // Nobody answers there.
    target.endpoint = Some(Endpoint {
        base: "http://127.0.0.1:1".to_owned(),
        connect: None,
    });
    let probe = Probe {
        path: "/".to_owned(),
        status: 200,
        body: None,
        headers: BTreeMap::new(),
        count: 1,
        need: 1,
        interval: Duration::ZERO,
        timeout: Duration::from_secs(1),
        tls_days: None,
    };
    for (images, undone) in [("api=a1", false), ("api=a2", true)] {
        let (mut record, contents) = release(2, images, "k");
        record.probes = [("api".to_owned(), vec![probe.clone()])].into();
        let error = run(&target, &(record, contents)).unwrap_err();
        assert!(error.to_string().contains("probe of api /"), "{error}");
        assert_eq!(matches!(error, Error::RolledBack { .. }), undone, "{error}");
        assert_eq!(running(&target), "api=a1,a1");
    }
}

/// What came of the release number `n`, and whether it is the newest.
fn kept(target: &Fake, n: u32) -> (Outcome, bool) {
    let history = target.history().unwrap();
    let id = release(n, "", "").0.release.id;
    let at = history.iter().position(|record| record.release.id == id).unwrap();
    (history[at].outcome.clone(), at == 0)
}

#[test]
fn going_back_and_giving_that_up_leaves_a_release_as_good_as_it_was() {
    let (events, cancel) = (Events::none(), Cancel::default());
    let options = Options { keep: 9, ..options() };
    let (one, two) = (release(1, "api=a1", "k"), release(2, "api=a2", "k"));
    let mut died = 0;
    // Undone, overtaken by another rollout, or gone back to once more and then undone.
    for then in ["abort", "rollout", "again"] {
        for lives in 0.. {
            let target = Fake::default();
            let setting = Setting {
                target: &target,
                options: &options,
                events: &events,
                cancel: &cancel,
            };
            let back = |lives| {
                let id = one.0.release.id.clone();
                let mut history = target.history().unwrap().into_iter();
                let record = history.find(|record| record.release.id == id).unwrap();
                target.lives.set(lives);
                let went = Rollout::back(&setting, record);
                target.lives.set(None);
                went
            };
            Rollout::run(&setting, one.0.clone(), &one.1).unwrap();
            Rollout::run(&setting, two.0.clone(), &two.1).unwrap();
            let (ran, _) = kept(&target, 1);
            if back(Some(lives)).is_ok() {
                break;
            }
            let what = format!("{then}, died after {lives} changes");
            if target.journal().unwrap().is_none() {
                continue;
            }
            died += 1;
            let runs = match then {
                "rollout" => {
                    let three = release(3, "api=a3", "k");
                    Rollout::run(&setting, three.0, &three.1).unwrap();
                    "api=a3,a3"
                }
                "again" if back(Some(lives)).is_ok() => break,
                _ => {
                    Rollout::abort::<Error>(&setting).unwrap();
                    "api=a2,a2"
                }
            };
            assert_eq!(running(&target), runs, "{what}");
            assert_eq!(kept(&target, 1), (ran, false), "{what}");
            assert!(kept(&target, 2).0.succeeded(), "{what}");
            assert_eq!(target.journal().unwrap(), None, "{what}");
        }
    }
    assert!(died > 3, "{died}");
}

#[test]
fn a_release_that_never_ran_is_no_better_for_being_gone_back_to() {
    let (events, cancel, options) = (Events::none(), Cancel::default(), options());
    let target = Fake::default();
    let setting = Setting {
        target: &target,
        options: &options,
        events: &events,
        cancel: &cancel,
    };
    run(&target, &release(1, "api=a1", "k")).unwrap();
    run(&target, &release(2, "api=crash/2", "k")).unwrap_err();
    let id = release(2, "", "").0.release.id;
    let mut history = target.history().unwrap().into_iter();
    let failed = history.find(|record| record.release.id == id).unwrap();
    target.lives.set(Some(1));
    Rollout::back(&setting, failed).unwrap_err();
    target.lives.set(None);
    assert!(target.journal().unwrap().unwrap().rollback);
    Rollout::abort::<Error>(&setting).unwrap();
    assert_eq!(running(&target), "api=a1,a1");
    assert!(kept(&target, 2).0.failed());
}
