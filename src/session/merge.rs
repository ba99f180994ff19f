//! The keeper of files that an agent replaces by rename: two files, kept equal key by key.
//!
//! In: a [`Merged`] pair. The agent writes its copy in a directory of its own, where rename works; this module
//! carries changes to the real file and back, as differences against what it saw last on each side. Changes made
//! outside win; what the profile keeps outside never leaves the sandbox. Both files are whole at every moment.
//! Limits: JSON only; a file that is too large or not valid is left alone until it is.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::path::AbsPath;
use crate::plan::Merged;

/// Larger than any state file seen; the copy is the agent's to fill.
const MOST_BYTES: u64 = 32 << 20;

/// Claude Code takes its lock directory for stale after this time (observed, 2.1.197).
const STALE_LOCK: Duration = Duration::from_secs(10);

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Both sides hold what they should.
    Done,
    /// A program outside holds the file's lock; try again shortly.
    Busy,
}

/// Carries changes both ways once.
///
/// # Errors
/// The system's answer; both files are whole nevertheless.
pub fn sync(pair: &Merged, project: Option<&AbsPath>) -> io::Result<Round> {
    let base = base_dir(pair);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&base)?;
    // Two sessions keep the same pair.
    let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(base.join("lock"))?;
    lock.lock()?;
    let name = pair.copy.file_name().expect("a file below the store").to_string_lossy().into_owned();
    let (base_out, base_in) = (base.join(format!("{name}.outside")), base.join(format!("{name}.inside")));
    let real = target(&pair.real);
    let (outside, inside) = (read(&real)?, read(&pair.copy)?);
    let (was_out, was_in) = (read(&base_out)?, read(&base_in)?);
    if outside == was_out && inside == was_in {
        return Ok(Round::Done);
    }
    let parse = |bytes: &Option<Vec<u8>>| -> Result<Option<Value>, ()> {
        match bytes {
            None => Ok(None),
            Some(bytes) => serde_json::from_slice(bytes).map(Some).map_err(|_| ()),
        }
    };
    // A file that is not JSON at this moment is left alone: an editor may be in the middle of it.
    let (Ok(out), Ok(ins)) = (parse(&outside), parse(&inside)) else { return Ok(Round::Done) };
    let (was_out, was_in) = (parse(&was_out).unwrap_or_default(), parse(&was_in).unwrap_or_default());
    let may_leave = |path: &[&str]| may_leave(path, pair, project);
    let mut new_out = out.clone();
    carry(
        was_in.as_ref(),
        ins.as_ref(),
        &mut new_out,
        Some((was_out.as_ref(), out.as_ref())),
        &mut Vec::new(),
        &may_leave,
    );
    let mut new_in = ins.clone();
    carry(was_out.as_ref(), out.as_ref(), &mut new_in, None, &mut Vec::new(), &|_| true);
    // What is remembered at the end is what this round has seen or written. Reading the files again would take a
    // change made in the meantime for one that was carried over already, and it would be lost. Giving up before
    // anything is remembered is safe: the next round finds the same differences.
    let (mut seen_out, mut seen_in) = (outside, inside);
    if new_in != ins
        && let Some(value) = &new_in
    {
        // The agent takes its lock in the sandbox home, which is not shared, so this narrows the gap and no more.
        if read(&pair.copy)? != seen_in {
            return Ok(Round::Busy);
        }
        let bytes = serde_json::to_vec_pretty(value)?;
        write_whole(&pair.copy, &bytes, 0o600)?;
        seen_in = Some(bytes);
    }
    if new_out != out
        && let Some(value) = &new_out
    {
        let bytes = serde_json::to_vec_pretty(value)?;
        if write_real(&real, &pair.real, &bytes, &seen_out)? == Round::Busy {
            return Ok(Round::Busy);
        }
        seen_out = Some(bytes);
    }
    remember(&base_out, &seen_out)?;
    remember(&base_in, &seen_in)?;
    Ok(Round::Done)
}

/// The directories whose changes call for a round, with the names that matter in each.
pub fn watched(pair: &Merged) -> Vec<(AbsPath, std::ffi::OsString)> {
    [target(&pair.real), pair.copy.clone()]
        .into_iter()
        .filter_map(|file| Some((file.parent()?, file.file_name()?.to_owned())))
        .collect()
}

/// Beside the directory that the sandbox sees, not in it.
fn base_dir(pair: &Merged) -> AbsPath {
    let dir = pair.copy.parent().expect("a file below the store");
    let name = dir.file_name().expect("a directory below the store").to_string_lossy().into_owned();
    dir.parent().expect("a directory below the store").join(format!("{name}.base"))
}

/// The real file, or where it points: dotfile managers keep it elsewhere. One level, as the agent itself follows.
fn target(real: &AbsPath) -> AbsPath {
    let parent = real.parent().expect("a file in the home");
    match fs::read_link(real) {
        Ok(text) => AbsPath::new(parent.as_path().join(text)).unwrap_or_else(|_| real.clone()),
        Err(_) => real.clone(),
    }
}

