//! Log lines of services and tasks, as they come.

use bollard::container::LogOutput;
use bollard::errors::Error as Cause;
use bollard::query_parameters::LogsOptions;
use futures_util::StreamExt as _;

use crate::cancel::Cancel;

use super::error::Trouble;
use super::services::part;
use super::{Engine, Error};

/// The most bytes of a line that are passed on.
const LINE_LIMIT: usize = 64 << 10;

/// Which log lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// That many of the last lines of each task; all without it.
    pub tail: Option<u64>,
    /// Whether to wait for more lines, until the run is stopped or the tasks have ended.
    pub follow: bool,
    /// Lines from this time on, in seconds since 1970.
    pub since: Option<i64>,
    /// Whether lines say when they were written.
    pub timestamps: bool,
}

/// Where a task wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Out,
    /// Standard error.
    Err,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Where it was written.
    pub stream: Stream,
    /// The id of the task that wrote it, where the engine says so.
    pub task: Option<String>,
    /// The id of the node that the task runs on, where the engine says so.
    pub node: Option<String>,
    /// When it was written, in RFC 3339 with nanoseconds, if that was asked for.
    pub time: Option<String>,
    /// The line without its end, cut at 64 KiB; what is no UTF-8 is replaced.
    pub line: String,
}

/// Requests for logs.
impl Engine {
    /// Hands each line of a service's tasks to `each`. Lines of several tasks come in any order.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Cancelled`] once `cancel` is raised; [`Error::Unreachable`] if the connection
    /// breaks: the lines until then have been handed over, and nothing is tried again.
    pub fn service_logs(
        &self,
        id: &str,
        options: &LogOptions,
        cancel: &Cancel,
        each: &mut dyn FnMut(LogLine),
    ) -> Result<(), Error> {
        let link = self.link();
        let lines = link.docker.service_logs(part(id)?, Some(options.query()));
        self.hand_over(&link, lines, options, cancel, each)
    }

    /// The same for one task.
    ///
    /// # Errors
    ///
    /// As [`Engine::service_logs`].
    pub fn task_logs(
        &self,
        id: &str,
        options: &LogOptions,
        cancel: &Cancel,
        each: &mut dyn FnMut(LogLine),
    ) -> Result<(), Error> {
        let link = self.link();
        let lines = link.docker.task_logs(part(id)?, Some(options.query()));
        self.hand_over(&link, lines, options, cancel, each)
    }

    fn hand_over(
        &self,
        link: &super::Link,
        lines: impl futures_util::Stream<Item = Result<LogOutput, Cause>>,
        options: &LogOptions,
        cancel: &Cancel,
        each: &mut dyn FnMut(LogLine),
    ) -> Result<(), Error> {
        let mut lines = std::pin::pin!(lines);
        loop {
            // Outside of the runtime while `each` works: it may ask the engine something itself.
            let next = self.runtime.block_on(cancel.unless_raised(lines.next()));
            match next.ok_or(Error::Cancelled)? {
                None => return Ok(()),
                Some(Ok(output)) => {
                    link.has_answered();
                    each(line(&output, options.timestamps));
                }
                Some(Err(cause)) => return Err(self.last(link, Trouble::from(cause))?),
            }
        }
    }
}

impl LogOptions {
    fn query(&self) -> LogsOptions {
        let tail = self.tail.map(|lines| lines.to_string());
        LogsOptions {
            follow: self.follow,
            stdout: true,
            stderr: true,
            since: i32::try_from(self.since.unwrap_or(0)).unwrap_or(i32::MAX),
            timestamps: self.timestamps,
            tail: tail.unwrap_or_else(|| "all".to_owned()),
            ..LogsOptions::default()
        }
    }
}

/// Takes apart `[TIME ]NAME=VALUE[,NAME=VALUE...] TEXT`. Values are encoded as in queries: they hold no space.
fn line(output: &LogOutput, timestamps: bool) -> LogLine {
    let bytes = output.as_ref();
    let bytes = &bytes[..bytes.len().min(LINE_LIMIT + 1024)];
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.trim_end_matches(['\n', '\r']);
    let mut time = None;
    if timestamps && let Some((found, after)) = rest.split_once(' ') {
        (time, rest) = (Some(found.to_owned()), after);
    }
    let (mut task, mut node) = (None, None);
    // A line of a task of a swarm always has these, and an empty text may follow.
    let (details, after) = rest.split_once(' ').unwrap_or((rest, ""));
    if details.starts_with("com.docker.swarm.") {
        for (name, value) in details.split(',').filter_map(|detail| detail.split_once('=')) {
            match name {
                "com.docker.swarm.task.id" | "com.docker.swarm.task" => task = Some(value.to_owned()),
                "com.docker.swarm.node.id" => node = Some(value.to_owned()),
                _ => {}
            }
        }
        rest = after;
    }
    LogLine {
        stream: match output {
            LogOutput::StdErr { .. } => Stream::Err,
            _ => Stream::Out,
        },
        task,
        node,
        time,
        line: rest[..rest.floor_char_boundary(LINE_LIMIT)].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(text: &str) -> LogOutput {
        LogOutput::StdOut {
            message: text.to_owned().into(),
        }
    }

    const DETAILS: &str =
        "com.docker.swarm.node.id=n1,com.docker.swarm.service.id=s1,com.docker.swarm.task.id=t1";

    #[test]
    fn lines_are_taken_apart() {
        let found = line(
            &out(&format!(
                "2026-01-02T03:04:05.000000006Z {DETAILS} hello  world\n"
            )),
            true,
        );
        assert_eq!(found.task.as_deref(), Some("t1"));
        assert_eq!(found.node.as_deref(), Some("n1"));
        assert_eq!(found.time.as_deref(), Some("2026-01-02T03:04:05.000000006Z"));
        assert_eq!(found.line, "hello  world");
        assert_eq!(found.stream, Stream::Out);
    }

    #[test]
    fn what_the_engine_does_not_say_is_part_of_the_line() {
        let found = line(&out("hello world\r\n"), false);
        assert_eq!((found.line.as_str(), found.task), ("hello world", None));
        let found = line(&out(&format!("{DETAILS} \n")), false);
        assert_eq!((found.line.as_str(), found.task.as_deref()), ("", Some("t1")));
        let output = LogOutput::StdErr {
            message: vec![0xff, b'!'].into(),
        };
        let found = line(&output, false);
        assert_eq!((found.stream, found.line.as_str()), (Stream::Err, "\u{fffd}!"));
    }

    #[test]
    fn long_lines_are_cut() {
        let found = line(&out(&format!("{DETAILS} {}", "ä".repeat(LINE_LIMIT))), false);
        assert!(found.line.len() <= LINE_LIMIT && found.line.len() > LINE_LIMIT - 4);
        assert!(found.line.chars().all(|char| char == 'ä'));
    }
}
