//! The outside of one attack: a home full of secrets, a project, and programs that hold or serve secrets.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::support::{Process, User, World};

/// Files below the home that no agent may read: sections 1 and 4 of the threat table. All of them hold the canary.
pub const SECRETS: [&str; 44] = [
    ".ssh/id_ed25519",
    ".gnupg/private-keys-v1.d/a.key",
    ".config/sops/age/keys.txt",
    ".password-store/mail.gpg",
    ".local/share/keyrings/login.keyring",
    ".config/op/config",
    ".aws/credentials",
    ".config/gcloud/application_default_credentials.json",
    ".azure/msal_token_cache.json",
    ".kube/config",
    ".docker/config.json",
    ".terraform.d/credentials.tfrc.json",
    ".config/gh/hosts.yml",
    ".netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".cargo/credentials.toml",
    ".cargo/credentials",
    ".m2/settings.xml",
    ".gem/credentials",
    ".composer/auth.json",
    ".mozilla/firefox/abc.default/logins.json",
    ".config/google-chrome/Default/Login Data",
    ".thunderbird/abc.default/key4.db",
    "Documents/diary.txt",
    "core.1234",
    ".bash_history",
    ".zsh_history",
    ".psql_history",
    ".python_history",
    ".bashrc",
    ".zshrc",
    ".profile",
    ".Xauthority",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".local/share/opencode/auth.json",
    ".gemini/oauth_creds.json",
    ".local/share/guard/homes/other/.netrc",
    ".config/guard/profiles/other.toml",
    "src/.env",
    "src/other/.env",
    "src/other/notes.txt",
];

/// The outside of one attack.
pub struct Scene {
    pub world: World,
    pub user: User,
    /// The project the agent works in, as the world sees it.
    pub project: PathBuf,
    /// The words that must not come out.
    pub canary: String,
    pub victims: Vec<Process>,
}

impl Scene {
    pub fn new(user: User) -> Scene {
        let world = World::new();
        // As random as the world's directory name, and not shaped like any provider's token.
        let canary = format!("canary{}", world.id().replace("guard-world", ""));
        let project = user.path("src/project");
        let mut scene = Scene { world, user, project, canary, victims: Vec::new() };
        scene.fill_home();
        scene.fill_project();
        scene
    }

    fn fill_home(&mut self) {
        let line = format!("# {}\n", self.canary);
        for path in SECRETS {
            self.world.write(self.user, path, &line);
        }
        self.world.write(self.user, format!("Documents/{}-plan.txt", self.canary), "names are secrets too\n");
        self.world.write(self.user, format!("{}.txt", self.canary), "names are secrets too\n");
        for path in ["/tmp/left.txt", "/var/tmp/left.txt", "/dev/shm/left"] {
            self.private(path, &line);
        }
        self.private(&self.runtime("secret"), &line);
        self.private("/etc/shadow", &line);
    }

    /// A repository as `git init` leaves it, without starting git some thousand times.
    fn fill_project(&mut self) {
        for (path, text) in [
            (".git/HEAD", "ref: refs/heads/main\n"),
            (".git/config", "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"),
            (".git/hooks/pre-commit", "#!/bin/sh\n"),
            (".git/info/exclude", ""),
            ("README.md", "# project\n"),
            ("Makefile", "all:\n"),
            (".envrc", "export A=1\n"),
            (".vscode/tasks.json", "{}\n"),
        ] {
            self.world.write(self.user, self.project.join(path), text);
        }
        for dir in [".git/objects/info", ".git/objects/pack", ".git/refs/heads", ".git/refs/tags"] {
            self.world.mkdir(self.user, self.project.join(dir));
        }
        let env = format!("TOKEN={}\n", self.canary);
        self.world.write(self.user, self.project.join(".env"), env);
    }

    fn private(&self, path: &str, text: &str) {
        let owner = if path.starts_with("/etc") { User::Root } else { self.user };
        let inside = self.world.write(owner, path, text);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(self.world.host_path(inside), mode).unwrap();
    }

    /// A path below the user's home.
    pub fn home(&self, path: &str) -> String {
        self.user.path(path).to_str().unwrap().to_owned()
    }

    /// A path in the project.
    pub fn inside(&self, path: &str) -> String {
        self.project.join(path).to_str().unwrap().to_owned()
    }

    /// A path in the user's runtime directory.
    pub fn runtime(&self, path: &str) -> String {
        format!("/run/user/{}/{path}", self.user.uid())
    }

    /// The SSH key, the first among the secrets.
    pub fn key(&self) -> String {
        self.home(SECRETS[0])
    }

