//! What goes wrong with an engine, told apart as far as callers act upon it; and the engine's words cleaned.

use bollard::errors::Error as Cause;

use super::Address;

/// The most bytes of an engine's message that an error shows.
const MESSAGE_LIMIT: usize = 2000;

/// What went wrong with a request to a Swarm.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No manager answered, or the connection broke. After a write nobody knows whether it was carried out:
    /// look before it is tried again.
    #[error("no manager of the swarm can be reached: {}", listed(.reasons))]
    Unreachable {
        /// Each address that was tried, with what was wrong there.
        reasons: Vec<(Address, String)>,
    },
    /// Every engine that was asked is there, and manages no swarm.
    #[error(
        "no manager of a swarm is at {}; name managers, or run `docker swarm init` on one of them",
        listed(.reasons)
    )]
    NotAManager {
        /// Each address that was tried, with what the engine said.
        reasons: Vec<(Address, String)>,
    },
    /// What the request is about is not there. Holds the engine's words.
    #[error("not found: {0}")]
    NotFound(String),
    /// Something else has the name already. Holds the engine's words.
    #[error("in conflict with what is there: {0}")]
    Conflict(String),
    /// Somebody changed the object since the version that the request is based on: read it again.
    #[error("it has been changed by somebody else meanwhile")]
    OutOfSequence,
    /// The engine says no. Holds the engine's words.
    #[error("the engine refused: {0}")]
    Refused(String),
    /// The answer is not what an engine answers.
    #[error("the engine's answer cannot be read: {0}")]
    Garbled(String),
    /// The client cannot begin.
    #[error("the client of the Docker engine cannot start: {0}")]
    Start(#[source] std::io::Error),
    /// The run was stopped while it waited.
    #[error("stopped")]
    Cancelled,
}

fn listed(reasons: &[(Address, String)]) -> String {
    let each = reasons
        .iter()
        .map(|(address, reason)| format!("`{address}` ({reason})"));
    each.collect::<Vec<_>>().join(", ")
}

/// An answer of one manager, before it is known what the others say.
#[derive(Debug)]
pub(super) enum Trouble {
    /// This manager is of no use now, and another one, or the same one later, may be.
    Transport(String),
    /// The engine is no manager.
    NotAManager(String),
    /// The answer, which every manager would give.
    Answer(Error),
}

impl From<Cause> for Trouble {
    fn from(cause: Cause) -> Trouble {
        match cause {
            Cause::DockerResponseServerError { status_code, message } => answered(status_code, &message),
            Cause::JsonDataError { .. } | Cause::JsonSerdeError { .. } => {
                Trouble::Answer(Error::Garbled(chain(&cause)))
            }
            cause => Trouble::Transport(chain(&cause)),
        }
    }
}

/// What a manager says whose swarm cannot decide anything now.
const NO_QUORUM: [&str; 5] = [
    "does not have a leader",
    "no elected cluster leader",
    "lost leader status",
    "context deadline exceeded",
    "code = Unavailable",
];

fn answered(status: u16, text: &str) -> Trouble {
    let message = words(text);
    if status >= 500 && NO_QUORUM.iter().any(|sign| text.contains(sign)) {
        return Trouble::Transport(message);
    }
    if text.contains("not a swarm manager") || text.contains("node is not part of a swarm") {
        return Trouble::NotAManager(message);
    }
    Trouble::Answer(match status {
        _ if text.contains("update out of sequence") => Error::OutOfSequence,
        404 => Error::NotFound(message),
        409 => Error::Conflict(message),
        _ => Error::Refused(message),
    })
}

/// The engine's message without what its layers put before it, on one line, and of a bounded length.
fn words(text: &str) -> String {
    let text = match text.split_once(" desc = ") {
        Some((before, rest)) if before.starts_with("rpc error: code = ") => rest,
        _ => text,
    };
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        text.push_str("without saying why");
    }
    let end = text.floor_char_boundary(MESSAGE_LIMIT);
    if end < text.len() {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let says = error.to_string();
        if !text.contains(&says) {
            text = format!("{text}: {says}");
        }
        cause = error.source();
    }
    words(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(status_code: u16, message: &str) -> Trouble {
        Trouble::from(Cause::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        })
    }

    #[test]
    fn answers_are_told_apart() {
        let sequence = trouble(500, "rpc error: code = Unknown desc = update out of sequence");
        assert!(matches!(sequence, Trouble::Answer(Error::OutOfSequence)));
        let missing = trouble(404, "service web not found");
        assert!(matches!(missing, Trouble::Answer(Error::NotFound(_))));
        let conflict = trouble(
            409,
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object",
        );
        match conflict {
            Trouble::Answer(Error::Conflict(text)) => {
                assert_eq!(text, "name conflicts with an existing object");
            }
            other => panic!("{other:?}"),
        }
        for (status, text) in [
            (
                400,
                "rpc error: code = InvalidArgument desc = only updates to Labels are allowed",
            ),
            (500, "something broke"),
            (403, ""),
        ] {
            let refused = trouble(status, text);
            assert!(matches!(refused, Trouble::Answer(Error::Refused(_))), "{text}");
        }
    }

    #[test]
    fn a_swarm_that_decides_nothing_is_a_broken_transport() {
        for text in [
            "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too \
             few managers are online. Make sure more than half of the managers are online.",
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
            "rpc error: code = Unavailable desc = all SubConns are in TransientFailure",
        ] {
            for status in [500, 503] {
                assert!(matches!(trouble(status, text), Trouble::Transport(_)), "{text}");
            }
            assert!(!matches!(trouble(400, text), Trouble::Transport(_)), "{text}");
        }
        let worker = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" \
                      to connect this node to swarm and try again.";
        assert!(matches!(trouble(503, worker), Trouble::NotAManager(_)));
        assert!(matches!(
            Trouble::from(Cause::RequestTimeoutError),
            Trouble::Transport(_)
        ));
    }

    #[test]
    fn messages_are_one_bounded_line() {
        assert_eq!(words("a\nb\r\n  c"), "a b c");
        assert_eq!(words(""), "without saying why");
        let long = words(&"ä".repeat(5000));
        assert!(long.len() <= MESSAGE_LIMIT + '…'.len_utf8() && long.ends_with('…'));
    }

    #[test]
    fn an_error_names_every_address_with_its_reason() {
        let reasons = vec![
            ("unix:///a".parse().unwrap(), "no such file".to_owned()),
            ("ssh://b".parse().unwrap(), "connection refused".to_owned()),
        ];
        let text = Error::Unreachable { reasons }.to_string();
        assert!(text.ends_with("`unix:///a` (no such file), `ssh://b` (connection refused)"));
    }
}
