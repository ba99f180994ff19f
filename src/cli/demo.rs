//! `guard demo`: the same scripted agent in the same made-up home, without and with guard.
//!
//! The credentials are made up on the spot, the home is a temporary directory, and nothing leaves the machine. The
//! agent is this binary too: what it tries is what a prompt injection tries first.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::GUARD_FAILED;
use super::out::{self, Colour};
use crate::account::Account;
use crate::env::Env;
use crate::project::Project;
use crate::session::store;

/// What every made-up secret contains.
const MARK: &str = "demo-secret";

/// The exported token.
const TOKEN: &str = "DEMO_DEPLOY_TOKEN";

/// What the agent tries: the words for a person, and the act. Each returns what it got.
type Try = (&'static str, fn(&Path) -> io::Result<String>);

const TRIES: &[Try] = &[
    ("read the SSH key", |home| fs::read_to_string(home.join(".ssh/id_ed25519"))),
    ("read the cloud credentials", |home| fs::read_to_string(home.join(".aws/credentials"))),
    ("read another project's .env", |home| fs::read_to_string(home.join("code/other/.env"))),
    ("read the shell's start-up file", |home| fs::read_to_string(home.join(".bashrc"))),
    ("find the exported token", |_| Err(io::ErrorKind::NotFound.into())),
    ("find it in another process", |_| others_environment()),
    ("sign with the key agent", |home| talk(&home.join(".agent.sock"))),
    ("leave a command in .bashrc", |home| {
        fs::File::options().append(true).create(true).open(home.join(".bashrc"))?.write_all(b"echo planted\n")?;
        Ok("written".into())
    }),
    ("type into your shell (TIOCSTI)", |_| match crate::sandbox::sys::try_terminal_injection() {
        // No descriptor is named, so nothing is typed: EBADF says the kernel would have looked at one.
        Err(nix::errno::Errno::EBADF) | Ok(()) => Ok("possible".into()),
        Err(e) => Err(e.into()),
    }),
    ("write and read in the project", |_| {
        fs::write("notes.txt", "the work itself\n")?;
        fs::read_to_string("notes.txt")
    }),
];

pub(super) fn demo(env: &Env) -> u8 {
    let colour = Colour::for_stdout(env);
    let failed = |what: &str, e: &io::Error| {
        out::error(Colour::for_stderr(env), &io::Error::other(format!("cannot {what}: {e}")), None, None);
        GUARD_FAILED
    };
    let home = match Home::new() {
        Ok(home) => home,
        Err(e) => return failed("make a temporary home", &e),
    };
    out::print(&format!(
        "A made-up home at {} with a fake SSH key, cloud credentials and an exported token.\n\
         The same scripted agent runs in it twice: as it is, and under `guard run`.\n\n",
        crate::path::printable(home.dir.as_os_str())
    ));
    let bare = match home.agent(&[]) {
        Ok(results) => results,
        Err(e) => return failed("run the agent without guard", &e),
    };
    let planted = fs::read_to_string(home.dir.join(".bashrc")).is_ok_and(|text| text.contains("planted"));
    if let Err(e) = home.fill() {
        return failed("make the home anew", &e);
    }
    let guarded = match home.agent(&["run", "--quiet", "--"]) {
        Ok(results) => results,
        Err(e) => return failed("run the agent under guard", &e),
    };
    let survived = fs::read_to_string(home.dir.join(".bashrc")).is_ok_and(|text| !text.contains("planted"));
    let width = TRIES.iter().map(|(words, _)| words.len()).max().unwrap_or_default();
    let mut text = colour.strong(&format!("{:width$}   {:<18} under guard", "the agent tries to", "without guard"));
    text.push('\n');
    for (index, (words, _)) in TRIES.iter().enumerate() {
        let work = index + 1 == TRIES.len();
        let cell = |got: &str, width: usize| {
            let padded = format!("{got:<width$}");
            // The last line is what should work, the others are what should not.
            if (got == "no") != work { colour.good(&padded) } else { colour.bad(&padded) }
        };
        let word = |got: Option<&String>| match got.map(String::as_str) {
            Some("got it") if work => "works",
            Some("got it") => "GOT IT",
            Some(_) | None => "no",
        };
        let (bare, guarded) = (word(bare.get(index)), word(guarded.get(index)));
        // A write to the private home works and changes nothing; the real file decides.
        let guarded = if words.contains(".bashrc") && planted && survived { "only its own copy" } else { guarded };
        let last = if guarded == "only its own copy" { colour.good(guarded) } else { cell(guarded, 0) };
        text += &format!("{words:width$}   {} {last}\n", cell(bare, 18));
    }
    out::print(&text);
    let held = guarded.len() == TRIES.len()
        && guarded
            .iter()
            .enumerate()
            .all(|(i, got)| (got == "got it") == (i + 1 == TRIES.len()) || TRIES[i].0.contains(".bashrc"))
        && survived;
    if held {
        out::print("\nNow yours: `guard run -- claude`, in a project of yours.\n");
        0
    } else {
        out::print("\nSomething got through, or did not start. `guard doctor` says what this machine cannot hold.\n");
        1
    }
}

/// The scripted agent: one line for each try.
pub(super) fn agent(env: &Env) -> u8 {
    let home = PathBuf::from(env.get("HOME").unwrap_or_default());
    let mut text = String::new();
    for (words, attempt) in TRIES {
        let result = if words.contains("exported") {
            env.get(TOKEN).map(|t| t.to_string_lossy().into_owned()).ok_or(io::ErrorKind::NotFound.into())
        } else {
            attempt(&home)
        };
        text += match result {
            Ok(got) if got.contains(MARK) || ["written", "possible", "the work itself\n"].contains(&got.as_str()) => {
                "got it\n"
            }
            Ok(_) | Err(_) => "no\n",
        };
    }
    out::print(&text);
    0
}

/// The environment of any other process of the user that has the token, as an agent's tools can read it.
fn others_environment() -> io::Result<String> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        if own {
            continue;
        }
        let bytes = fs::read(entry.path().join("environ")).unwrap_or_default();
        if let Some(found) = bytes.split(|b| *b == 0).find(|v| v.starts_with(TOKEN.as_bytes())) {
            return Ok(String::from_utf8_lossy(found).into_owned());
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn talk(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

struct Bystander(std::process::Child);

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A temporary home, removed with everything in it.
struct Home {
    dir: PathBuf,
}

impl Home {
    fn new() -> io::Result<Self> {
        let base = std::env::temp_dir();
        let name = (0..100u32).map(|n| base.join(format!("guard-demo-{}-{n}", std::process::id())));
        for dir in name {
            match fs::create_dir(&dir) {
                Ok(()) => {
                    let home = Self { dir: fs::canonicalize(dir)? };
                    fs::set_permissions(&home.dir, fs::Permissions::from_mode(0o700))?;
                    home.fill()?;
                    home.serve()?;
                    return Ok(home);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn fill(&self) -> io::Result<()> {
        for (name, text) in [
            (".ssh/id_ed25519", format!("{MARK}: an SSH key\n")),
            (".aws/credentials", format!("[default]\naws_secret_access_key = {MARK}\n")),
            ("code/other/.env", format!("PASSWORD={MARK}\n")),
            (".bashrc", format!("export DEMO_DEPLOY_TOKEN={MARK}\n")),
            ("code/project/README.md", "a project\n".to_owned()),
        ] {
            let file = self.dir.join(name);
            fs::create_dir_all(file.parent().expect("a file in the home"))?;
            fs::write(file, text)?;
        }
        Ok(())
    }

    /// A stand-in for a key agent: it hands its secret to whoever connects.
    fn serve(&self) -> io::Result<()> {
        let listener = UnixListener::bind(self.dir.join(".agent.sock"))?;
        // Ends with this process, which starts the agents as programs of their own.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(MARK.as_bytes());
            }
        });
        Ok(())
    }

    /// A program of the user's that has the token in its environment, as everything started from that shell has.
    fn bystander(&self) -> io::Result<Bystander> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read line"]).env_clear().env(TOKEN, MARK).stdin(Stdio::piped());
        command.spawn().map(Bystander)
    }

    fn agent(&self, guard: &[&str]) -> io::Result<Vec<String>> {
        let _bystander = self.bystander()?;
        let me = std::env::current_exe()?;
        let mut command = Command::new(&me);
        command.args(guard);
        if !guard.is_empty() {
            command.arg(&me);
        }
        let output = command
            .arg("demo-agent")
            .current_dir(self.dir.join("code/project"))
            .env_clear()
            .envs([("PATH", "/usr/local/bin:/usr/bin:/bin"), ("TERM", "dumb"), (TOKEN, MARK)])
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("it ended with {}", output.status)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // The sandbox home of the made-up project, in guard's data.
        let env = Env::new([("HOME".into(), self.dir.clone().into_os_string())]);
        if let Ok(account) = Account::read(&env)
            && let Ok(project) = Project::find(Ok(self.dir.join("code/project")), &account)
            && let Some(dir) = store::locate(&account, &project).home.parent()
        {
            let _ = fs::remove_dir_all(dir);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