fn read(path: &AbsPath) -> io::Result<Option<Vec<u8>>> {
    // The copy is the agent's: it may be a link, a FIFO or endless.
    let opened =
        File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
        Err(e) => return Err(e),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any state file should be"));
    }
    Ok(Some(bytes))
}

fn remember(base: &AbsPath, bytes: &Option<Vec<u8>>) -> io::Result<()> {
    match bytes {
        Some(bytes) => write_whole(base, bytes, 0o600),
        None => match fs::remove_file(base) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        },
    }
}

/// Writes the real file as the agent outside does: lock directory, temporary file beside it, rename.
fn write_real(file: &AbsPath, named: &AbsPath, bytes: &[u8], expected: &Option<Vec<u8>>) -> io::Result<Round> {
    let lock = named
        .parent()
        .expect("a file in the home")
        .join(format!("{}.lock", named.file_name().expect("a file in the home").to_string_lossy()));
    if let Err(e) = fs::create_dir(&lock) {
        let fresh = fs::metadata(&lock)
            .and_then(|m| m.modified())
            .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < STALE_LOCK));
        match e.kind() {
            io::ErrorKind::AlreadyExists if fresh => return Ok(Round::Busy),
            io::ErrorKind::AlreadyExists => {}
            _ => return Err(e),
        }
    }
    // A program outside may have written it since it was read; from here on the lock keeps it from that.
    let result = match read(file) {
        Ok(now) if now == *expected => {
            let mode = fs::metadata(file).map_or(0o600, |m| m.mode() & 0o777);
            write_whole(file, bytes, mode).map(|()| Round::Done)
        }
        Ok(_) => Ok(Round::Busy),
        Err(e) => Err(e),
    };
    // The lock is advice; one that cannot be removed goes stale by itself.
    let _ = fs::remove_dir(&lock);
    result
}

