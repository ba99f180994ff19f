//! Who runs guard, and where their home is.
//!
//! In: the kernel's word for the ids, `/etc/passwd` for the home, and the environment as a claim. Out: [`Account`].
//! guard's own configuration and data hang on the home of the passwd entry alone: a variable that a project's
//! `.envrc` can set must not choose what guard obeys.
//! Limit: users that only a name service knows (LDAP, sssd) have no line in `/etc/passwd`, and a static binary cannot
//! ask name services; for them `$HOME` counts, if it is a directory of theirs that nobody else may write to.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::path::AbsPath;

/// The user guard acts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// All groups, for judging file modes.
    pub groups: Vec<u32>,
    /// The login name, if the passwd file has one.
    pub name: Option<String>,
    /// Home by the passwd entry, without symlinks: what guard's own files hang on.
    pub anchor: AbsPath,
    /// The home the agent sees: `$HOME` where that is sound, else the anchor. Without symlinks.
    pub home: AbsPath,
}

/// Why there is no usable home.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// `/etc/passwd` cannot be read.
    #[error("cannot read /etc/passwd")]
    Passwd(#[source] io::Error),
    /// The home is not usable.
    #[error("cannot use {} as home directory", path.display())]
    Home {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: HomeFault,
    },
    /// set-user-id or set-group-id, or a mismatch of real and effective ids.
    #[error("guard runs with ids that are not the user's own")]
    MixedIds,
}

/// What is wrong with a home directory.
#[derive(Debug, thiserror::Error)]
pub enum HomeFault {
    /// The system's answer.
    #[error("{0}")]
    System(#[from] io::Error),
    /// Relative, or with `..`.
    #[error("{0}")]
    Path(#[from] crate::path::PathError),
    /// Not set and not in `/etc/passwd`.
    #[error("HOME is not set, and /etc/passwd has no line for this user")]
    Missing,
    /// Whoever writes the project would choose what guard obeys.
    #[error("it lies in the project")]
    InProject,
    /// It is `/`: private state of a user cannot live there.
    #[error("it is the root of the file system")]
    Root,
    /// Somebody else's.
    #[error("it belongs to uid {0}")]
    Owner(u32),
    /// Others may write to it.
    #[error("other users may write to it (mode {0:04o})")]
    Mode(u32),
}

impl AccountError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Passwd(_) => Some("guard reads your home directory from it; make it readable".into()),
            Self::Home { .. } => {
                Some("set HOME to a directory that belongs to you and that only you can write to".into())
            }
            Self::MixedIds => {
                Some("run guard as the user the agent should run as, without set-user-id programs".into())
            }
        }
    }
}

