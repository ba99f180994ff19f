//! The command to run: which file its name means, and what must be readable for that file to start.
//!
//! In: the command as typed, PATH and the current directory. Out: [`Program`]. It reads a script's first line and a
//! virtual environment's `pyvenv.cfg`; it runs nothing.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::path::AbsPath;

/// A command found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The command as typed: `argv[0]`.
    pub typed: OsString,
    /// The file by which it is executed, as PATH or the user spelled it: a program may look at its own name.
    pub path: AbsPath,
    /// Files and directories that must be readable for it to start, without symlinks.
    pub needs: Vec<AbsPath>,
}

/// The directories a search happens in.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// The current directory.
    pub cwd: &'a AbsPath,
    /// The user's home.
    pub home: &'a AbsPath,
    /// The project. What lies in it is granted anyway, and its scripts and `pyvenv.cfg` may not name anything else
    /// to be granted: a repository could open another project that way.
    pub project: Option<&'a AbsPath>,
}

/// Why a command cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// Nothing of this name: exit code 127.
    #[error("cannot find the command {}", crate::path::printable(.0))]
    NotFound(OsString),
    /// A file, but not one to execute: exit code 126.
    #[error("cannot execute {}", crate::path::printable(.0))]
    NotExecutable(OsString),
}

impl Program {
    /// Finds the file a command means.
    ///
    /// # Errors
    /// [`ProgramError`], in the shell's terms: not found (127) or not executable (126).
    pub fn find(command: &OsStr, search: &OsStr, around: &Around<'_>) -> Result<Self, ProgramError> {
        let path = locate(command, search, around.cwd)?;
        let mut needs = Vec::new();
        collect(path.as_path(), search, around, &mut needs, 0);
        Ok(Self { typed: command.to_owned(), path, needs })
    }
}

