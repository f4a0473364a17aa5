//! Checks while a release rolls out to the target in memory, whose tasks print `goose: version 3`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fake::Fake;
use super::tests::{options, release};
use super::*;
use crate::cancel::Cancel;
use crate::event::{Event, Events};

fn check(at_most: Option<u64>) -> Check {
    Check {
        service: "api".to_owned(),
        command: vec!["ask".to_owned()],
        at_most,
        each_node: false,
        every: None,
        timeout: Duration::from_millis(200),
    }
}

/// Rolls out a release with `check`, and returns what the report says of it, and what was warned of.
fn rolled(target: &Fake, check: Check) -> (Vec<Checked>, Vec<String>) {
    let (mut record, contents) = release(1, "api=a1", "k");
    record.checks = [("asked".to_owned(), check)].into();
    record.migrate = None;
    let warned = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warned);
    let events = Events::new(move |event| {
        if let Event::Warning { message } = event {
            heard.lock().unwrap().push(message);
        }
    });
    let (cancel, options) = (Cancel::default(), options());
    let setting = Setting {
        target,
        options: &options,
        events: &events,
        cancel: &cancel,
    };
    let report = Rollout::run(&setting, record, &contents).unwrap();
    let warned = warned.lock().unwrap().clone();
    (report.checks, warned)
}

#[test]
fn a_number_is_held_against_its_limit() {
    for (at_most, expected) in [(3, None), (2, Some("3, and 2 are the most"))] {
        let (checked, warned) = rolled(&Fake::default(), check(Some(at_most)));
        assert_eq!((checked.len(), checked[0].highest), (1, Some(3)));
        assert_eq!(checked[0].problem.as_deref(), expected);
        let warning = expected.map(|problem| format!("check asked: {problem}"));
        assert_eq!(warned, warning.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_command_that_fails_or_hangs_stops_nothing() {
    for (code, expected) in [
        (7, "check asked: exit code 7: goose: version 3"),
        (-1, "check asked: no answer after 0 s"),
    ] {
        let target = Fake {
            exits: [("ask".to_owned(), code)].into(),
            ..Fake::default()
        };
        let (checked, warned) = rolled(&target, check(None));
        assert_eq!((checked[0].answers, warned), (1, vec![expected.to_owned()]));
        // What has ended is removed; what hangs is told to end, and nobody waits for that.
        let done = target.take_done();
        let removed = done.contains(&"stop task".to_owned());
        let told = done.contains(&"end task".to_owned());
        assert_eq!((removed, told), (code == 7, code == -1), "{done:?}");
    }
}

#[test]
fn each_node_is_asked_and_named() {
    let place = |n: usize| Place {
        id: format!("id-{n}"),
        // A cluster may have two nodes of one name.
        name: format!("node-{}", n / 2),
    };
    let target = Fake {
        places: (0..20).map(place).collect(),
        exits: [("ask".to_owned(), 1)].into(),
        ..Fake::default()
    };
    let each = Check {
        each_node: true,
        ..check(None)
    };
    let (checked, warned) = rolled(&target, each);
    assert_eq!((checked.len(), warned.len()), (20, 20));
    assert_eq!(warned[0], "check asked on node-0: exit code 1: goose: version 3");
    let done = target.take_done();
    for n in 0..20 {
        assert!(done.contains(&format!("task ask on id-{n}")), "{done:?}");
    }
}

#[test]
fn what_a_dead_rollout_left_is_removed_before_the_next_asks() {
    let target = Fake::default();
    let state = TaskState {
        exit_code: None,
        reason: None,
    };
    let left = "check-20261125000000000-1".to_owned();
    target.observed.borrow_mut().tasks.insert(left, state);
    rolled(&target, check(None));
    assert_eq!(target.take_done()[0], "stop task");
}

#[test]
fn it_is_asked_again_while_services_roll_and_warns_once() {
    let again = Check {
        every: Some(Duration::from_millis(1)),
        ..check(Some(2))
    };
    let target = Fake::default();
    let (checked, warned) = rolled(&target, again.clone());
    assert!(checked[0].answers > 1, "{checked:?}");
    assert_eq!(warned.len(), 1, "{warned:?}");
}
