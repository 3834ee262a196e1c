//! The program: all is in the library, so that tests and benchmarks reach it too.

use std::process::ExitCode;

/// A third more messages a second than with the system's, for some 10 MB more at rest.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(unix)]
    restart_with_purge_delay();
    segment_loops::cli::run()
}

/// Makes the allocator return freed memory to the system after 10 ms instead of a second. Otherwise hostile requests take
/// half as much memory again, which no budget counts.
///
/// mimalloc reads its options from the environment before `main`, and they can only be set there or by unsafe code. So
/// unless the variable is set, the program sets it and executes itself once more. If it cannot, it goes on as it is.
#[cfg(unix)]
fn restart_with_purge_delay() {
    use std::os::unix::process::CommandExt as _;
    use std::path::Path;
    use std::process::Command;

    const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let Some(name) = arguments.next() else { return };
    // A loader or an emulator would be another program.
    if program.file_name() != Path::new(&name).file_name() {
        return;
    }
    // Returns only if it fails.
    let _ = Command::new(program).arg0(name).args(arguments).env(VARIABLE, "10").exec();
}
