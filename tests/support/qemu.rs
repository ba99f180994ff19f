//! Boots a Linux kernel in QEMU (software emulation, so it works without KVM) with an initramfs made here, and
//! hands back what the machine wrote to its second serial port.
//!
//! In: a kernel unpacked by `tests/setup/kernels.sh`, the files of the initramfs, the kernel's command line.
//! Out: a [`Report`] of named outcomes. Everything missing (QEMU, kernels) is a panic that says what to install.
//! Nothing here knows about guard.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// A boot takes a few seconds on an idle machine; the rest is for a busy one.
const DEADLINE: Duration = Duration::from_secs(120);

/// More emulated machines than this only slow each other down on a small machine.
const MACHINES_AT_ONCE: usize = 2;

/// A kernel and the modules it needs, in the directory `tests/setup/kernels.sh` filled.
pub struct Kernel {
    /// The compressed kernel image.
    pub image: PathBuf,
    /// overlayfs, which Debian builds as a module.
    pub overlay: PathBuf,
}

impl Kernel {
    /// Looks for `version` (such as `6.1`) in `$GUARD_KERNELS`, else in `target/kernels`.
    pub fn find(version: &str) -> Kernel {
        let root = std::env::var_os("GUARD_KERNELS")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kernels"), PathBuf::from);
        let directory = root.join(version);
        let kernel = Kernel { image: directory.join("vmlinuz"), overlay: directory.join("overlay.ko") };
        for file in [&kernel.image, &kernel.overlay] {
            assert!(
                file.is_file(),
                "{} is missing; run tests/setup/kernels.sh (it fetches Debian's kernels into target/kernels; \
                 GUARD_KERNELS names another directory)",
                file.display()
            );
        }
        kernel
    }
}

/// A cpio archive ("newc", the form the kernel unpacks as its initramfs), built in memory.
///
/// Directories must be added before what they hold: the kernel does not make missing parents.
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// An empty archive.
    pub fn new() -> Initramfs {
        Initramfs { bytes: Vec::new(), entries: 0 }
    }

    /// Adds a directory with the given permissions and owner (user and group of the same number).
    pub fn directory(&mut self, path: &str, mode: u32, owner: u32) -> &mut Initramfs {
        self.entry(path, 0o040_000 | mode, owner, &[])
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, owner: u32, content: &[u8]) -> &mut Initramfs {
        self.entry(path, 0o100_000 | mode, owner, content)
    }

    /// Adds a copy of a file of this machine.
    pub fn copy(&mut self, path: &str, mode: u32, from: &Path) -> &mut Initramfs {
        let content = std::fs::read(from).unwrap_or_else(|error| panic!("cannot read {}: {error}", from.display()));
        self.file(path, mode, 0, &content)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Initramfs {
        self.entry(path, 0o120_777, 0, target.as_bytes())
    }

    fn entry(&mut self, path: &str, mode: u32, owner: u32, content: &[u8]) -> &mut Initramfs {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        let size = u32::try_from(content.len()).expect("files of an initramfs are small");
        let name_size = u32::try_from(name.len() + 1).expect("paths are short");
        // https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
        let fields = [self.entries, mode, owner, owner, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            write!(header, "{field:08x}").expect("writing to a String cannot fail");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Ends the archive and gives its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 0, &[]);
        self.bytes
    }
}

/// What one named case left behind.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit status as a shell sees it.
    pub status: i32,
    /// Lines of standard output.
    pub stdout: String,
    /// Lines of standard error.
    pub stderr: String,
}

/// The outcomes of one boot, by name, and the kernel's own console for the day it does not boot.
pub struct Report {
    cases: BTreeMap<String, Outcome>,
    /// How long the machine ran.
    pub took: Duration,
}

impl Report {
    /// The outcome of a case; panics when the machine never ran it.
    pub fn case(&self, name: &str) -> &Outcome {
        self.cases.get(name).unwrap_or_else(|| {
            let names: Vec<_> = self.cases.keys().map(String::as_str).collect();
            panic!("the machine ran no case {name}; it ran: {}", names.join(" "))
        })
    }

    /// All cases in the order of their names.
    pub fn cases(&self) -> impl Iterator<Item = (&str, &Outcome)> {
        self.cases.iter().map(|(name, outcome)| (name.as_str(), outcome))
    }

