//! The stack files of the tests, and what docker makes of them. It compares nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use skep::stack::{self, Reading};

pub const BOTH_READ: &str = "# both read it";

pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stack")
}

/// The files by name, with their first lines.
pub fn files() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "yml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            files.insert(
                name.to_owned(),
                text.lines().next().unwrap_or_default().to_owned(),
            );
        }
    }
    files
}

pub fn variables() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(directory().join("variables.env")).unwrap();
    let pair = |line: &str| {
        line.split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

pub fn read(name: &str) -> Result<Reading, stack::Error> {
    let variables = variables();
    let path = directory().join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let lookup = |name: &str| variables.get(name).cloned();
    stack::read(&text, &path, &lookup, &|file| std::fs::read(file))
}

/// What docker makes of the files, by name.
pub fn docker<'f>(program: &str, files: impl Iterator<Item = &'f String>) -> BTreeMap<String, Value> {
    let output = Command::new(program)
        .arg(directory().join("variables.env"))
        .args(files.map(|name| directory().join(name)))
        // A name alone in an env_file is looked up there.
        .env_clear()
        .envs(variables())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answer = |line: &str| {
        let answer: Value = serde_json::from_str(line).unwrap();
        let path = Path::new(answer["file"].as_str().unwrap());
        (path.file_name().unwrap().to_str().unwrap().to_owned(), answer)
    };
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(answer)
        .collect()
}

/// Every scalar by its path.
pub fn leaves(path: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| leaves(&format!("{path}.{key}"), value, into)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                leaves(&format!("{path}[{index}]"), item, into);
            }
        }
        scalar => {
            into.insert(path.to_owned(), scalar.clone());
        }
    }
}
