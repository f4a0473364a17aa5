//! What skep keeps on a Swarm: one config whose labels hold the lock, the journal and whether all is frozen, and one
//! config for each release. Updates carry the version that they are based on, so that of two writers one notices.
//!
//! The configs have no label of the stack, so that `docker stack rm` leaves the history.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{Config, ConfigSpec};
use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use std::io::{Read as _, Write as _};

use super::{ATTEMPTS, error};
use crate::docker::{self, Engine};
use crate::release::{Migration, ReleaseId};
use crate::rollout::history::{Outcome, Record};
use crate::rollout::probe::Probed;
use crate::rollout::target::Error;

/// On everything of ours: the stack.
const STACK: &str = "skep.stack";
/// On a release's config: what changes of its record.
const RECORD: &str = "skep.record";
/// The most bytes of a record.
const MAX_RECORD: u64 = 8 << 20;
/// What an older engine takes of a config, in bytes.
const MAX_CONFIG: usize = 500_000;

/// Labels of the config that holds a stack's state.
pub(super) type Labels = BTreeMap<String, String>;

/// The state of a stack as it was read.
pub(super) struct State {
    id: String,
    /// What the next change is based on.
    pub version: u64,
    pub labels: Labels,
}

/// The part of a record that changes.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutable {
    began: DateTime<Utc>,
    outcome: Outcome,
    migration: Option<Migration>,
    #[serde(default)]
    probed: Vec<Probed>,
}

fn state_name(stack: &str) -> String {
    format!("{stack}.skep")
}

fn record_name(stack: &str, id: &ReleaseId) -> String {
    format!("{stack}.skep.{id}")
}

/// The state, if there is any.
pub(super) fn read(engine: &Engine, stack: &str) -> Result<Option<State>, Error> {
    let config = engine.config(&state_name(stack)).map_err(error)?;
    Ok(config.map(|config| State {
        version: version(&config),
        id: config.id.unwrap_or_default(),
        labels: config
            .spec
            .and_then(|spec| spec.labels)
            .unwrap_or_default()
            .into_iter()
            .collect(),
    }))
}

fn version(config: &Config) -> u64 {
    config
        .version
        .as_ref()
        .and_then(|version| version.index)
        .unwrap_or_default()
}

/// Changes the labels of the state, which is made if there is none. `edit` sees what is there, and may refuse; it is
/// asked again if somebody else was faster.
pub(super) fn change(
    engine: &Engine,
    stack: &str,
    edit: &mut dyn FnMut(&mut Labels) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut attempt = 1;
    loop {
        let done = match read(engine, stack)? {
            Some(state) => {
                let mut labels = state.labels.clone();
                edit(&mut labels)?;
                if labels == state.labels {
                    return Ok(());
                }
                let labels = labels.into_iter().collect();
                engine.update_config(&state.id, state.version, spec(&state_name(stack), labels, None))
            }
            None => {
                let mut labels = Labels::from([(STACK.to_owned(), stack.to_owned())]);
                edit(&mut labels)?;
                let labels = labels.into_iter().collect();
                let note = b"What skep knows of this stack is in the labels.\n";
                engine
                    .create_config(spec(&state_name(stack), labels, Some(note)))
                    .map(drop)
            }
        };
        match done {
            Ok(()) => return Ok(()),
            Err(
                docker::Error::OutOfSequence
                | docker::Error::Conflict(_)
                | docker::Error::NotFound(_)
                | docker::Error::Unreachable { .. },
            ) if attempt < ATTEMPTS => attempt += 1,
            Err(other) => return Err(error(other)),
        }
    }
}

fn spec(name: &str, labels: HashMap<String, String>, content: Option<&[u8]>) -> ConfigSpec {
    ConfigSpec {
        name: Some(name.to_owned()),
        labels: Some(labels),
        data: content.map(docker::data),
        templating: None,
    }
}

