//! The program: all is in the library, so that tests and benchmarks reach it too.

fn main() -> std::process::ExitCode {
    segment_loops::cli::run()
}
