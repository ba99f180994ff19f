//! Profiles: which files apply to a start, in which order, read and parsed.
//!
//! In: names and places ([`Request`]). Out: [`Layer`]s, weakest first, each with its source, so that every rule can
//! say which line it came from. This module decides no access; it only reads files it may obey.

pub mod builtin;
mod error;
pub mod schema;

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

pub use builtin::{BUILTINS, Builtin, BuiltinKind};
pub use error::{Invalid, Place, ProfileError, Unfit, nearest};
pub use schema::Profile;
use schema::Text;

use crate::path::AbsPath;

/// No profile written by a person comes near this; noise and devices do not get past it.
pub const MAX_BYTES: u64 = 256 * 1024;

/// A text and the name its origins carry.
#[derive(Debug)]
pub struct Source {
    /// The file as the user knows it.
    pub name: Arc<str>,
    /// Its content.
    pub text: String,
    /// Where each line but the first begins.
    lines: Vec<usize>,
}

impl Source {
    /// A text from a file of this name.
    #[must_use]
    pub fn new(name: &str, text: String) -> Self {
        let lines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1).collect();
        Self { name: name.into(), text, lines }
    }

    /// The line of a byte, counted from 1.
    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at) + 1
    }
}

/// Where a rule comes from: `file:line`, or `command line`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    file: Arc<str>,
    line: Option<usize>,
}

impl Origin {
    /// An origin without a line.
    #[must_use]
    pub fn text(name: &str) -> Self {
        Self { file: name.into(), line: None }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file),
            None => f.write_str(&self.file),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a layer is, weakest first: the order of this enum is the order of merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerKind {
    /// `/etc/guard/managed.toml`, what it grants.
    ManagedGrants,
    /// Built-in: every sandbox.
    Base,
    /// Built-in: a toolchain found from project markers or on the machine.
    Toolchain,
    /// Built-in or the user's: the agent.
    Agent,
    /// `config.toml` of the user.
    User,
    /// A profile that `directories.toml` of the user names for this directory.
    Directory,
    /// The project's `.guard.toml` (applies once trust exists).
    Project,
    /// Flags.
    CommandLine,
    /// `/etc/guard/managed.toml`, what it takes away: the floor.
    ManagedFloor,
    /// Built-in: what no layer opens.
    Terminal,
}

/// One profile in force.
#[derive(Debug)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
    /// Its text.
    pub source: Arc<Source>,
    /// The parsed text.
    pub profile: Profile,
}

impl Layer {
    /// The origin of something read from this layer.
    #[must_use]
    pub fn origin<T>(&self, what: &Spanned<T>) -> Origin {
        // Flags carry no text; their origin has no line.
        let line = (!self.source.text.is_empty()).then(|| self.source.line(what.span().start));
        Origin { file: Arc::clone(&self.source.name), line }
    }

    /// Whether it comes with the binary: a user's profile may have a built-in one's name.
    #[must_use]
    pub fn is_builtin(&self) -> bool {
        builtin::by_name(&self.name).is_some_and(|b| *self.source.name == *b.file)
    }

    /// An error at something read from this layer.
    #[must_use]
    pub fn invalid<T>(&self, what: &Spanned<T>, source: Invalid) -> ProfileError {
        ProfileError::Invalid { place: Place::new(&self.source, what.span()), source }
    }
}

/// What is asked of the loader.
#[derive(Debug)]
pub struct Request<'a> {
    /// The agent's profile: a built-in or user profile by name.
    pub agent: &'a str,
    /// The user's configuration directory of guard.
    pub config: &'a AbsPath,
    /// The home that `~` in `directories.toml` and `detect.paths` means.
    pub home: &'a AbsPath,
    /// The directory whose rules apply.
    pub directory: &'a AbsPath,
    /// Names in the project's top directory and the current one.
    pub markers: &'a [String],
    /// Grants of the command line, already a profile.
    pub command_line: Profile,
    /// The user, whose files guard obeys.
    pub uid: u32,
    /// The managed floor; a parameter so that tests need no `/etc`.
    pub managed: &'a Path,
}