    /// Reads the protocol of `tests/kernels/init.sh`: `#case NAME`, then `o|` and `e|` before each line of standard
    /// output and error, then `#status N`; after the last case `#done`. Anything else is an error.
    fn parse(text: &str, took: Duration) -> Result<Report, String> {
        let mut cases = BTreeMap::new();
        let mut open: Option<(String, Outcome)> = None;
        let mut done = false;
        for line in text.lines().map(|line| line.trim_end_matches('\r')).filter(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix("#case ") {
                let outcome = Outcome { status: -1, stdout: String::new(), stderr: String::new() };
                if let Some((unfinished, _)) = open.replace((name.to_owned(), outcome)) {
                    return Err(format!("case {unfinished} has no status"));
                }
            } else if let Some(status) = line.strip_prefix("#status ") {
                let (name, mut outcome) = open.take().ok_or("a status without a case")?;
                outcome.status = status.parse().map_err(|_| format!("bad status {status:?} of {name}"))?;
                cases.insert(name, outcome);
            } else if line == "#done" {
                done = true;
            } else if let Some((_, outcome)) = &mut open {
                let (stream, rest) = match line.split_once('|') {
                    Some(("o", rest)) => (&mut outcome.stdout, rest),
                    Some(("e", rest)) => (&mut outcome.stderr, rest),
                    _ => return Err(format!("unexpected line {line:?}")),
                };
                stream.push_str(rest);
                stream.push('\n');
            } else {
                return Err(format!("unexpected line {line:?}"));
            }
        }
        match (done, open) {
            (true, None) => Ok(Report { cases, took }),
            (_, Some((name, _))) => Err(format!("the machine stopped in case {name}")),
            (false, None) => Err(format!("the machine stopped early, after {} cases", cases.len())),
        }
    }
}

/// Boots `kernel` with `initramfs` and waits until the machine powers itself off.
///
/// The first serial port is the kernel's console, kept for the panic message when something goes wrong; the second
/// one carries the report, so that a kernel message never lands in the middle of it.
pub fn boot(kernel: &Kernel, initramfs: &[u8], command_line: &str) -> Report {
    let _turn = Turn::take();
    let scratch = tempfile::tempdir().expect("a directory for the boot");
    let (archive, console) = (scratch.path().join("initramfs.cpio"), scratch.path().join("console"));
    std::fs::write(&archive, initramfs).expect("writing the initramfs");
    let started = Instant::now();
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1024"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&archive)
        // mitigations=off and the random_ option only make the emulated machine faster.
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on {command_line}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot start qemu-system-x86_64: {error}; run tests/setup/kernels.sh or install qemu-system-x86")
        });

    let (mut stdout, mut stderr) = (machine.stdout.take().expect("piped"), machine.stderr.take().expect("piped"));
    let (sender, receiver) = channel();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let complaints = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut output = Vec::new();
    let timed_out = loop {
        match receiver.recv_timeout(DEADLINE.saturating_sub(started.elapsed())) {
            Ok(bytes) => output.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => break true,
        }
    };
    if timed_out {
        machine.kill().expect("stopping QEMU");
    }
    let status = machine.wait().expect("waiting for QEMU");
    drop(receiver);
    reader.join().expect("the reader does not panic");
    let complaints = complaints.join().expect("the reader does not panic");
    let text = String::from_utf8_lossy(&output);
    let console = std::fs::read(&console).unwrap_or_default();
    let trouble = match Report::parse(&text, started.elapsed()) {
        Ok(report) if status.success() && !timed_out => return report,
        Ok(_) => "the report is whole".to_owned(),
        Err(error) => error,
    };
    panic!(
        "the boot of {} failed: {trouble} (QEMU: {status}{})\n--- QEMU\n{complaints}\n--- console\n{}\n--- report\n{}",
        kernel.image.display(),
        if timed_out { ", stopped at the deadline" } else { "" },
        tail(&String::from_utf8_lossy(&console)),
        tail(&text),
    );
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// The right to run one of the [`MACHINES_AT_ONCE`] machines.
struct Turn;

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Turn {
    fn take() -> Turn {
        let running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut running = FREED
            .wait_while(running, |running| *running >= MACHINES_AT_ONCE)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *running += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        FREED.notify_one();
    }
}
