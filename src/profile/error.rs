//! What can be wrong with a profile, each with the place it is wrong in.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::Source;

/// Why profiles could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read the profile {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is not one guard would obey.
    #[error("cannot use the profile {}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is the matter with it.
        #[source]
        source: Unfit,
    },
    /// The text is not a valid profile.
    #[error("cannot use the profile {}", place.file)]
    Invalid {
        /// Where.
        place: Place,
        /// What is wrong there.
        #[source]
        source: Invalid,
    },
    /// No such profile.
    #[error("there is no profile named `{}`", crate::path::printable(name.as_ref()))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The nearest name there is.
        nearest: Option<String>,
    },
}

/// Why guard would not obey a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not a regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// Larger than a profile can sensibly be.
    #[error("it is larger than {} KiB", super::MAX_BYTES / 1024)]
    TooLarge,
    /// Not UTF-8, or with control characters: binary data or UTF-16.
    #[error("it is not plain UTF-8 text")]
    NotText,
    /// It belongs to another user.
    #[error("it belongs to another user (uid {0})")]
    Owner(u32),
    /// Others may write to it.
    #[error("other users may write to it (mode {0:04o})")]
    Mode(u32),
}

/// What is wrong at a place in a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The TOML reader's words: syntax, unknown key, wrong type.
    #[error("{0}")]
    Toml(String),
    /// A path that cannot be a rule.
    #[error("{0}")]
    Path(#[from] crate::path::PathError),
    /// A path with control characters.
    #[error("the path contains a control character")]
    Control,
    /// A wildcard where a plain path is needed.
    #[error("paths are plain: `*` has no meaning here")]
    Wildcard,
    /// A command that is not a plain name.
    #[error("a command is a plain name, without `/` and `*`; every file of that name on PATH is meant")]
    CommandName,
    /// A grant of the home or a directory above it.
    #[error("this would open the whole home directory")]
    TooWide,
    /// An environment variable's name that cannot be set.
    #[error("this cannot be the name of an environment variable")]
    EnvName,
    /// A profile extends itself.
    #[error("profiles extend each other in a circle: {0}")]
    Cycle(String),
    /// A name in `extends` that no profile has.
    #[error("there is no profile named `{}`", crate::path::printable(.0.as_ref()))]
    Unknown(String),
    /// A size that is not a number with an optional unit.
    #[error("a size is a number of bytes with an optional K, M or G, as in \"512M\"")]
    Size,
    /// A mode that does not exist yet.
    #[error("network mode `filtered` does not exist yet; guard does not pretend to filter")]
    Filtered,
    /// `extends` in the managed policy.
    #[error("a managed policy stands alone: it extends no other profile")]
    ManagedExtends,
    /// A limit below what a program needs to start.
    #[error("the limit must be at least {0}")]
    TooSmall(u64),
}

/// A place in a file: line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the user knows it.
    pub file: String,
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
    /// The line's text, cut and made printable.
    pub text: String,
    /// How many characters to underline.
    pub width: usize,
}

impl Place {
    /// The place of a byte range in a source.
    #[must_use]
    pub fn new(source: &Source, span: Range<usize>) -> Self {
        let start = source.text.floor_char_boundary(span.start.min(source.text.len()));
        let before = &source.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_text = source.text[line_start..].lines().next().unwrap_or_default();
        let end = source
            .text
            .floor_char_boundary(span.end.clamp(start, line_start + line_text.len().max(start - line_start)));
        Self {
            file: source.name.to_string(),
            line: before.matches('\n').count() + 1,
            column: source.text[line_start..start].chars().count() + 1,
            // One column for a tab, so that the caret is below what it means.
            text: crate::path::printable(line_text.chars().take(120).collect::<String>().replace('\t', " ").as_ref()),
            width: source.text[start..end].chars().count().clamp(1, 80),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            // Flags have no lines.
            return f.write_str(&self.file);
        }
        writeln!(f, "{}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{:>5} | {}", self.line, self.text)?;
        write!(f, "      | {}{}", " ".repeat(self.column.saturating_sub(1).min(120)), "^".repeat(self.width))
    }
}

impl ProfileError {
    /// Where in a file, if in a file.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Invalid { place, .. } => Some(place),
            Self::Read { .. } | Self::Unfit { .. } | Self::Unknown { .. } => None,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => Some("make it readable for you, or remove it".to_owned()),
            Self::Unfit { path, source } => match source {
                Unfit::Owner(_) if path.starts_with("/etc") => Some("it must belong to root".to_owned()),
                Unfit::Owner(_) => Some(format!("make it yours: `chown $(id -un) {}`", path.display())),
                Unfit::Mode(_) => Some(format!("take others' write permission away: `chmod go-w {}`", path.display())),
                Unfit::NotAFile | Unfit::TooLarge | Unfit::NotText => None,
            },
            Self::Invalid { source: Invalid::Toml(message), .. } => {
                nearest_key(message).map(|key| format!("did you mean `{key}`?"))
            }
            Self::Invalid { source: Invalid::Filtered, .. } => {
                Some("use `open`, or `none` for a sandbox without network".to_owned())
            }
            Self::Invalid { source: Invalid::Wildcard, .. } => {
                Some("name the directory: a rule covers everything below it".to_owned())
            }
            Self::Invalid { source: Invalid::TooWide, .. } => {
                Some("name the directories the agent needs; its own private home is there without a rule".to_owned())
            }
            Self::Invalid { .. } => None,
            Self::Unknown { nearest, .. } => Some(match nearest {
                Some(name) => format!("did you mean `{name}`? `guard profile list` shows all"),
                None => "`guard profile list` shows all".to_owned(),
            }),
        }
    }
}

/// Of "unknown field `x`, expected one of `a`, `b`": the expected key nearest to `x`.
fn nearest_key(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let wrong = quoted.next()?;
    nearest(wrong, quoted).map(str::to_owned)
}

/// The candidate with the smallest edit distance to `wrong`, if it is close enough to be meant.
pub fn nearest<'a>(wrong: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|c| (distance(wrong, c), c))
        .filter(|(d, c)| *d <= (c.len().max(wrong.len()) / 2).max(1))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Levenshtein's distance, by bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
