//! The program. Everything is in the library, so that tests and benchmarks reach it as well.

use std::process::ExitCode;

/// mimalloc handles a third more messages a second than the system's allocator, for about 10 MB more at rest.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(unix)]
    restart_with_purge_delay();
    segment_loops::cli::run()
}

/// Makes the allocator return freed memory to the system after 10 ms instead of a second. Otherwise, hostile requests
/// take half as much memory again, which no budget counts.
///
/// mimalloc reads its options from the environment before `main`, and they can be set only there or by unsafe code. So
/// unless the variable is set, the program sets it and executes itself again. If that fails, it continues without it.
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
    // Under a loader or an emulator, the executable is a different program.
    if program.file_name() != Path::new(&name).file_name() {
        return;
    }
    // `exec` returns only if it fails.
    let _ = Command::new(program).arg0(name).args(arguments).env(VARIABLE, "10").exec();
}