/// Every executable file called `name` in the directories of PATH, without symlinks.
#[must_use]
pub fn all_named(name: &str, search: &OsStr, cwd: &AbsPath) -> Vec<AbsPath> {
    let dirs = directories(search, cwd).map(|dir| dir.join(name));
    let mut found: Vec<AbsPath> = dirs
        .filter(|file| is_executable(file))
        .flat_map(|file| {
            let real = fs::canonicalize(&file).ok();
            [Some(file), real].into_iter().flatten().filter_map(|p| AbsPath::new(p).ok())
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

fn directories<'a>(search: &'a OsStr, cwd: &'a AbsPath) -> impl Iterator<Item = PathBuf> + 'a {
    search.as_bytes().split(|b| *b == b':').map(|dir| cwd.as_path().join(OsStr::from_bytes(dir)))
}

fn locate(command: &OsStr, search: &OsStr, cwd: &AbsPath) -> Result<AbsPath, ProgramError> {
    let not_found = || ProgramError::NotFound(command.to_owned());
    let not_executable = || ProgramError::NotExecutable(command.to_owned());
    if command.is_empty() {
        return Err(not_found());
    }
    if command.as_bytes().contains(&b'/') {
        let path = cwd.as_path().join(command);
        return match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(not_executable()),
            Err(_) => Err(not_found()),
            Ok(_) if is_executable(&path) => lexical(&path).ok_or_else(not_found),
            Ok(_) => Err(not_executable()),
        };
    }
    let mut seen = false;
    for dir in directories(search, cwd) {
        let file = dir.join(command);
        if is_executable(&file) {
            return lexical(&file).ok_or_else(not_found);
        }
        seen |= file.is_file();
    }
    Err(if seen { not_executable() } else { not_found() })
}

/// The path without `.` and `..`; a `..` after a symlink is resolved on disk.
fn lexical(path: &Path) -> Option<AbsPath> {
    AbsPath::new(path).ok().or_else(|| {
        let dir = fs::canonicalize(path.parent()?).ok()?;
        AbsPath::new(dir.join(path.file_name()?)).ok()
    })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// How many interpreters deep a script may be: the kernel itself stops at 4 (`bprm` recursion limit).
const MOST_INTERPRETERS: u8 = 4;

fn collect(file: &Path, search: &OsStr, around: &Around<'_>, needs: &mut Vec<AbsPath>, depth: u8) {
    let Around { cwd, home, project } = *around;
    // What the spelling needs (a link in ~/.local/bin) and what it leads to.
    let Some(real) = fs::canonicalize(file).ok().and_then(|p| AbsPath::new(p).ok()) else { return };
    if project.is_some_and(|project| real.is_within(project)) {
        return;
    }
    needs.extend(lexical(file));
    needs.push(real.clone());
    needs.push(install_tree(&real, home));
    if depth == MOST_INTERPRETERS {
        return;
    }
    if let Some(config) = venv_config(file, &real)
        && let Some(base) = venv_home(&config)
        && let Ok(base) = AbsPath::new(base)
    {
        // `home` is the bin directory of the interpreter the environment was made with.
        let prefix = base.parent().unwrap_or(base.clone());
        needs.push(if prefix.names().count() > 1 && !home.is_within(&prefix) { prefix } else { base });
    }
    for interpreter in shebang(&real) {
        let found = if interpreter.is_absolute() {
            Ok(interpreter)
        } else {
            locate(interpreter.as_os_str(), search, cwd).map(|p| p.as_path().to_owned())
        };
        if let Ok(interpreter) = found {
            collect(&interpreter, search, around, needs, depth + 1);
        }
    }
}

/// The directory an installed program needs around it: the package's tree for `…/node_modules/…` and `…/bin/x`,
/// else the file alone. Never the home or a directory above it.
fn install_tree(real: &AbsPath, home: &AbsPath) -> AbsPath {
    let narrow = |tree: AbsPath| if home.is_within(&tree) || tree.names().count() < 2 { None } else { Some(tree) };
    let parts: Vec<&OsStr> = real.names().collect();
    if let Some(at) = parts.iter().position(|part| *part == "node_modules") {
        let tree: PathBuf = parts[..=at].iter().collect();
        return narrow(AbsPath::root().join(tree)).unwrap_or_else(|| real.clone());
    }
    let dir = real.parent().unwrap_or_else(AbsPath::root);
    let own_tree = dir.file_name() == Some(OsStr::new("bin"))
        // ~/bin and ~/.local/bin hold files of many programs; what lies around them is not an installation.
        && dir != home.join("bin")
        && dir != home.join(".local/bin");
    if own_tree {
        return dir.parent().and_then(narrow).unwrap_or_else(|| real.clone());
    }
    real.clone()
}

/// The interpreter of a script: of `#!/usr/bin/env node` both `env` and the bare name `node`.
fn shebang(file: &AbsPath) -> Vec<PathBuf> {
    // The kernel reads no more of the line (BINPRM_BUF_SIZE, 256 bytes).
    let mut head = [0; 256];
    let Ok(mut opened) = fs::File::open(file) else { return Vec::new() };
    let Ok(length) = opened.read(&mut head) else { return Vec::new() };
    let Some(line) = head[..length].strip_prefix(b"#!") else { return Vec::new() };
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    let mut words =
        line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()).map(|w| PathBuf::from(OsStr::from_bytes(w)));
    let Some(first) = words.next() else { return Vec::new() };
    let mut found = vec![first.clone()];
    if first.file_name() == Some(OsStr::new("env")) {
        // Options of env and assignments come before the command.
        let command =
            words.find(|w| !w.as_os_str().as_bytes().starts_with(b"-") && !w.as_os_str().as_bytes().contains(&b'='));
        found.extend(command);
    }
    found
}

/// `pyvenv.cfg` beside or above the interpreter of a virtual environment, by its own path, not the link's target.
fn venv_config(spelled: &Path, real: &AbsPath) -> Option<PathBuf> {
    let candidates = [spelled.parent()?.parent(), real.as_path().parent()?.parent()];
    candidates.into_iter().flatten().map(|dir| dir.join("pyvenv.cfg")).find(|file| file.is_file())
}

fn venv_home(config: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(config).ok()?;
    let value = text.lines().find_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == "home"))?;
    Some(PathBuf::from(value.1.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, name: &str, text: &str) {
        let file = dir.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn finds_as_a_shell_does_and_knows_what_a_script_needs() {
        let tmp = tempfile::tempdir().unwrap();
        let home = AbsPath::known(fs::canonicalize(tmp.path()).unwrap());
        let h = home.as_path();
        script(h, ".n/v20/bin/node", "ELF");
        script(h, ".n/v20/lib/node_modules/agent/cli.js", "#!/usr/bin/env -S FOO=1 node\n");
        fs::create_dir_all(h.join(".local/bin")).unwrap();
        std::os::unix::fs::symlink("../../.n/v20/lib/node_modules/agent/cli.js", h.join(".local/bin/agent")).unwrap();
        fs::write(h.join(".local/bin/data"), "").unwrap();
        let search = OsString::from(format!("{0}/.local/bin:{0}/.n/v20/bin", home.as_path().display()));
        let around = Around { cwd: &home, home: &home, project: None };
        let find = |command: &str| Program::find(OsStr::new(command), &search, &around);

        let agent = find("agent").unwrap();
        assert_eq!(agent.path, home.join(".local/bin/agent"));
        assert!(agent.needs.contains(&home.join(".n/v20/lib/node_modules")), "{:?}", agent.needs);
        assert!(agent.needs.contains(&home.join(".n/v20")), "{:?}", agent.needs);
        assert!(!agent.needs.contains(&home));
        assert_eq!(find("nothing"), Err(ProgramError::NotFound("nothing".into())));
        assert_eq!(find("data"), Err(ProgramError::NotExecutable("data".into())));
        assert_eq!(find("./nothing"), Err(ProgramError::NotFound("./nothing".into())));
        assert_eq!(find(""), Err(ProgramError::NotFound("".into())));
        assert_eq!(find("./.n/v20/bin/node").unwrap().path, home.join(".n/v20/bin/node"));
    }

    #[test]
    fn a_script_in_the_project_opens_nothing_outside_it() {
        let tmp = tempfile::tempdir().unwrap();
        let home = AbsPath::known(fs::canonicalize(tmp.path()).unwrap());
        let h = home.as_path();
        script(h, "other/bin/tool", "ELF");
        script(h, "p/run", &format!("#!{}/other/bin/tool\n", h.display()));
        let project = home.join("p");
        let find = |project| {
            Program::find(OsStr::new("./run"), OsStr::new(""), &Around { cwd: &home.join("p"), home: &home, project })
                .unwrap()
                .needs
        };
        assert_eq!(find(Some(&project)), []);
        assert!(find(None).contains(&home.join("other")));
    }

    #[test]
    fn a_program_in_the_home_itself_opens_only_itself() {
        let home = AbsPath::known("/home/ana");
        for (file, want) in [
            ("/home/ana/bin/x", "/home/ana/bin/x"),
            ("/home/ana/.local/bin/x", "/home/ana/.local/bin/x"),
            ("/home/ana/x", "/home/ana/x"),
            ("/home/ana/tool/bin/x", "/home/ana/tool"),
            ("/home/ana/node_modules/.bin/x", "/home/ana/node_modules"),
            ("/opt/bin/x", "/opt/bin/x"),
            ("/opt/tool/bin/x", "/opt/tool"),
        ] {
            assert_eq!(install_tree(&AbsPath::known(file), &home), AbsPath::known(want), "{file}");
        }
    }
}