impl Account {
    /// Reads who the user is.
    ///
    /// # Errors
    /// [`AccountError`], when there is no home to rely on.
    pub fn read(env: &Env) -> Result<Self, AccountError> {
        let ids = (nix::unistd::getuid(), nix::unistd::geteuid(), nix::unistd::getgid(), nix::unistd::getegid());
        if ids.0 != ids.1 || ids.2 != ids.3 {
            return Err(AccountError::MixedIds);
        }
        let uid = ids.0.as_raw();
        let groups = nix::unistd::getgroups().unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw).collect();
        let passwd = match fs::read("/etc/passwd") {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(AccountError::Passwd(e)),
        };
        let entry = passwd_entry(&passwd, uid);
        let claimed = env.get("HOME").map(Path::new).filter(|h| !h.as_os_str().is_empty());
        let anchor = entry.as_ref().map(|(_, home)| home.as_path()).filter(|home| usable(home, uid).is_ok());
        let fault = |path: &Path, source| AccountError::Home { path: path.into(), source };
        let anchor = match (anchor, claimed) {
            (Some(home), _) | (None, Some(home)) => usable(home, uid).map_err(|e| fault(home, e))?,
            (None, None) => return Err(fault(Path::new("HOME"), HomeFault::Missing)),
        };
        let home = match claimed {
            Some(home) => usable(home, uid).map_err(|e| fault(home, e))?,
            None => anchor.clone(),
        };
        Ok(Self { uid, gid: ids.2.as_raw(), groups, name: entry.map(|(name, _)| name), anchor, home })
    }

    /// Refuses a home that the project could have brought along: one that the passwd entry does not name, in the
    /// current directory or in a repository.
    ///
    /// # Errors
    /// [`AccountError::Home`].
    pub fn check_against(&self, cwd: &AbsPath) -> Result<(), AccountError> {
        if self.name.is_some() && self.home == self.anchor {
            return Ok(());
        }
        let above = || self.home.ancestors().skip(1);
        let in_cwd = *cwd != AbsPath::root() && above().any(|dir| dir == *cwd);
        let in_repository = above().any(|dir| fs::symlink_metadata(dir.join(".git")).is_ok());
        if in_cwd || in_repository {
            return Err(AccountError::Home { path: self.home.as_path().into(), source: HomeFault::InProject });
        }
        Ok(())
    }

    /// guard's configuration.
    #[must_use]
    pub fn config(&self) -> AbsPath {
        self.anchor.join(".config/guard")
    }

    /// guard's data: sandbox homes, private layers, merged files.
    #[must_use]
    pub fn data(&self) -> AbsPath {
        self.anchor.join(".local/share/guard")
    }

    /// Whether the file mode lets this user do `want` (a mask of 4 read, 2 write, 1 execute), for a process without
    /// capabilities: inside, root has none.
    #[must_use]
    pub fn may(&self, mode: u32, uid: u32, gid: u32, want: u32) -> bool {
        let shift = if uid == self.uid {
            6
        } else if gid == self.gid || self.groups.contains(&gid) {
            3
        } else {
            0
        };
        (mode >> shift) & want == want
    }
}

/// The home as it is on disk, if it can be relied on.
fn usable(home: &Path, uid: u32) -> Result<AbsPath, HomeFault> {
    AbsPath::new(home)?;
    let path = AbsPath::new(fs::canonicalize(home)?)?;
    if path == AbsPath::root() {
        return Err(HomeFault::Root);
    }
    let meta = fs::metadata(&path)?;
    if !meta.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR).into());
    }
    if meta.uid() != uid {
        return Err(HomeFault::Owner(meta.uid()));
    }
    if meta.mode() & 0o002 != 0 {
        return Err(HomeFault::Mode(meta.mode() & 0o7777));
    }
    Ok(path)
}

/// Name and home of the first line for this uid.
fn passwd_entry(passwd: &[u8], uid: u32) -> Option<(String, PathBuf)> {
    passwd.split(|b| *b == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
        let [name, _, id, _, _, home, ..] = fields[..] else { return None };
        let id: u32 = std::str::from_utf8(id).ok()?.parse().ok()?;
        (id == uid).then(|| (String::from_utf8_lossy(name).into_owned(), PathBuf::from(OsStr::from_bytes(home))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines() {
        let text = b"root:x:0:0:root:/root:/bin/sh\nbad\nana:x:1000:1000::/home/ana:/bin/zsh\nana2:x:1000:1::/x:/y\n";
        assert_eq!(passwd_entry(text, 1000), Some(("ana".into(), "/home/ana".into())));
        assert_eq!(passwd_entry(text, 7), None);
    }

    #[test]
    fn modes_count_owner_then_group_then_others() {
        let me = Account {
            uid: 1000,
            gid: 1000,
            groups: vec![27],
            name: None,
            anchor: AbsPath::known("/h"),
            home: AbsPath::known("/h"),
        };
        for (mode, uid, gid, want, allowed) in [
            (0o400, 1000, 1, 4, true),
            (0o077, 1000, 1, 4, false),
            (0o040, 0, 27, 4, true),
            (0o707, 0, 27, 1, false),
            (0o005, 0, 1, 5, true),
        ] {
            assert_eq!(me.may(mode, uid, gid, want), allowed, "{mode:o} {uid} {gid} {want}");
        }
    }
}
