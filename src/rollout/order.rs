//! Which steps a rollout takes, and in which order: objects, what the migration needs, the migration, canaries, the
//! rest, what goes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::target::{Kind, Observed, Spec, Step};
use crate::release::Version;

/// Steps that are taken at the same time, and watched together.
pub(super) type Stage = Vec<Step>;

/// What decides the order.
pub(super) struct Inputs<'a> {
    /// What each service is to be given.
    pub specs: &'a BTreeMap<String, Spec>,
    /// What is there.
    pub observed: &'a Observed,
    /// Objects that the release names and the target lacks.
    pub lacking: &'a [(Kind, Version)],
    /// Networks that the target lacks.
    pub networks: &'a [String],
    /// The service that migrates and the attempt's name, if there is something to migrate.
    pub migrate: Option<(&'a str, &'a str)>,
}

/// The stages that end with the target being the release. Without a change there are none.
///
/// Services that the migration's own service needs, such as a database that the same stack runs, come before it.
pub(super) fn stages(inputs: &Inputs<'_>) -> Vec<Stage> {
    let mut stages = Vec::new();
    let puts = inputs.lacking.iter().cloned();
    let puts = puts.map(|(kind, version)| Step::Put { kind, version });
    let networks = inputs.networks.iter().cloned().map(|name| Step::Network { name });
    stages.push(puts.chain(networks).collect());
    let changed: BTreeSet<&str> = inputs
        .specs
        .keys()
        .map(String::as_str)
        .filter(|name| inputs.differs(name))
        .collect();
    let mut first = BTreeSet::new();
    if let Some((service, _)) = inputs.migrate {
        inputs.add_needs(service, &mut first);
        first.remove(service);
    }
    let (before, after): (BTreeSet<&str>, BTreeSet<&str>) =
        changed.iter().partition(|name| first.contains(*name));
    stages.extend(inputs.rolls(&before));
    if let Some((_, task)) = inputs.migrate {
        stages.push(vec![Step::Migrate {
            task: task.to_owned(),
        }]);
    }
    let canaries = after.iter().filter(|name| inputs.has_canary(name));
    stages.push(
        canaries
            .map(|name| Step::Canary {
                service: (*name).to_owned(),
            })
            .collect(),
    );
    stages.extend(inputs.rolls(&after));
    let settles = changed.iter().filter(|name| inputs.specs[**name].settles);
    stages.push(
        settles
            .map(|name| Step::Settle {
                service: (*name).to_owned(),
            })
            .collect(),
    );
    let gone = inputs
        .observed
        .services
        .keys()
        .filter(|name| !inputs.specs.contains_key(*name));
    stages.push(
        gone.map(|name| Step::Remove {
            service: name.clone(),
        })
        .collect(),
    );
    stages.retain(|stage| !stage.is_empty());
    stages
}

impl<'a> Inputs<'a> {
    /// Whether a service is not there as the release wants it.
    fn differs(&self, name: &str) -> bool {
        let service = self.observed.services.get(name);
        service.is_none_or(|service| !service.is(&self.specs[name]))
    }

    /// Whether one replica can be tried before the others: there are others, and they run something else.
    fn has_canary(&self, name: &str) -> bool {
        let spec = &self.specs[name];
        let others = self.observed.services.get(name).map_or(0, |service| {
            service
                .tasks
                .iter()
                .filter(|task| task.revision != spec.task)
                .count()
        });
        spec.replicas > 1 && others > 0
    }

    /// Whether something of a service runs that the new must not meet.
    fn must_stop(&self, name: &str) -> bool {
        let spec = &self.specs[name];
        let service = self.observed.services.get(name);
        let others = service.is_some_and(|service| {
            let mut tasks = service.tasks.iter();
            service.task != spec.task || tasks.any(|task| task.revision != spec.task)
        });
        spec.exclusive && others
    }

    fn add_needs(&self, name: &str, to: &mut BTreeSet<&'a str>) {
        for needed in self.specs.get(name).into_iter().flat_map(|spec| &spec.needs) {
            if to.insert(needed) {
                self.add_needs(needed, to);
            }
        }
    }

