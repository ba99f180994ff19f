//! Absolute paths that are compared by component.
//!
//! In: text from profiles, the command line and the kernel. Out: [`AbsPath`], which has no `.` or `..` left and no
//! doubled or trailing slashes. It is lexical: it says nothing about what is on disk, and follows no symlink.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// An absolute path without `.`, `..`, NUL, doubled or trailing slashes.
///
/// Ordered by bytes, so that a directory comes before what is below it.
#[derive(Clone)]
pub struct AbsPath(PathBuf);

impl PartialEq for AbsPath {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for AbsPath {}

impl PartialOrd for AbsPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for AbsPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for AbsPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// Maps keyed by path can be asked with bytes, which [`AbsPath::prefixes`] gives without allocating.
impl Borrow<[u8]> for AbsPath {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Why a text is not an [`AbsPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with a slash.
    #[error("the path is not absolute")]
    Relative,
    /// It has a `..` component, whose meaning depends on symlinks.
    #[error("the path contains `..`")]
    DotDot,
    /// It has a NUL byte.
    #[error("the path contains a NUL byte")]
    Nul,
    /// Not UTF-8, where a rule's text must be.
    #[error("the path is not UTF-8")]
    NotText,
}

impl AbsPath {
    /// Takes an absolute path apart and puts it together without `.` and doubled slashes.
    ///
    /// # Errors
    /// [`PathError`] for a relative path, a `..` component or a NUL byte.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, PathError> {
        let path = path.as_ref();
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(PathError::Nul);
        }
        if !path.is_absolute() {
            return Err(PathError::Relative);
        }
        let mut clean = PathBuf::from("/");
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => return Err(PathError::DotDot),
                Component::Normal(name) => clean.push(name),
            }
        }
        Ok(Self(clean))
    }

    /// A path known at compile time or built from another `AbsPath`.
    ///
    /// # Panics
    /// When the text is not an absolute path.
    #[must_use]
    pub fn known(path: impl AsRef<Path>) -> Self {
        Self::new(path).expect("a path known to be absolute")
    }

    /// The file system root.
    #[must_use]
    pub fn root() -> Self {
        Self(PathBuf::from("/"))
    }

    /// The path itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }

    /// This path with a relative one below it.
    ///
    /// # Panics
    /// When `below` is absolute or has a `..` component.
    #[must_use]
    pub fn join(&self, below: impl AsRef<Path>) -> Self {
        let below = below.as_ref();
        assert!(below.is_relative(), "joining an absolute path would leave {self}");
        let bytes = below.as_os_str().as_bytes();
        let plain = !bytes.is_empty()
            && bytes.split(|b| *b == b'/').all(|name| !name.is_empty() && !name.starts_with(b"..") && name != b".");
        // A launch joins hundreds of paths; the common ones need no taking apart.
        if plain { Self(self.0.join(below)) } else { Self::known(self.0.join(below)) }
    }

    /// Whether this is `other` or lies below it, by component: `/code-evil` is not within `/code`.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        match self.as_bytes().strip_prefix(other.as_bytes()) {
            Some(rest) => rest.is_empty() || rest[0] == b'/' || other.as_bytes() == b"/",
            None => false,
        }
    }

    /// The directory above, or `None` for `/`.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.parent().map(|p| Self(p.to_path_buf()))
    }

    /// The last component, or `None` for `/`.
    #[must_use]
    pub fn file_name(&self) -> Option<&OsStr> {
        self.0.file_name()
    }

    /// What remains below `base`, or `None` when this path is not within it.
    #[must_use]
    pub fn below(&self, base: &Self) -> Option<&Path> {
        self.0.strip_prefix(&base.0).ok()
    }

    /// This path and every directory above it, nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        self.0.ancestors().map(|p| Self(p.to_path_buf()))
    }

    /// The bytes of this path and of every directory above it, nearest first.
    pub fn prefixes(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = self.as_bytes();
        let slashes = bytes.iter().enumerate().rev().filter(|(at, byte)| **byte == b'/' && *at + 1 < bytes.len());
        std::iter::once(bytes).chain(slashes.map(move |(at, _)| if at == 0 { &bytes[..1] } else { &bytes[..at] }))
    }

    /// The components below `/`.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.0.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            Component::RootDir | Component::CurDir | Component::ParentDir | Component::Prefix(_) => None,
        })
    }
}

impl AsRef<Path> for AbsPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<OsStr> for AbsPath {
    fn as_ref(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(self.0.as_os_str()))
    }
}

impl fmt::Debug for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A name from disk as text that cannot steer a terminal: control characters and the Unicode characters that
/// reorder or hide text (bidirectional controls, zero-width characters) are escaped; bytes that are not UTF-8 too.
#[must_use]
pub fn printable(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            let hidden =
                matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
            if c.is_control() || hidden {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_and_refuses() {
        for (text, want) in [
            ("/", Ok("/")),
            ("//a/./b//", Ok("/a/b")),
            ("/a/../b", Err(PathError::DotDot)),
            ("a/b", Err(PathError::Relative)),
            ("", Err(PathError::Relative)),
            ("/a\0b", Err(PathError::Nul)),
        ] {
            assert_eq!(AbsPath::new(text), want.map(|p| AbsPath(PathBuf::from(p))), "{text:?}");
        }
    }

    #[test]
    fn within_is_by_component() {
        let code = AbsPath::known("/code");
        for (path, want) in [("/code", true), ("/code/x", true), ("/code-evil", false), ("/", false)] {
            assert_eq!(AbsPath::known(path).is_within(&code), want, "{path}");
            assert!(AbsPath::known(path).is_within(&AbsPath::root()), "{path}");
        }
    }

    #[test]
    fn prefixes_are_the_directories_above() {
        for (path, want) in [("/a/b/c", &["/a/b/c", "/a/b", "/a", "/"][..]), ("/a", &["/a", "/"]), ("/", &["/"])] {
            let path = AbsPath::known(path);
            let found: Vec<_> = path.prefixes().map(|p| std::str::from_utf8(p).unwrap()).collect();
            assert_eq!(found, want);
            let above: Vec<_> = path.ancestors().collect();
            assert_eq!(above, want.iter().map(AbsPath::known).collect::<Vec<_>>());
        }
    }

    #[test]
    fn joins() {
        for (below, want) in
            [("b", "/a/b"), ("b/c", "/a/b/c"), (".b", "/a/.b"), ("./b//c/", "/a/b/c"), ("", "/a"), ("..b", "/a/..b")]
        {
            assert_eq!(AbsPath::known("/a").join(below), AbsPath::known(want), "{below}");
        }
        assert!(std::panic::catch_unwind(|| AbsPath::known("/a").join("../b")).is_err());
    }

    #[test]
    fn names_from_disk_cannot_steer_the_terminal() {
        assert_eq!(printable(OsStr::new("a\u{1b}]52;c\n")), "a\\u{1b}]52;c\\n");
        assert_eq!(printable(OsStr::from_bytes(b"\xff\xe2\x80\xae")), "\\xff\\u{202e}");
        assert_eq!(printable(OsStr::new("größe")), "größe");
    }
}
