//! The project: which directory a start is about, and where its git data lies.
//!
//! In: the current directory and the account. Out: [`Project`]. guard reads `.git` itself and never runs git: a
//! repository's configuration makes git execute programs. What a `.git` file points to is believed only when the
//! other side names this project too, or a repository could open any other one of the user.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::path::AbsPath;

/// The directory a start is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The current directory, without symlinks.
    pub cwd: AbsPath,
    /// The top directory; `None` where the current directory is the home, above it, or part of the system.
    pub root: Option<AbsPath>,
    /// Git directories outside the top directory that a commit needs.
    pub git: Vec<AbsPath>,
    /// What git obeys or executes from the git directories of submodules, inside the top directory.
    pub modules: Vec<AbsPath>,
    /// Names in the top directory and the current one, for finding toolchains.
    pub markers: Vec<String>,
    /// The owner of the top directory.
    pub owner: u32,
    /// How many directories in the top one are git repositories, when it is none itself.
    pub repositories_below: usize,
}

/// Why the current directory will not do.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// It is gone, or cannot be looked at.
    #[error("cannot tell the current directory")]
    Cwd(#[source] io::Error),
    /// Its name cannot be a rule.
    #[error("cannot use the current directory")]
    Path(#[from] crate::path::PathError),
}

impl ProjectError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some("it may have been deleted or renamed; `cd` into an existing directory".into())
    }
}

/// Directories of the system: nobody's project, whoever runs guard.
const SYSTEM: &[&str] =
    &["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr"];

/// Names looked at in a directory for finding toolchains; a directory with more is not searched to its end.
const MOST_MARKERS: usize = 10_000;

impl Project {
    /// Finds the project around `cwd`, which is the directory by the kernel's word, not by `$PWD`.
    ///
    /// # Errors
    /// [`ProjectError`] when the current directory does not exist any more.
    pub fn find(cwd: io::Result<PathBuf>, account: &Account) -> Result<Self, ProjectError> {
        let cwd = AbsPath::new(cwd.map_err(ProjectError::Cwd)?)?;
        let meta = fs::metadata(&cwd).map_err(ProjectError::Cwd)?;
        let none = Self {
            cwd: cwd.clone(),
            root: None,
            git: Vec::new(),
            modules: Vec::new(),
            markers: Vec::new(),
            owner: account.uid,
            repositories_below: 0,
        };
        let system = SYSTEM.iter().any(|s| cwd.is_within(&AbsPath::known(s)));
        let above_home = account.home.is_within(&cwd) || account.anchor.is_within(&cwd);
        if system || above_home {
            return Ok(none);
        }
        let top = git_top(&cwd, meta.dev(), account);
        let git = top.as_ref().map(|top| outside_git(top, account)).unwrap_or_default();
        let root = top.clone().unwrap_or_else(|| cwd.clone());
        let mut markers = names(&root);
        if cwd != root {
            markers.extend(names(&cwd));
        }
        let repositories_below = if top.is_some() { 0 } else { count_repositories(&root, &markers) };
        let mut modules = Vec::new();
        collect_modules(&root.join(".git/modules"), MOST_NESTING, &mut modules);
        let owner = fs::metadata(&root).map_err(ProjectError::Cwd)?.uid();
        Ok(Self { root: Some(root), git, modules, markers, owner, repositories_below, ..none })
    }
}

/// The nearest directory with a `.git`, not above the home, on the same file system and of the same user.
fn git_top(cwd: &AbsPath, device: u64, account: &Account) -> Option<AbsPath> {
    for dir in cwd.ancestors() {
        if account.home.is_within(&dir) || account.anchor.is_within(&dir) {
            return None;
        }
        let meta = fs::metadata(&dir).ok()?;
        // Root works in everybody's directories; a user's project does not begin in somebody else's.
        let mine = meta.uid() == account.uid || account.uid == 0 || dir == *cwd;
        if meta.dev() != device || !mine {
            return None;
        }
        if is_git(&dir.join(".git")) {
            return Some(dir);
        }
    }
    None
}

