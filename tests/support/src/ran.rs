//! What came of a program.

/// What a run of `skep` came to.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; -1 if a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Exit code and report, as a snapshot shows them.
    pub fn failure(&self) -> String {
        let begins = |line: &&str| line.starts_with("  | ") || line.starts_with("error: ");
        let report: Vec<&str> = self.stderr.lines().skip_while(|line| !begins(line)).collect();
        let report = match report.is_empty() {
            true => self.stderr.clone(),
            false => report.join("\n"),
        };
        format!("exit {}\n{}", self.code, report.trim_end())
    }

    /// How many actions ran, were cached and failed, by the events of `--json`.
    pub fn outcomes(&self) -> (usize, usize, usize) {
        let count = |outcome: &str| {
            let outcome = format!("\"outcome\":\"{outcome}\"");
            self.stderr.lines().filter(|line| line.contains(&outcome)).count()
        };
        (count("ran"), count("cached"), count("failed"))
    }
}
