//! Where guard keeps what belongs to a sandbox, and whose it is right now.
//!
//! In: the account and the project. Out: a [`Store`] and the [`Hold`] on it. Everything lies in guard's data
//! directory, mode 0700, which no sandbox sees as a whole. A session that was killed leaves a directory whose lock
//! nobody holds; the next start removes it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::account::Account;
use crate::path::AbsPath;
use crate::plan::Store;
use crate::project::Project;

/// Why guard's data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use guard's data directory {path}")]
pub struct StoreError {
    /// The directory or a file in it.
    pub path: AbsPath,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// Locks that last as long as the session. Dropping it removes the session's own directory.
#[derive(Debug)]
pub struct Hold {
    _home: Option<File>,
    session: Option<(AbsPath, File)>,
}

/// The paths of a sandbox's store, without making or locking anything: for plans that are only looked at.
#[must_use]
pub fn locate(account: &Account, project: &Project) -> Store {
    // Sources of mounts are opened without following symlinks, so a linked ~/.local must be followed here.
    let data = account.data();
    let data = fs::canonicalize(&data).ok().and_then(|p| AbsPath::new(p).ok()).unwrap_or(data);
    let home = data.join("homes").join(name(project));
    Store {
        home: home.join("home"),
        flat_home: home.join("flat"),
        layers: home.join("layers"),
        session: data.join("sessions").join(session_name()),
        shared: data.join("shared"),
        canary: data.join("canary"),
    }
}

/// Makes and locks the store for a session.
///
/// # Errors
/// [`StoreError`]: no space, no permission, or a directory that is not the user's own.
pub fn open(account: &Account, project: &Project) -> Result<(Store, Hold), StoreError> {
    let data = account.data();
    let failed = |path: &AbsPath| {
        let path = path.clone();
        move |source| StoreError { path, source }
    };
    let make = |dir: &AbsPath| fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir));
    make(&data)?;
    // Were it missing, an agent with a grant around it could make it, and the next start would obey what is in it.
    make(&account.config())?;
    let meta = fs::metadata(&data).map_err(failed(&data))?;
    if meta.uid() != account.uid || meta.mode() & 0o022 != 0 {
        let source =
            io::Error::new(io::ErrorKind::PermissionDenied, "it must belong to you, and only you may write to it");
        return Err(failed(&data)(source));
    }
    let mut store = locate(account, project);
    let top = store.home.parent().expect("a directory below the data directory");
    make(&top)?;
    // For a person who wonders whose home this is.
    if let Some(root) = &project.root {
        let note = top.join("project");
        if fs::symlink_metadata(&note).is_err() {
            fs::write(&note, [root.as_bytes(), b"\n"].concat()).map_err(failed(&note))?;
        }
    }
    let home = lock(&top.join("lock")).map_err(failed(&top))?;
    let sessions = store.session.parent().expect("a directory below the data directory");
    sweep(&sessions);
    make(&store.session)?;
    let session = lock(&store.session.join("lock")).map_err(failed(&store.session))?;
    let session = session.ok_or_else(|| failed(&store.session)(io::ErrorKind::ResourceBusy.into()))?;
    if home.is_none() {
        // Another session of this project uses the private layers; two overlays on one are undefined behaviour
        // (Documentation/filesystems/overlayfs.rst), so this one gets its own, for as long as it lasts.
        store.layers = store.session.join("layers");
    }
    let hold = Hold { _home: home, session: Some((store.session.clone(), session)) };
    Ok((store, hold))
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some((dir, lock)) = self.session.take() {
            remove(dir.as_path());
            drop(lock);
        }
    }
}

/// The lock on a file, or `None` while another process holds it. It lasts until the file is closed.
fn lock(path: &AbsPath) -> io::Result<Option<File>> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Removes what killed sessions left. One that cannot be removed is left for the next start.
fn sweep(sessions: &AbsPath) {
    for entry in fs::read_dir(sessions).into_iter().flatten().flatten() {
        let dir = sessions.join(entry.file_name());
        // Without a lock file it is being made at this moment, or was left in the instant before.
        if let Ok(Some(_held)) = existing_lock(&dir.join("lock")) {
            remove(dir.as_path());
        }
    }
}

fn existing_lock(path: &AbsPath) -> io::Result<Option<File>> {
    let file = File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    Ok(file.try_lock().is_ok().then_some(file))
}

/// Removes a tree of the user's own, also directories that overlayfs or an agent left without permissions.
fn remove(dir: &Path) {
    if fs::remove_dir_all(dir).is_err() {
        open_up(dir);
        // What is left now belongs to somebody else or sits on a failing disk; the next start tries again.
        let _ = fs::remove_dir_all(dir);
    }
}

fn open_up(dir: &Path) {
    let Ok(meta) = fs::symlink_metadata(dir) else { return };
    if !meta.is_dir() {
        return;
    }
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        open_up(&entry.path());
    }
}

/// A project's name in the store: readable, and unique by the hash of its path.
fn name(project: &Project) -> String {
    let Some(root) = &project.root else { return "none".into() };
    let digest = Sha256::digest(root.as_bytes());
    let hash: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let last = root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let readable: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(32).collect();
    format!("{readable}-{hash}")
}

fn session_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{}-{now:x}", std::process::id())
}