/// Reads and orders every profile that applies.
///
/// # Errors
/// [`ProfileError`] for a file that exists and cannot be read, is not fit to be obeyed, or does not parse; for an
/// unknown name; for a circle in `extends`. A missing optional file is no error.
pub fn load(request: Request<'_>) -> Result<Vec<Layer>, ProfileError> {
    let mut loader = Loader { request: &request, layers: Vec::new() };
    for builtin in BUILTINS.iter().filter(|b| b.kind == BuiltinKind::Base) {
        let kind = if builtin.name == "terminal" { LayerKind::Terminal } else { LayerKind::Base };
        loader.push(kind, builtin.name, builtin_source(builtin), &mut Vec::new())?;
    }
    for pack in BUILTINS.iter().filter(|b| b.kind == BuiltinKind::Toolchain && applies(b, &request)) {
        loader.push(LayerKind::Toolchain, pack.name, builtin_source(pack), &mut Vec::new())?;
    }
    loader.named(LayerKind::Agent, request.agent)?;
    if let Some(source) = read(&request.config.join("config.toml"), &[0, request.uid])? {
        loader.push(LayerKind::User, "config", source, &mut Vec::new())?;
    }
    for name in directory_profiles(&request)? {
        loader.named(LayerKind::Directory, &name)?;
    }
    if let Some(source) = read(&AbsPath::known(request.managed), &[0])? {
        let source = Arc::new(source);
        let profile = parse(&source)?;
        if let Some(parent) = profile.extends.first() {
            let place = Place::new(&source, parent.span());
            return Err(ProfileError::Invalid { place, source: Invalid::ManagedExtends });
        }
        for kind in [LayerKind::ManagedGrants, LayerKind::ManagedFloor] {
            loader.layers.push(Layer {
                name: "managed".into(),
                kind,
                source: Arc::clone(&source),
                profile: profile.clone(),
            });
        }
    }
    let mut layers = loader.layers;
    let flags = Source::new("command line", String::new());
    layers.push(Layer {
        name: "command line".into(),
        kind: LayerKind::CommandLine,
        source: Arc::new(flags),
        profile: request.command_line,
    });
    layers.sort_by_key(|layer| layer.kind);
    Ok(layers)
}

/// Parses one text as a profile.
///
/// # Errors
/// [`ProfileError::Invalid`] with the place.
pub fn parse(source: &Source) -> Result<Profile, ProfileError> {
    toml::from_str(&source.text).map_err(|e| toml_error(source, &e))
}

/// Reads a file that may be obeyed, or `None` when it does not exist.
///
/// # Errors
/// [`ProfileError::Read`] and [`ProfileError::Unfit`].
pub fn read(path: &AbsPath, owners: &[u32]) -> Result<Option<Source>, ProfileError> {
    let failed = |source| ProfileError::Read { path: path.as_path().into(), source };
    let unfit = |source| ProfileError::Unfit { path: path.as_path().into(), source };
    // Non-blocking, or a FIFO in its place would make guard wait for ever.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let mut file = match opened {
        Ok(file) => file,
        // A link that leads nowhere is a file that should be there: what it takes away must not vanish with it.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && std::fs::symlink_metadata(path).is_err() => {
            return Ok(None);
        }
        Err(e) => return Err(failed(e)),
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(unfit(Unfit::NotAFile));
    }
    if !owners.contains(&meta.uid()) {
        return Err(unfit(Unfit::Owner(meta.uid())));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(unfit(Unfit::Mode(meta.mode() & 0o7777)));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unfit(Unfit::TooLarge));
    }
    let text = String::from_utf8(bytes).map_err(|_| unfit(Unfit::NotText))?;
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(unfit(Unfit::NotText));
    }
    let name = crate::path::printable(path.as_ref());
    Ok(Some(Source::new(&name, text)))
}