    /// Each service after what it needs, as many at a time as possible.
    fn rolls(&self, names: &BTreeSet<&str>) -> Vec<Stage> {
        let mut left = names.clone();
        let mut stages = Vec::new();
        while !left.is_empty() {
            let ready: BTreeSet<&str> = left
                .iter()
                .filter(|name| {
                    let mut needs = BTreeSet::new();
                    self.add_needs(name, &mut needs);
                    needs
                        .iter()
                        .all(|needed| needed == *name || !left.contains(needed))
                })
                .copied()
                .collect();
            // Needs that go in a circle have no order.
            let ready = if ready.is_empty() { left.clone() } else { ready };
            left.retain(|name| !ready.contains(name));
            let stops = ready.iter().filter(|name| self.must_stop(name));
            let stop = |name: &&str| Step::Stop {
                service: (*name).to_owned(),
            };
            stages.push(stops.map(stop).collect());
            stages.push(
                ready
                    .iter()
                    .map(|name| Step::Roll {
                        service: (*name).to_owned(),
                    })
                    .collect(),
            );
        }
        stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::target::{Replica, Service, State};

    /// `api=2x3` is a service `api` with revision 2 and 3 replicas.
    fn parse(text: &str) -> Vec<(String, String, u32)> {
        let one = |word: &str| {
            let (name, rest) = word.split_once('=').unwrap();
            let (revision, replicas) = rest.split_once('x').unwrap();
            let replicas = replicas.trim_end_matches('?');
            (name.to_owned(), revision.to_owned(), replicas.parse().unwrap())
        };
        text.split_whitespace().map(one).collect()
    }

    /// `there`: what is on the target, with a `?` at its end what is not ready; `wanted`: what should be; `needs`: `api:db,redis`.
    fn check(there: &str, wanted: &str, needs: &str, migrate: Option<&str>, expected: &str) {
        let state = |name: &str| {
            let mut words = there.split_whitespace();
            match words.any(|word| word.starts_with(name) && word.ends_with('?')) {
                true => State::Starting,
                false => State::Ready,
            }
        };
        let task = |name: &str, revision: &str, slot: u32| Replica {
            name: format!("{name}.{slot}"),
            id: None,
            revision: revision.to_owned(),
            image: String::new(),
            state: state(name),
            restarts: 0,
            reason: None,
            lines: Vec::new(),
        };
        let service = |(name, revision, replicas): (String, String, u32)| {
            let tasks = (1..=replicas).map(|slot| task(&name, &revision, slot)).collect();
            let task = revision.clone();
            (
                name,
                Service {
                    revision,
                    task,
                    replicas,
                    tasks,
                    ..Service::default()
                },
            )
        };
        let observed = Observed {
            services: parse(there).into_iter().map(service).collect(),
            ..Observed::default()
        };
        let needs = needs.split_whitespace().map(|word| {
            let (name, needs) = word.split_once(':').unwrap();
            (name.to_owned(), needs.split(',').map(str::to_owned).collect())
        });
        let needs: BTreeMap<String, BTreeSet<String>> = needs.collect();
        let spec = |(name, revision, replicas): (String, String, u32)| {
            let needs = needs.get(&name).cloned().unwrap_or_default();
            let spec = Spec {
                task: revision.clone(),
                revision,
                replicas,
                needs,
                // So that each way is seen: names say it.
                exclusive: name.starts_with("single"),
                settles: name.ends_with('!'),
                ..Spec::default()
            };
            (name, spec)
        };
        let stages = stages(&Inputs {
            specs: &parse(wanted).into_iter().map(spec).collect(),
            observed: &observed,
            lacking: &[],
            networks: &[],
            migrate: migrate.map(|service| (service, "migrate-1")),
        });
        let shown: Vec<String> = stages
            .iter()
            .map(|stage| stage.iter().map(Step::to_string).collect::<Vec<_>>().join(" + "))
            .collect();
        assert_eq!(shown.join(", "), expected);
    }

    #[test]
    fn what_is_there_takes_no_step() {
        check("api=1x2 worker=1x1", "api=1x2 worker=1x1", "", None, "");
    }

    #[test]
    fn the_migration_comes_after_what_it_needs_and_before_the_rest() {
        check(
            "",
            "api=1x2 worker=1x1 db=1x1 redis=1x1 admin=1x1",
            "api:db,redis worker:db admin:api",
            Some("api"),
            "roll db + roll redis, migrate, roll api + roll worker, roll admin",
        );
    }

    #[test]
    fn what_is_not_ready_is_waited_for_before_the_migration_that_needs_it() {
        check(
            "api=1x1 db=1x1?",
            "api=1x1 db=1x1",
            "api:db",
            Some("api"),
            "roll db, migrate",
        );
    }

    #[test]
    fn several_replicas_send_one_ahead() {
        check(
            "api=1x3 worker=1x1 db=1x1",
            "api=2x3 worker=2x1 db=1x1",
            "api:db",
            Some("api"),
            "migrate, canary of api, roll api + roll worker",
        );
    }

    #[test]
    fn a_change_of_number_has_no_canary_and_what_is_unknown_goes_last() {
        check("api=1x3 old=1x1", "api=1x2", "", None, "roll api, remove old");
    }

    #[test]
    fn what_must_not_meet_itself_stops_before_it_rolls() {
        check(
            "single=1x1 api=1x1",
            "single=2x1 api=2x1",
            "",
            None,
            "stop single, roll api + roll single",
        );
        check("single=1x1", "single=1x1", "", None, "");
    }

    #[test]
    fn the_own_way_of_updating_comes_back_at_the_end() {
        check(
            "a!=1x1 b=1x1",
            "a!=2x1 b=2x1",
            "",
            None,
            "roll a! + roll b, settle a!",
        );
    }

    #[test]
    fn a_circle_of_needs_rolls_at_once() {
        check("", "a=1x1 b=1x1", "a:b b:a", None, "roll a + roll b");
    }
}
