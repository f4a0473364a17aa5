//! Actions and their results: what is run, under which name, and what came of it.
//!
//! An action is a REAPI v2 `Action` with its `Command` and input root. The digest of its encoding is its
//! key in the local cache, a remote cache and remote execution alike. Nothing about the machine enters:
//!
//! | part of the key            | where it is encoded                                     |
//! |----------------------------|---------------------------------------------------------|
//! | argv                       | `Command.arguments`                                     |
//! | environment, all of it     | `Command.environment_variables`, sorted                 |
//! | working directory          | `Command.working_directory`                             |
//! | output directories         | `Command.output_paths`, sorted                          |
//! | writable paths             | `Platform` property `writable`, one per path            |
//! | secrets, by fingerprint    | `Platform` property `secret`, `<path>=<fingerprint>`    |
//! | limits                     | `Platform` properties `max_log`, `max_output`, `max_processes`; `Action.timeout` |
//! | limits that are declared   | `Platform` properties `disk`, `max_entries`, `memory`   |
//! | what the sandbox looks like| `Platform` property `sandbox_abi`                       |
//! | every input                | `Action.input_root_digest`                              |
//!
//! Not in the key: labels, the host, where sources are fetched from, the number of jobs.
//! A builtin is an action whose `argv[0]` is `skep:<name>/<format version>`; it has no sandbox properties.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::build::bazel::remote::execution::v2::platform::Property;
use bazel_remote_apis::google::protobuf;
use prost::Message as _;

use crate::digest::{Digest, Fingerprint, ParseDigestError};
use crate::tree::{PathError, TreePath};

/// Bumped when what an action sees in the sandbox changes: the environment, `/dev`, `/proc`, the uid.
pub const SANDBOX_ABI: u32 = 2;

/// What bounds one run. Reaching a bound fails the action.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Wall-clock time.
    pub timeout: Duration,
    /// Bytes of captured stdout and stderr together.
    pub max_log: u64,
    /// Bytes of all outputs together; also the size of any one file that the action writes.
    pub max_output: u64,
    /// Processes and threads at one time.
    pub max_processes: u64,
    /// Bytes of memory of all processes together, and of what stands in `/tmp`. `None` follows the machine, of
    /// which nothing is in a key.
    pub memory: Option<u64>,
    /// Bytes of disk that outputs and writable directories take while it runs. `None` follows the machine.
    pub disk: Option<u64>,
    /// Files, directories and links below outputs and writable directories; as many may be in `/tmp`.
    pub max_entries: u64,
}

/// What [`Limits::max_entries`] is by default, and then in no key.
const MAX_ENTRIES: u64 = 1_000_000;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            timeout: Duration::from_secs(30 * 60),
            max_log: 16 << 20,
            max_output: 8 << 30,
            max_processes: 4096,
            memory: None,
            disk: None,
            max_entries: MAX_ENTRIES,
        }
    }
}

/// What is executed. All paths are from the root of the file system that the action sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; the program is an absolute path, or `skep:<name>/<version>` for a builtin.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: TreePath,
    /// Directories that are empty and writable when the action starts, and are kept when it succeeds.
    pub outputs: BTreeSet<TreePath>,
    /// Directories of the inputs over which the action may write; the changes are thrown away.
    pub writable: BTreeSet<TreePath>,
    /// Secret files by path; only their fingerprints are part of the key.
    pub secrets: BTreeMap<TreePath, Fingerprint>,
    /// Bounds on the run.
    pub limits: Limits,
}

/// A command on its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What is executed.
    pub command: Command,
    /// The root of the tree of all inputs, mounted at `/`.
    pub input_root: Digest,
}

impl Action {
    /// A builtin: `argv` says all that matters besides the input tree.
    pub fn builtin(argv: Vec<String>, input_root: Digest) -> Action {
        Action {
            command: Command {
                argv,
                env: BTreeMap::new(),
                cwd: TreePath::root(),
                outputs: BTreeSet::new(),
                writable: BTreeSet::new(),
                secrets: BTreeMap::new(),
                limits: Limits::default(),
            },
            input_root,
        }
    }

    /// The builtin's `<name>/<version>`, or `None` for an action that runs in a sandbox.
    pub fn builtin_name(&self) -> Option<&str> {
        self.command.argv.first()?.strip_prefix("skep:")
    }

