//! The `skep` program; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, while there is one thread.
    skep::gocache::relay_if_asked();
    skep::container::init_if_asked();
    skep::supervisor::run_if_asked();
    skep::build::evaluate::evaluate_if_asked();
    skep::cli::main()
}
