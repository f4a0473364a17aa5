//! The last steps of a process that becomes a program: what it gives up, how the program is found, and the
//! exec itself. Runs inside a container only.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::Resource;
use rustix::thread::CapabilitySet;

use super::Identity;
use super::spec::Answer;
use crate::sandbox::filter::Program;
use crate::sandbox::privilege::{drop_all_but, limit_to};
use crate::sandbox::refusal::{During as _, Result};
use crate::sandbox::sys;
use crate::tree::TreePath;

/// Where programs are looked for without a PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What uid 0 of a container may do to what is its own.
const ROOT_MAY: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Gives this process its standard descriptors, and no privileges of the world.
pub(super) fn settle(cwd: &TreePath, stdout: &OwnedFd, stderr: &OwnedFd, identity: &Identity) -> Result<()> {
    let cwd = format!("/{cwd}");
    rustix::process::chdir(&*cwd).during(|| format!("enter {cwd}"))?;
    // Fails where it leads a session already.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let null = File::open("/dev/null").during(|| "open /dev/null".to_owned())?;
    rustix::stdio::dup2_stdin(&null).during(|| "close stdin".to_owned())?;
    rustix::stdio::dup2_stdout(stdout).during(|| "open stdout".to_owned())?;
    rustix::stdio::dup2_stderr(stderr).during(|| "open stderr".to_owned())?;
    sys::close_on_exec_above(2).during(|| "close descriptors".to_owned())?;
    limit_to(Resource::Core, 0).during(|| "limit core dumps".to_owned())?;
    let kept = match identity.uid {
        0 => ROOT_MAY,
        _ => CapabilitySet::empty(),
    };
    drop_all_but(kept, Program::Container)
}

/// Becomes the program.
pub(super) fn become_program(
    argv: &[String],
    env: &[(String, String)],
) -> std::result::Result<Infallible, Answer> {
    let no_program = |tried: Vec<String>, reason: String| Answer::NoProgram { tried, reason };
    let strings = |strings: &mut dyn Iterator<Item = String>| {
        strings
            .map(CString::new)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|_| no_program(Vec::new(), "an argument or a variable holds a NUL".to_owned()))
    };
    let arguments = strings(&mut argv.iter().cloned())?;
    let variables = strings(&mut env.iter().map(|(name, value)| format!("{name}={value}")))?;
    let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
        return Err(no_program(Vec::new(), "there is no command".to_owned()));
    };
    sys::reset_signals().during(|| "reset signals".to_owned())?;
    let tried = candidates(program, env);
    let mut reason = io::Error::from_raw_os_error(libc::ENOENT).to_string();
    for path in &tried {
        let Ok(c_path) = CString::new(path.as_str()) else {
            continue;
        };
        let error = match sys::exec(&c_path, &arguments, &variables) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::ENOENT) if Path::new(path).exists() => {
                reason = format!("`{path}` is there, and its interpreter is not");
                break;
            }
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => reason = error.to_string(),
            _ => {
                reason = error.to_string();
                break;
            }
        }
    }
    Err(no_program(tried, reason))
}

/// The paths at which the program may be, in the order in which they are tried.
pub(crate) fn candidates(program: &str, env: &[(String, String)]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().rev().find(|(name, _)| name == "PATH");
    path.map_or(DEFAULT_PATH, |(_, path)| path)
        .split(':')
        .map(|directory| match directory {
            "" => format!("./{program}"),
            directory => format!("{}/{program}", directory.trim_end_matches('/')),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::candidates;

    #[test]
    fn programs_are_looked_up_along_path() {
        let path = [("PATH".to_owned(), "/a:/b/::".to_owned())];
        assert_eq!(candidates("x", &path), ["/a/x", "/b/x", "./x", "./x"]);
        assert_eq!(candidates("./x", &path), ["./x"]);
        assert_eq!(candidates("x", &[])[0], "/usr/local/sbin/x");
    }
}