fn is_git(git: &AbsPath) -> bool {
    fs::symlink_metadata(git)
        .is_ok_and(|meta| if meta.is_dir() { fs::symlink_metadata(git.join("HEAD")).is_ok() } else { meta.is_file() })
}

/// Submodules of submodules, and submodules whose name has slashes, nest directories.
const MOST_NESTING: usize = 8;

/// What must not be written in the git directories below `.git/modules`. A directory that cannot be listed must not
/// be written at all: it may be an agent that closed it to us.
fn collect_modules(dir: &AbsPath, nesting: usize, found: &mut Vec<AbsPath>) {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return,
        Err(_) => {
            found.push(dir.clone());
            return;
        }
    };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        let module = dir.join(entry.file_name());
        match fs::symlink_metadata(module.join("HEAD")) {
            Ok(_) => {
                found.extend(["hooks", "config", "config.worktree", "info/attributes"].map(|name| module.join(name)));
                collect_modules(&module.join("modules"), nesting, found);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && nesting > 0 => {
                collect_modules(&module, nesting - 1, found)
            }
            Err(_) => found.push(module),
        }
    }
}

/// The git directories of a linked worktree or a submodule, each acknowledged by the other side.
fn outside_git(top: &AbsPath, account: &Account) -> Vec<AbsPath> {
    let link = top.join(".git");
    let Some(git_dir) = read_line(&link).and_then(|line| target(&line, b"gitdir:", top)) else { return Vec::new() };
    let found =
        if let Some(common) = read_line(&git_dir.join("commondir")).and_then(|line| target(&line, b"", &git_dir)) {
            // A linked worktree: git writes the path of our `.git` file into the main repository.
            let back = read_line(&git_dir.join("gitdir")).and_then(|line| target_parent(&line, &git_dir));
            let within = git_dir.parent().is_some_and(|p| p == common.join("worktrees"));
            if within && back.as_ref() == Some(top) { vec![common] } else { Vec::new() }
        } else {
            // A submodule: the superproject's copy of its git directory names the work tree.
            let modules = git_dir.as_path().components().any(|c| c.as_os_str() == "modules");
            if modules && worktree_of(&git_dir).as_ref() == Some(top) { vec![git_dir] } else { Vec::new() }
        };
    found
        .into_iter()
        .filter(|dir| !dir.is_within(top))
        .filter(|dir| {
            fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir() && (m.uid() == account.uid || account.uid == 0))
        })
        .filter(|dir| fs::symlink_metadata(dir.join("HEAD")).is_ok())
        .filter(|dir| !account.home.is_within(dir))
        .collect()
}

/// `core.worktree` of a submodule's config, the only line of it that matters here.
fn worktree_of(git_dir: &AbsPath) -> Option<AbsPath> {
    let text = read_small(&git_dir.join("config"))?;
    let mut in_core = false;
    for line in text.split(|b| *b == b'\n') {
        let line = line.trim_ascii();
        if line.starts_with(b"[") {
            in_core = line.eq_ignore_ascii_case(b"[core]");
        } else if in_core
            && let Some(value) = line.strip_prefix(b"worktree")
            && let Some(value) = value.trim_ascii_start().strip_prefix(b"=")
        {
            return target(value.trim_ascii(), b"", git_dir);
        }
    }
    None
}

/// A path in a git file, relative to `base`, as it is on disk.
fn target(line: &[u8], prefix: &[u8], base: &AbsPath) -> Option<AbsPath> {
    let path = line.strip_prefix(prefix)?.trim_ascii();
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    AbsPath::new(fs::canonicalize(base.as_path().join(path)).ok()?).ok()
}

/// The directory of the `.git` file a line names.
fn target_parent(line: &[u8], base: &AbsPath) -> Option<AbsPath> {
    let path = Path::new(std::ffi::OsStr::from_bytes(line.trim_ascii()));
    let parent = base.as_path().join(path.parent()?);
    (path.file_name()?.as_bytes() == b".git").then_some(())?;
    AbsPath::new(fs::canonicalize(parent).ok()?).ok()
}

