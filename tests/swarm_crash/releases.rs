//! Five releases, back to the second and forward to the fifth: each is what it was the first time.

use serde_json::{Value, json};

use super::bench::Bench;
use super::engine::servers;

/// Services as the engine has them, without what skep notes and without what says how often and when; and what is
/// seen inside of the containers.
fn snapshot(bench: &Bench) -> Value {
    let mut services = bench.services();
    for service in &mut services {
        let mut spec = service["Spec"].take();
        spec["Labels"]
            .as_object_mut()
            .unwrap()
            .retain(|label, _| !label.starts_with("skep."));
        spec["TaskTemplate"]
            .as_object_mut()
            .unwrap()
            .remove("ForceUpdate");
        *service = spec;
    }
    json!({ "services": services, "answers": bench.answers() })
}

#[test]
fn five_releases_back_to_the_second_and_forward_to_the_fifth() {
    let Some(servers) = servers() else { return };
    let bench = Bench::new(servers, "c-five");
    let mut seen = Vec::new();
    for version in 1..=5 {
        let runs = bench.rollout(version);
        let snapshot = snapshot(&bench);
        let answers = snapshot["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 2, "{answers:?}");
        for answer in answers {
            assert_eq!(*answer, bench.answer(version));
        }
        seen.push((runs, snapshot));
    }
    // Where the secrets' content is has nothing to do with what runs.
    bench.wants(9);
    for wanted in [1, 4] {
        let (runs, before) = &seen[wanted];
        bench.succeed(&["rollback", "prod", &runs.release]);
        assert_eq!(&bench.one_release(), runs);
        assert_eq!(&snapshot(&bench), before);
    }
    assert_ne!(seen[1].1["services"], seen[4].1["services"]);
}
