//! A process 1 for programs that are none: it passes signals on, reaps, and ends when the program does.

use rustix::process::{Pid, Signal, WaitOptions};

use crate::sandbox::refusal::{During as _, Result};
use crate::sandbox::sys;

/// Signals that are about this process, not for the program.
const OWN: [i32; 3] = [libc::SIGCHLD, libc::SIGPIPE, libc::SIGTTOU];

/// Returns in a child, which becomes the program. The calling process stays as process 1.
pub(super) fn stay() -> Result<()> {
    sys::block_signals().during(|| "block signals".to_owned())?;
    let Some(child) = sys::fork().during(|| "fork".to_owned())? else {
        let _ = rustix::process::setsid();
        return Ok(());
    };
    // Nothing of it may stay open: that the socket closes says that the program runs.
    sys::close_above(2);
    let _ = rustix::thread::set_name(c"init");
    std::process::exit(serve(child));
}

/// Until the program has ended; its exit code, or 128 and the signal that ended it.
fn serve(program: Pid) -> i32 {
    loop {
        // A child that ended before the signals were blocked has left its signal pending as well.
        let Ok(signal) = sys::next_signal() else {
            continue;
        };
        if signal == libc::SIGCHLD {
            if let Some(code) = reap(program) {
                return code;
            }
        } else if let Some(signal) = Signal::from_named_raw(signal)
            && !OWN.contains(&signal.as_raw())
        {
            // It may have ended just now.
            let _ = rustix::process::kill_process(program, signal);
        }
    }
}

/// Reaps whoever has ended; how the program did, if it was among them.
fn reap(program: Pid) -> Option<i32> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == program {
            ended = Some(crate::sandbox::exit_code(status));
        }
    }
    ended
}