fn write_whole(file: &AbsPath, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = file.parent().expect("a file in a directory");
    let name = file.file_name().expect("a file in a directory").to_string_lossy().into_owned();
    // The copy's directory is the agent's too: the name is new, or what waits there could be a FIFO or a link.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let temporary = parent.join(format!("{name}.tmp.{}.{now:x}", std::process::id()));
    let mut out = File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
    let result = out.write_all(bytes).and_then(|()| out.sync_data()).and_then(|()| fs::rename(&temporary, file));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Whether a change at this key path may reach the real file.
fn may_leave(path: &[&str], pair: &Merged, project: Option<&AbsPath>) -> bool {
    let kept = pair.keep_outside.iter().any(|pattern| {
        let keys: Vec<&str> = pattern.split('.').collect();
        path.len() >= keys.len() && keys.iter().zip(path).all(|(key, at)| *key == "*" || key == at)
    });
    if kept {
        return false;
    }
    match (&pair.by_project, path) {
        (Some(key), [first, directory, ..]) if first == key => {
            project.is_some_and(|root| AbsPath::new(directory).is_ok_and(|dir| dir.is_within(root)))
        }
        // The whole table at once could only come from a real file that lacks it.
        (Some(key), [first]) if first == key => false,
        (_, _) => true,
    }
}

/// The table, if it is one.
fn keys_of(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// Carries the difference between `was` and `now` over to `target`. Where the other side changed the same place
/// (`other`: what it was, what it is), that side's value stays.
fn carry(
    was: Option<&Value>,
    now: Option<&Value>,
    target: &mut Option<Value>,
    other: Option<(Option<&Value>, Option<&Value>)>,
    path: &mut Vec<String>,
    may: &dyn Fn(&[&str]) -> bool,
) {
    if was == now {
        return;
    }
    let empty = Map::new();
    // Key by key, where the new value is a table and the target is one or can become one.
    if let Some(now_keys) = keys_of(now)
        && target.as_ref().is_none_or(Value::is_object)
    {
        let was_keys = keys_of(was).unwrap_or(&empty);
        let mut keys: Vec<&String> = now_keys.keys().collect();
        keys.extend(was_keys.keys().filter(|k| !now_keys.contains_key(*k)));
        let existed = target.is_some();
        let mut table = match target.take() {
            Some(Value::Object(table)) => table,
            Some(_) | None => Map::new(),
        };
        for key in keys {
            let mut value = table.get(key).cloned();
            let before = value.clone();
            let other =
                other.map(|(was, is)| (keys_of(was).and_then(|t| t.get(key)), keys_of(is).and_then(|t| t.get(key))));
            path.push(key.clone());
            carry(was_keys.get(key), now_keys.get(key), &mut value, other, path, may);
            path.pop();
            if value != before {
                match value {
                    Some(value) => table.insert(key.clone(), value),
                    None => table.shift_remove(key),
                };
            }
        }
        // A table of which nothing may be carried over does not leave its empty shell behind.
        let keys: Vec<&str> = path.iter().map(String::as_str).collect();
        if existed || !table.is_empty() || may(&keys) {
            *target = Some(Value::Object(table));
        }
        return;
    }
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    let theirs = other.is_some_and(|(was, is)| was != is);
    if !theirs && may(&keys) && !(path.is_empty() && now.is_none()) {
        *target = now.cloned();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Pair {
        _tmp: tempfile::TempDir,
        merged: Merged,
    }

    impl Pair {
        fn new() -> Self {
            let tmp = tempfile::tempdir().unwrap();
            let top = AbsPath::known(fs::canonicalize(tmp.path()).unwrap());
            fs::create_dir_all(top.join("shared/claude")).unwrap();
            let merged = Merged {
                real: top.join("state.json"),
                copy: top.join("shared/claude/state.json"),
                dir_inside: AbsPath::known("/run/guard/shared/claude"),
                keep_outside: vec!["mcpServers".into(), "projects.*.mcpServers".into()],
                by_project: Some("projects".into()),
            };
            Self { _tmp: tmp, merged }
        }

        fn put(&self, file: &AbsPath, value: &Value) {
            fs::write(file, serde_json::to_vec(value).unwrap()).unwrap();
        }

        fn sync(&self) -> (Value, Value) {
            assert_eq!(sync(&self.merged, Some(&AbsPath::known("/p"))).unwrap(), Round::Done);
            let get = |file| read(file).unwrap().map_or(Value::Null, |b| serde_json::from_slice(&b).unwrap());
            (get(&self.merged.real), get(&self.merged.copy))
        }
    }

    #[test]
    fn changes_travel_both_ways_and_outside_wins() {
        let pair = Pair::new();
        pair.put(&pair.merged.real, &json!({"n": 1, "login": "a", "gone": 1}));
        let (_, inside) = pair.sync();
        assert_eq!(inside, json!({"n": 1, "login": "a", "gone": 1}));
        pair.put(&pair.merged.copy, &json!({"n": 2, "login": "inside", "tips": 3}));
        pair.put(&pair.merged.real, &json!({"n": 1, "login": "outside", "gone": 1}));
        let (outside, inside) = pair.sync();
        assert_eq!(outside, json!({"n": 2, "login": "outside", "tips": 3}));
        assert_eq!(inside, outside);
        assert_eq!(pair.sync(), (outside.clone(), outside));
    }

    #[test]
    fn what_outside_obeys_does_not_leave() {
        let pair = Pair::new();
        pair.put(&pair.merged.real, &json!({"mcpServers": {"mine": {}}, "projects": {"/q": {"trust": false}}}));
        pair.sync();
        pair.put(
            &pair.merged.copy,
            &json!({
                "mcpServers": {"mine": {}, "evil": {"command": "sh"}},
                "projects": {"/q": {"trust": true}, "/p": {"trust": true, "mcpServers": {"evil": {}}}, "/p/sub": {"n": 1}, "/p-evil": {"trust": true}},
            }),
        );
        let (outside, inside) = pair.sync();
        assert_eq!(
            outside,
            json!({"mcpServers": {"mine": {}}, "projects": {"/q": {"trust": false}, "/p": {"trust": true}, "/p/sub": {"n": 1}}})
        );
        assert!(inside["mcpServers"]["evil"].is_object(), "the sandbox keeps what it made for itself");
        // And it stays that way when something else changes.
        pair.put(&pair.merged.real, &json!({"mcpServers": {"mine": {}}, "projects": {"/q": {"trust": false}}, "n": 1}));
        let (outside, inside) = pair.sync();
        assert!(outside["mcpServers"].get("evil").is_none());
        assert_eq!(inside["n"], json!(1));
    }

    #[test]
    fn a_first_login_inside_reaches_the_real_home() {
        let pair = Pair::new();
        assert_eq!(pair.sync(), (Value::Null, Value::Null));
        pair.put(&pair.merged.copy, &json!({"login": "a", "mcpServers": {"x": {}}}));
        let (outside, _) = pair.sync();
        assert_eq!(outside, json!({"login": "a"}));
    }

    #[test]
    fn nonsense_from_inside_is_left_alone() {
        let pair = Pair::new();
        pair.put(&pair.merged.real, &json!({"n": 1}));
        pair.sync();
        fs::write(&pair.merged.copy, "{").unwrap();
        assert_eq!(sync(&pair.merged, None).unwrap(), Round::Done);
        fs::remove_file(&pair.merged.copy).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &pair.merged.copy).unwrap();
        sync(&pair.merged, None).unwrap();
        assert_eq!(fs::read_to_string(&pair.merged.real).unwrap(), r#"{"n":1}"#);
        assert_eq!(read(&AbsPath::known("/dev/null")).unwrap(), None);
    }

    #[test]
    fn a_lock_held_outside_is_respected_until_it_is_stale() {
        let pair = Pair::new();
        pair.put(&pair.merged.real, &json!({"n": 1}));
        pair.sync();
        pair.put(&pair.merged.copy, &json!({"n": 2}));
        let lock = pair.merged.real.parent().unwrap().join("state.json.lock");
        fs::create_dir(&lock).unwrap();
        assert_eq!(sync(&pair.merged, None).unwrap(), Round::Busy);
        let old = SystemTime::now() - STALE_LOCK - Duration::from_secs(1);
        File::open(&lock).unwrap().set_modified(old).unwrap();
        assert_eq!(pair.sync().0, json!({"n": 2}));
        assert!(!lock.as_path().exists());
    }
}
