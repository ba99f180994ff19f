//! Where the binaries under test are, and waiting without a clock in the test's verdict.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

/// How long anything may take before the harness calls it hung. Far above what any test needs, because a loaded
/// machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The guard binary that cargo built for this test.
pub fn guard() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_guard"))
}

/// The probe, which cargo builds as an example: `cargo test` does it by itself, `cargo test --test NAME` does not.
pub fn probe() -> PathBuf {
    // Looked at once, so that editing the probe does not fail a run that is under way.
    static PROBE: LazyLock<Result<PathBuf, String>> = LazyLock::new(find_probe);
    PROBE.clone().unwrap_or_else(|why| panic!("{why}"))
}

fn find_probe() -> Result<PathBuf, String> {
    let probe = guard().parent().unwrap().join("examples/probe");
    let Ok(built) = fs::metadata(&probe).and_then(|meta| meta.modified()) else {
        return Err(format!("{} is missing: run `cargo build --examples` first", probe.display()));
    };
    if newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe")) > built {
        return Err(format!("{} is older than tests/probe: run `cargo build --examples` first", probe.display()));
    }
    Ok(probe)
}

fn newest(dir: &Path) -> SystemTime {
    // Sources may be absent where only the built tests were copied to.
    let Ok(entries) = fs::read_dir(dir) else { return SystemTime::UNIX_EPOCH };
    let times = entries.flatten().filter_map(|entry| entry.metadata().ok()?.modified().ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Fails, naming what to install, unless every program is on the machine (in `/usr/local/bin`, `/usr/bin`, `/bin`,
/// `/usr/sbin` or `/sbin`, which is what users of a world have on their PATH).
pub fn need(programs: &[(&str, &str)]) {
    let missing: Vec<String> = programs
        .iter()
        .filter(|(program, _)| {
            !["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
                .iter()
                .any(|dir| Path::new(dir).join(program).exists())
        })
        .map(|(program, package)| format!("{program} (Debian: apt-get install {package})"))
        .collect();
    assert!(missing.is_empty(), "missing on this machine: {}", missing.join(", "));
}

/// Calls `ready` again and again until it is true or [`DEADLINE`] has passed; then fails with `what`.
pub fn poll_until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < DEADLINE, "waited too long for {what}");
        // Only to leave the processor to the others; the verdict does not depend on it.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A `Command` for the machine's own cargo, with the test's environment.
pub fn cargo() -> Command {
    Command::new(env!("CARGO"))
}