    /// The REAPI messages, encoded: the `Command`, and the `Action` that names it. The platform stands in
    /// both, because executors before REAPI 2.2 read it from the command.
    #[expect(deprecated, reason = "older executors read `Command.platform`")]
    pub fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let command = &self.command;
        let sandboxed = self.builtin_name().is_none();
        let platform = sandboxed.then(|| reapi::Platform {
            properties: self.properties(),
        });
        let command_bytes = reapi::Command {
            arguments: command.argv.clone(),
            environment_variables: command
                .env
                .iter()
                .map(|(name, value)| reapi::command::EnvironmentVariable {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
            output_paths: command.outputs.iter().map(TreePath::to_string).collect(),
            working_directory: command.cwd.to_string(),
            platform: platform.clone(),
            ..Default::default()
        }
        .encode_to_vec();
        let action_bytes = reapi::Action {
            command_digest: Some(Digest::of(&command_bytes).to_proto()),
            input_root_digest: Some(self.input_root.to_proto()),
            timeout: sandboxed.then_some(protobuf::Duration {
                seconds: command.limits.timeout.as_secs() as i64,
                nanos: 0,
            }),
            platform,
            ..Default::default()
        }
        .encode_to_vec();
        (command_bytes, action_bytes)
    }

    /// The digest of the encoded action.
    pub fn key(&self) -> Digest {
        Digest::of(&self.encode().1)
    }

    fn properties(&self) -> Vec<Property> {
        let command = &self.command;
        let mut properties = vec![
            ("max_log", command.limits.max_log.to_string()),
            ("max_output", command.limits.max_output.to_string()),
            ("max_processes", command.limits.max_processes.to_string()),
            ("sandbox_abi", SANDBOX_ABI.to_string()),
        ];
        let limits = &command.limits;
        let entries = Some(limits.max_entries).filter(|entries| *entries != MAX_ENTRIES);
        for (name, declared) in [
            ("disk", limits.disk),
            ("max_entries", entries),
            ("memory", limits.memory),
        ] {
            properties.extend(declared.map(|value| (name, value.to_string())));
        }
        let secrets = command.secrets.iter();
        properties.extend(secrets.map(|(path, fingerprint)| ("secret", format!("{path}={fingerprint}"))));
        let writable = command.writable.iter();
        properties.extend(writable.map(|path| ("writable", path.to_string())));
        properties.sort();
        properties
            .into_iter()
            .map(|(name, value)| Property {
                name: name.to_owned(),
                value,
            })
            .collect()
    }
}

/// What a run left behind. Only successful runs are cached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ActionResult {
    /// The exit code; 0 is success.
    pub exit_code: i32,
    /// The root of each output directory, by its path in the sandbox. A builtin has one, at the root.
    pub outputs: BTreeMap<TreePath, Digest>,
    /// The metadata that travels beside the outputs, by the paths of the outputs merged.
    pub metadata: Option<Digest>,
    /// Everything written to stdout and stderr, in order; `None` if nothing was.
    pub log: Option<Digest>,
    /// How long it ran.
    pub wall: Duration,
}