/// The names of the user's own profiles.
#[must_use]
pub fn user_profiles(config: &AbsPath) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(config.join("profiles"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|n| n.strip_suffix(".toml")).map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// `directories.toml`: which profiles apply in which directory.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Directories {
    #[serde(default)]
    directory: Vec<DirectoryRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DirectoryRule {
    path: Text,
    profiles: Vec<Text>,
}

fn directory_profiles(request: &Request<'_>) -> Result<Vec<String>, ProfileError> {
    let Some(source) = read(&request.config.join("directories.toml"), &[0, request.uid])? else {
        return Ok(Vec::new());
    };
    let rules: Directories = toml::from_str(&source.text).map_err(|e| toml_error(&source, &e))?;
    let mut found = Vec::new();
    for rule in &rules.directory {
        let place = |text: &Text| Place::new(&source, text.span());
        let path = expand_home(rule.path.get_ref(), request.home)
            .map_err(|e| ProfileError::Invalid { place: place(&rule.path), source: e.into() })?;
        if rule.path.get_ref().contains('*') {
            return Err(ProfileError::Invalid { place: place(&rule.path), source: Invalid::Wildcard });
        }
        // The current directory is known without symlinks.
        let real = std::fs::canonicalize(&path).ok().and_then(|p| AbsPath::new(p).ok());
        for name in &rule.profiles {
            if find(name.get_ref(), request)?.is_none() {
                let source = Invalid::Unknown(name.get_ref().clone());
                return Err(ProfileError::Invalid { place: place(name), source });
            }
            if request.directory.is_within(&path) || real.as_ref().is_some_and(|r| request.directory.is_within(r)) {
                found.push((path.clone(), name.get_ref().clone()));
            }
        }
    }
    // The rule of the nearest directory is the strongest.
    found.sort_by_key(|(path, _)| path.names().count());
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// `~/x` below the home; anything else must be absolute.
pub(crate) fn expand_home(text: &str, home: &AbsPath) -> Result<AbsPath, crate::path::PathError> {
    match text.strip_prefix('~') {
        Some("") => Ok(home.clone()),
        Some(rest) if rest.starts_with('/') => AbsPath::new(format!("{}{rest}", home.as_path().display())),
        Some(_) | None => AbsPath::new(text),
    }
}

fn toml_error(source: &Source, error: &toml::de::Error) -> ProfileError {
    let span: Range<usize> = error.span().unwrap_or(0..0);
    // A key may spell control characters as escapes, and the message quotes it.
    let lines = error.message().trim().lines().map(|line| crate::path::printable(line.as_ref()));
    let message = lines.collect::<Vec<_>>().join("\n");
    ProfileError::Invalid { place: Place::new(source, span), source: Invalid::Toml(message) }
}

fn builtin_source(builtin: &Builtin) -> Source {
    Source::new(builtin.file, builtin.text.to_owned())
}

fn applies(pack: &Builtin, request: &Request<'_>) -> bool {
    pack.files.iter().any(|pattern| request.markers.iter().any(|name| crate::env::matches(pattern, name)))
        || pack.paths.iter().any(|path| {
            // A pack only grants what exists, so "cannot tell" may count as absent.
            expand_home(path, request.home).is_ok_and(|p| std::fs::symlink_metadata(p).is_ok())
        })
}

/// A user's profile of this name, else the built-in one.
fn find(name: &str, request: &Request<'_>) -> Result<Option<Source>, ProfileError> {
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !plain {
        return Ok(None);
    }
    let file = request.config.join("profiles").join(format!("{name}.toml"));
    Ok(match read(&file, &[0, request.uid])? {
        Some(source) => Some(source),
        None => builtin::by_name(name).map(builtin_source),
    })
}

struct Loader<'a, 'r> {
    request: &'a Request<'r>,
    layers: Vec<Layer>,
}

impl Loader<'_, '_> {
    fn named(&mut self, kind: LayerKind, name: &str) -> Result<(), ProfileError> {
        match find(name, self.request)? {
            Some(source) => self.push(kind, name, source, &mut Vec::new()),
            None => {
                let mut names = user_profiles(self.request.config);
                names.extend(BUILTINS.iter().map(|b| b.name.to_owned()));
                let nearest = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
                Err(ProfileError::Unknown { name: name.to_owned(), nearest })
            }
        }
    }

    /// Adds what a profile extends, then the profile. One that is in force already is not added again at a
    /// weaker or equal place, which makes loading idempotent.
    fn push(
        &mut self,
        kind: LayerKind,
        name: &str,
        source: Source,
        chain: &mut Vec<String>,
    ) -> Result<(), ProfileError> {
        let source = Arc::new(source);
        let profile = parse(&source)?;
        chain.push(name.to_owned());
        for parent in &profile.extends {
            let wanted = parent.get_ref();
            let invalid = |what| ProfileError::Invalid { place: Place::new(&source, parent.span()), source: what };
            // A user profile `claude` may extend the built-in `claude`.
            let own_builtin = wanted == name && builtin::by_name(name).is_some_and(|b| *source.name != *b.file);
            if chain.contains(wanted) && !own_builtin {
                return Err(invalid(Invalid::Cycle(format!("{} → {wanted}", chain.join(" → ")))));
            }
            let found =
                if own_builtin { builtin::by_name(wanted).map(builtin_source) } else { find(wanted, self.request)? };
            let Some(found) = found else { return Err(invalid(Invalid::Unknown(wanted.clone()))) };
            if !self.layers.iter().any(|l| l.source.name == found.name) {
                self.push(kind, wanted, found, chain)?;
            }
        }
        chain.pop();
        self.layers.push(Layer { name: name.to_owned(), kind, source, profile });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
