//! What became of each action the last time, for `skep log`. Lost at no cost: the next build writes it anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::Setting;
use crate::digest::Digest;
use crate::engine::Failure;
use crate::event::{Event, Events};
use crate::store::{self, Store};

/// The kind of note that it is kept in.
const NOTE: &str = "actions";

/// One action, as it last ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Recorded {
    /// Its label.
    #[serde(skip)]
    pub label: String,
    /// Its key.
    pub key: Digest,
    /// What it printed, if it failed; a result in the store has its own log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedRun>,
}

/// How an action failed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FailedRun {
    /// What happened.
    pub message: String,
    /// What it printed.
    pub log: Option<Digest>,
}

type Actions = BTreeMap<String, Recorded>;

/// Listens to a build.
pub(super) struct Record<'a> {
    setting: &'a Setting,
    keys: Arc<Mutex<BTreeMap<String, Digest>>>,
}

impl Record<'_> {
    pub(super) fn new(setting: &Setting) -> Record<'_> {
        Record {
            setting,
            keys: Arc::default(),
        }
    }

    /// Events that are taken note of on their way to `events`.
    pub(super) fn listen(&self, events: &Events) -> Events {
        let (keys, events) = (Arc::clone(&self.keys), events.clone());
        Events::new(move |event| {
            if let Event::Finished {
                label,
                key: Some(key),
                ..
            } = &event
            {
                keys.lock().expect("never poisoned").insert(label.clone(), *key);
            }
            events.emit(event);
        })
    }

    /// Adds what was learned to what was known.
    pub(super) fn save(&self, failures: &[Failure]) -> Result<(), store::Error> {
        let project = &self.setting.project.root;
        let mut actions = load(&self.setting.store, project)?;
        let before = actions.clone();
        for (label, key) in self.keys.lock().expect("never poisoned").iter() {
            let failure = failures.iter().find(|failure| failure.key == Some(*key));
            let recorded = Recorded {
                label: String::new(),
                key: *key,
                failed: failure.map(|failure| FailedRun {
                    message: failure.message.clone(),
                    log: failure.log,
                }),
            };
            actions.insert(label.clone(), recorded);
        }
        if actions == before {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&actions).expect("plain data encodes");
        self.setting.store.set_note(NOTE, project, &bytes)
    }
}

fn load(store: &Store, project: &Path) -> Result<Actions, store::Error> {
    let bytes = store.note(NOTE, project).unwrap_or_default();
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// The actions whose label is `name`, or whose key begins with it; at least 6 hexadecimal digits do.
pub fn find_recorded(store: &Store, project: &Path, name: &str) -> Result<Vec<Recorded>, store::Error> {
    let is_prefix = name.len() >= 6 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let found = load(store, project)?.into_iter().filter(|(label, recorded)| {
        label == name || (is_prefix && recorded.key.hex().starts_with(&name.to_ascii_lowercase()))
    });
    Ok(found
        .map(|(label, recorded)| Recorded { label, ..recorded })
        .collect())
}