/// Why bytes are not an action result.
#[derive(Debug, thiserror::Error)]
#[error("malformed action result: {0}")]
pub enum DecodeError {
    /// Not a protobuf message.
    Proto(#[from] prost::DecodeError),
    /// A digest is missing or malformed.
    Digest(#[from] ParseDigestError),
    /// An output path that no tree may hold.
    Path(#[from] PathError),
}

const METADATA: &str = "metadata";

impl ActionResult {
    /// The REAPI `ActionResult`: outputs as `output_directories` with a root directory digest (v2.3), the
    /// metadata as the output file `metadata`, the log as `stdout_digest`.
    pub fn encode(&self) -> Vec<u8> {
        reapi::ActionResult {
            exit_code: self.exit_code,
            output_directories: self
                .outputs
                .iter()
                .map(|(path, root)| reapi::OutputDirectory {
                    path: path.to_string(),
                    root_directory_digest: Some(root.to_proto()),
                    ..Default::default()
                })
                .collect(),
            output_files: self
                .metadata
                .iter()
                .map(|digest| reapi::OutputFile {
                    path: METADATA.to_owned(),
                    digest: Some(digest.to_proto()),
                    ..Default::default()
                })
                .collect(),
            stdout_digest: self.log.map(|digest| digest.to_proto()),
            execution_metadata: Some(reapi::ExecutedActionMetadata {
                virtual_execution_duration: Some(protobuf::Duration {
                    seconds: self.wall.as_secs() as i64,
                    nanos: self.wall.subsec_nanos() as i32,
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec()
    }

    /// Reads [`ActionResult::encode`]'s form.
    pub fn decode(bytes: &[u8]) -> Result<ActionResult, DecodeError> {
        let proto = reapi::ActionResult::decode(bytes)?;
        let mut outputs = BTreeMap::new();
        for output in proto.output_directories {
            let root = Digest::from_proto(&output.root_directory_digest.unwrap_or_default())?;
            outputs.insert(output.path.parse()?, root);
        }
        let metadata = proto.output_files.iter().find(|file| file.path == METADATA);
        let metadata = metadata.and_then(|file| file.digest.as_ref());
        let wall = proto
            .execution_metadata
            .unwrap_or_default()
            .virtual_execution_duration;
        Ok(ActionResult {
            exit_code: proto.exit_code,
            outputs,
            metadata: metadata.map(Digest::from_proto).transpose()?,
            log: proto.stdout_digest.as_ref().map(Digest::from_proto).transpose()?,
            wall: wall.map(duration).unwrap_or_default(),
        })
    }
}

/// A protobuf duration; a malformed one, which only a foreign writer can make, counts as zero.
fn duration(proto: protobuf::Duration) -> Duration {
    match (u64::try_from(proto.seconds), u32::try_from(proto.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Duration::new(seconds, nanos),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action() -> Action {
        let mut action = Action::builtin(vec!["/bin/tool".into(), "x".into()], Digest::of(b""));
        action.command.env.insert("LANG".into(), "C.UTF-8".into());
        action.command.outputs.insert("out".parse().unwrap());
        action
    }

    /// Assembled by hand from the wire format of the REAPI messages.
    #[test]
    fn a_builtin_encodes_as_the_reapi_messages() {
        let action = Action::builtin(vec!["skep:a/1".into(), "b".into()], Digest::of(b""));
        let (command, encoded) = action.encode();
        assert_eq!(command, b"\x0a\x08skep:a/1\x0a\x01b");
        let hex = |digest: Digest| digest.hex().into_bytes();
        let mut expected = vec![0x0a, 0x44, 0x0a, 0x40];
        expected.extend(hex(Digest::of(&command)));
        expected.extend([0x10, 13, 0x12, 0x42, 0x0a, 0x40]);
        expected.extend(hex(Digest::of(b"")));
        assert_eq!(encoded, expected);
        assert_eq!(action.key(), Digest::of(&expected));
    }

    #[test]
    fn the_key_of_a_sandboxed_action_is_stable() {
        insta::assert_snapshot!(action().key(), @"ddd07eb0ed236963e4b51f7e08370c6d0a533ae2f0632de33c42fd87783ec9ff/233");
    }

    #[test]
    fn each_part_changes_the_key() {
        let path = || "p".parse::<TreePath>().unwrap();
        let changes: [fn(&mut Action, TreePath); 12] = [
            |a, _| a.command.argv.push("y".into()),
            |a, _| a.command.env.extend([("A".into(), "1".into())]),
            |a, p| a.command.cwd = p,
            |a, p| assert!(a.command.outputs.insert(p)),
            |a, p| assert!(a.command.writable.insert(p)),
            |a, p| a.command.secrets.extend([(p, Fingerprint::of("t", b"s"))]),
            |a, _| a.command.limits.max_output += 1,
            |a, _| a.command.limits.memory = Some(1 << 30),
            |a, _| a.command.limits.disk = Some(1 << 30),
            |a, _| a.command.limits.max_entries += 1,
            |a, _| a.command.limits.timeout += Duration::from_secs(1),
            |a, _| a.input_root = Digest::of(b"x"),
        ];
        let mut keys = BTreeSet::from([action().key()]);
        for change in changes {
            let mut action = action();
            change(&mut action, path());
            assert!(keys.insert(action.key()), "{action:?}");
        }
    }

    #[test]
    fn results_round_trip() {
        let result = ActionResult {
            exit_code: 0,
            outputs: BTreeMap::from([("out".parse().unwrap(), Digest::of(b"tree"))]),
            metadata: Some(Digest::of(b"{}")),
            log: Some(Digest::of(b"log")),
            wall: Duration::from_millis(1500),
        };
        assert_eq!(ActionResult::decode(&result.encode()).unwrap(), result);
        assert!(ActionResult::decode(b"\xff").is_err());
    }
}