fn read_line(file: &AbsPath) -> Option<Vec<u8>> {
    let bytes = read_small(file)?;
    Some(bytes.split(|b| *b == b'\n').next()?.to_vec())
}

/// A small regular file, or nothing: what is in the project may be a FIFO or endless.
fn read_small(file: &AbsPath) -> Option<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt;
    const MOST: u64 = 64 * 1024;
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;
    let file = fs::File::options().read(true).custom_flags(flags).open(file).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn names(dir: &AbsPath) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(MOST_MARKERS);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn count_repositories(root: &AbsPath, names: &[String]) -> usize {
    names.iter().filter(|name| !name.is_empty() && is_git(&root.join(name).join(".git"))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(home: &Path) -> Account {
        let home = AbsPath::known(fs::canonicalize(home).unwrap());
        Account { uid: nix::unistd::getuid().as_raw(), gid: 0, groups: vec![], name: None, anchor: home.clone(), home }
    }

    fn make(dir: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn finds_the_top_and_stops_at_home() {
        let tmp = tempfile::tempdir().unwrap();
        make(tmp.path(), &[("home/.git/HEAD", ""), ("home/p/.git/HEAD", ""), ("home/p/src/x", ""), ("home/q/x", "")]);
        let home = tmp.path().join("home");
        let me = account(&home);
        let root = |dir: &str| Project::find(fs::canonicalize(home.join(dir)), &me).unwrap().root;
        assert_eq!(root("p/src"), Some(me.home.join("p")));
        assert_eq!(root("q"), Some(me.home.join("q")), "a repository of the whole home is not a project");
        assert_eq!(root("."), None);
        assert_eq!(root(".."), None);
        assert_eq!(Project::find(Ok("/usr".into()), &me).unwrap().root, None);
        assert!(Project::find(Ok(home.join("gone")), &me).is_err());
    }

    #[test]
    fn a_worktree_counts_only_when_the_repository_names_it() {
        let tmp = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(tmp.path()).unwrap();
        let b = base.display();
        make(
            &base,
            &[
                ("home/x", ""),
                ("main/.git/HEAD", "ref: refs/heads/main\n"),
                ("main/.git/worktrees/w/commondir", "../..\n"),
                ("main/.git/worktrees/w/gitdir", &format!("{b}/w/.git\n")),
                ("w/.git", &format!("gitdir: {b}/main/.git/worktrees/w\n")),
                ("evil/.git", &format!("gitdir: {b}/main/.git/worktrees/w\n")),
                ("plain/.git", &format!("gitdir: {b}/main/.git\n")),
            ],
        );
        let me = account(&base.join("home"));
        let git = |dir: &str| Project::find(Ok(base.join(dir)), &me).unwrap().git;
        assert_eq!(git("w"), [AbsPath::known(base.join("main/.git"))]);
        assert_eq!(git("evil"), [] as [AbsPath; 0]);
        assert_eq!(git("plain"), [] as [AbsPath; 0]);
        assert_eq!(git("main"), [] as [AbsPath; 0]);
    }

    #[test]
    fn a_submodule_counts_only_when_its_git_directory_names_it() {
        let tmp = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(tmp.path()).unwrap();
        make(
            &base,
            &[
                ("home/x", ""),
                ("super/.git/HEAD", ""),
                ("super/.git/modules/sub/HEAD", ""),
                ("super/.git/modules/sub/config", "[core]\n\tbare = false\n\tworktree = ../../../sub\n"),
                ("super/sub/.git", "gitdir: ../.git/modules/sub\n"),
                ("evil/.git", "gitdir: ../super/.git/modules/sub\n"),
            ],
        );
        let me = account(&base.join("home"));
        let git = |dir: &str| Project::find(Ok(base.join(dir)), &me).unwrap().git;
        assert_eq!(git("super/sub"), [AbsPath::known(base.join("super/.git/modules/sub"))]);
        assert_eq!(git("evil"), [] as [AbsPath; 0]);
    }
}