/// Every release that is kept, the one first whose rollout began last.
pub(super) fn history(engine: &Engine, stack: &str) -> Result<Vec<Record>, Error> {
    let label = format!("{STACK}={stack}");
    let mut records = Vec::new();
    for config in engine.configs(&[("label", &label)]).map_err(error)? {
        let name = config
            .spec
            .as_ref()
            .and_then(|spec| spec.name.clone())
            .unwrap_or_default();
        let Some(id) = name.strip_prefix(&format!("{stack}.skep.")) else {
            continue;
        };
        let damaged =
            |why: String| Error::Environment(format!("the record of release {id} is damaged: {why}"));
        let content = docker::config_content(&config).map_err(|error| damaged(error.to_string()))?;
        let mut json = Vec::new();
        ZlibDecoder::new(&content[..])
            .take(MAX_RECORD)
            .read_to_end(&mut json)
            .map_err(|error| damaged(error.to_string()))?;
        let mut record: Record = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        let labels = config.spec.and_then(|spec| spec.labels).unwrap_or_default();
        let mutable = labels.get(RECORD).map(String::as_str).unwrap_or_default();
        let mutable: Mutable = serde_json::from_str(mutable).map_err(|error| damaged(error.to_string()))?;
        record.began = mutable.began;
        record.outcome = mutable.outcome;
        record.release.migration = mutable.migration;
        record.probed = mutable.probed;
        records.push(record);
    }
    records.sort_by_key(|record| std::cmp::Reverse(record.began));
    Ok(records)
}

/// Adds or replaces a record.
pub(super) fn record(engine: &Engine, stack: &str, record: &Record) -> Result<(), Error> {
    let name = record_name(stack, &record.release.id);
    let mutable = Mutable {
        began: record.began,
        outcome: record.outcome.clone(),
        migration: record.release.migration,
        probed: record.probed.clone(),
    };
    let labels = HashMap::from([
        (STACK.to_owned(), stack.to_owned()),
        (RECORD.to_owned(), json(&mutable)),
    ]);
    let content = packed(record)?;
    let mut attempt = 1;
    loop {
        let done = match engine.config(&name).map_err(error)? {
            None => engine
                .create_config(spec(&name, labels.clone(), Some(&content)))
                .map(drop),
            Some(there) => {
                let same = docker::config_content(&there).is_ok_and(|held| held == content);
                let version = version(&there);
                let id = there.id.unwrap_or_default();
                match same {
                    true => engine.update_config(&id, version, spec(&name, labels.clone(), None)),
                    // Content never changes: another one takes its place.
                    false => {
                        engine.remove_config(&id).map_err(error)?;
                        engine
                            .create_config(spec(&name, labels.clone(), Some(&content)))
                            .map(drop)
                    }
                }
            }
        };
        match done {
            Ok(()) => return Ok(()),
            Err(
                docker::Error::OutOfSequence | docker::Error::Conflict(_) | docker::Error::Unreachable { .. },
            ) if attempt < ATTEMPTS => attempt += 1,
            Err(other) => return Err(error(other)),
        }
    }
}

/// The part of a record that does not change, compressed.
fn packed(record: &Record) -> Result<Vec<u8>, Error> {
    let mut fixed = record.clone();
    fixed.began = fixed.release.at;
    fixed.outcome = Outcome::Pending;
    fixed.release.migration = None;
    fixed.probed = Vec::new();
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    let written = packed
        .write_all(json(&fixed).as_bytes())
        .and_then(|()| packed.finish());
    let packed = written.map_err(|error| Error::Environment(format!("cannot pack a record: {error}")))?;
    match packed.len() <= MAX_CONFIG {
        true => Ok(packed),
        false => Err(Error::Refused(format!(
            "the stack file is too large to be remembered: {} bytes packed, of at most {MAX_CONFIG}",
            packed.len()
        ))),
    }
}

/// Forgets a release.
pub(super) fn forget(engine: &Engine, stack: &str, id: &ReleaseId) -> Result<(), Error> {
    match engine.config(&record_name(stack, id)).map_err(error)? {
        Some(config) => engine
            .remove_config(&config.id.unwrap_or_default())
            .map_err(error),
        None => Ok(()),
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data encodes")
}
