//! Reads the process once and hands it over as values.

use guard::cli::{self, Invocation};
use guard::env::Env;

fn main() -> ! {
    let invocation = Invocation {
        args: std::env::args_os().collect(),
        env: Env::new(std::env::vars_os()),
        cwd: std::env::current_dir(),
    };
    // From here on the only copy is one that is wiped when it is dropped.
    guard::sandbox::sys::wipe_environ();
    cli::main(invocation)
}