    /// Starts a program outside and waits until it is ready. Gives the words after `ready`.
    pub fn victim(&mut self, args: &[&str]) -> Vec<String> {
        let run = self.world.run(self.user).env("VICTIM_TOKEN", &self.canary).probe(args);
        let mut process = run.spawn();
        let said = process.wait_for("ready");
        self.victims.push(process);
        said.lines().next().unwrap().split_whitespace().skip(1).map(str::to_owned).collect()
    }

    /// Starts a holder of the SSH key. Gives process id, address and length of the canary, descriptor of the key.
    pub fn holder(&mut self) -> Vec<String> {
        let (key, canary) = (self.key(), self.canary.clone());
        self.victim(&["holder", &key, &canary])
    }

    /// Starts a socket server at `path`, which is made ready for it.
    pub fn server(&mut self, kind: &str, path: &str) {
        if path.starts_with('/') {
            self.world.mkdir(self.user, Path::new(path).parent().unwrap());
        }
        let canary = self.canary.clone();
        self.victim(&[kind, path, &canary]);
    }

    /// Makes a link in the project before the session starts.
    pub fn shipped_link(&self, target: &str, name: &str) -> String {
        let link = self.inside(name);
        symlink(target, self.world.host_path(&link)).unwrap();
        link
    }

    /// What the outside looks like now: everything except what is in the project and in guard's own data.
    pub fn snapshot(&self) -> Snapshot {
        let mut found = BTreeMap::new();
        for place in ["/home", "/root", "/tmp", "/var/tmp", "/run", "/dev/shm"] {
            let host = self.world.host_path(place);
            self.look(&host, &mut found);
        }
        Snapshot(found)
    }

    fn look(&self, path: &Path, found: &mut BTreeMap<PathBuf, String>) {
        let Ok(meta) = path.symlink_metadata() else { return };
        let project = self.world.host_path(&self.project);
        let mut what = format!("mode {:o} owner {}:{}", meta.mode(), meta.uid(), meta.gid());
        if meta.is_file() {
            // Content and times; a directory's own times change with every harmless file in it.
            let text = fs::read(path).unwrap_or_default();
            what += &format!(" mtime {} {:?}", meta.mtime(), String::from_utf8_lossy(&text));
        } else if path == project {
            what += &format!(" inode {}", meta.ino());
        }
        found.insert(path.to_owned(), what);
        if meta.is_dir() && path != project {
            for entry in fs::read_dir(path).unwrap().flatten() {
                self.look(&entry.path(), found);
            }
        }
    }
}

/// The state of the outside: path and description of everything there.
pub struct Snapshot(BTreeMap<PathBuf, String>);

impl Snapshot {
    /// What is not as it was, one line each. Guard's own data may be new, but not what an attack planted.
    pub fn differences(&self, later: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, was) in &self.0 {
            match later.0.get(path) {
                Some(is) if is == was => {}
                Some(is) => lines.push(format!("{} changed from {was} to {is}", path.display())),
                None => lines.push(format!("{} is gone", path.display())),
            }
        }
        let guards_own = |path: &Path| {
            let ends = [".local", ".local/share", ".local/state"].iter().any(|end| path.ends_with(end));
            let data = path.to_string_lossy();
            ends || data.contains("/.local/share/guard") || data.contains("/.local/state/guard")
        };
        // What is in a sandbox's home is harmless, whatever its name.
        let is_planted = |path: &Path| path.ends_with("trust/planted") && !path.to_string_lossy().contains("/homes/");
        for path in later.0.keys().filter(|path| !self.0.contains_key(*path)) {
            if !guards_own(path) || is_planted(path) {
                lines.push(format!("{} is new", path.display()));
            }
        }
        lines
    }
}

/// One attempt: how the attack is started in a scene.
#[derive(Default)]
pub struct Try {
    /// The probe's act and arguments, or with `raw` a whole command line.
    pub act: Vec<OsString>,
    pub raw: bool,
    /// What stands before guard.
    pub wrap: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    /// More arguments for `guard run`.
    pub guard: Vec<OsString>,
}

impl Try {
    pub fn probe<S: Into<OsString>>(act: impl IntoIterator<Item = S>) -> Try {
        Try { act: act.into_iter().map(Into::into).collect(), ..Try::default() }
    }

    pub fn command<S: Into<OsString>>(line: impl IntoIterator<Item = S>) -> Try {
        Try { raw: true, ..Try::probe(line) }
    }

    pub fn wrap<S: Into<OsString>>(mut self, wrap: impl IntoIterator<Item = S>) -> Try {
        self.wrap = wrap.into_iter().map(Into::into).collect();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Try {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn guard(mut self, args: &[&str]) -> Try {
        self.guard = args.iter().map(Into::into).collect();
        self
    }
}
