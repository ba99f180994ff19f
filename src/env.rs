//! The environment: read once, judged name by name, rebuilt for the inside.
//!
//! In: the variables guard was started with and the [`EnvPolicy`]. Out: [`Filtered`], the list the agent gets and,
//! for every variable that was set, the reason it passed or not. Values are wiped from memory when the list is
//! dropped, and no value is ever part of a reason.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::profile::Origin;
use crate::secret;

/// A variable's value. It has no `Display`, its `Debug` shows only a length, and it is overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Vec<u8>);

impl Value {
    /// The value's bytes, for the two places that need them: the judge and `execve`.
    #[must_use]
    pub fn reveal(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl From<OsString> for Value {
    fn from(text: OsString) -> Self {
        Self(text.into_vec())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        for byte in &mut self.0 {
            *byte = 0;
        }
        // Keeps the writes: the compiler must assume the bytes are looked at.
        std::hint::black_box(&self.0);
    }
}

/// The variables guard was started with.
#[derive(Debug, Clone, Default)]
pub struct Env(BTreeMap<OsString, Value>);

impl Env {
    /// Takes name and value pairs; of a name given twice the first counts, as `getenv` has it.
    pub fn new(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut vars = BTreeMap::new();
        for (name, value) in pairs {
            vars.entry(name).or_insert_with(|| Value::from(value));
        }
        Self(vars)
    }

    /// The value of `name`, or `None` when it is not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(Value::reveal)
    }

    /// Forgets all variables; their values are overwritten. A process forked without exec keeps what it was forked
    /// with for as long as it lives, so each such process calls this on its own copy.
    pub fn wipe(&mut self) {
        self.0.clear();
    }

    /// All variables in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value))
    }
}

/// What the policy says of variables. Within one list the last match wins, for its origin only.
#[derive(Debug, Clone)]
pub struct EnvPolicy {
    /// Patterns of names that pass unless the value looks like a secret.
    pub allow: Vec<(String, Origin)>,
    /// Patterns of names that pass whatever the value.
    pub secrets: Vec<(String, Origin)>,
    /// Patterns of names that never pass.
    pub deny: Vec<(String, Origin)>,
    /// Values set inside.
    pub set: BTreeMap<String, (String, Origin)>,
}

/// Why a variable passed or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule allows the name and the value raised no suspicion.
    Allowed(Origin),
    /// A rule allows the name whatever the value.
    AllowedSecret(Origin),
    /// The profile sets it.
    Set(Origin),
    /// guard sets it so that it fits the inside.
    Inside,
    /// No rule allows the name.
    NotListed,
    /// A rule forbids the name.
    Denied(Origin),
    /// The name is allowed, but the value looks like a secret of this kind.
    LooksSecret(&'static str, Origin),
    /// The name is not one a program could have set on purpose: empty, or with `=`, or not UTF-8.
    OddName,
}

impl Reason {
    /// Whether the variable reaches the agent.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Allowed(_) | Self::AllowedSecret(_) | Self::Set(_) | Self::Inside => true,
            Self::NotListed | Self::Denied(_) | Self::LooksSecret(..) | Self::OddName => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(origin) => write!(f, "allowed by {origin}"),
            Self::AllowedSecret(origin) => write!(f, "allowed with any value by {origin}"),
            Self::Set(origin) => write!(f, "set by {origin}"),
            Self::Inside => f.write_str("set by guard to fit the inside"),
            Self::NotListed => f.write_str("no rule allows it"),
            Self::Denied(origin) => write!(f, "denied by {origin}"),
            Self::LooksSecret(kind, origin) => {
                write!(f, "allowed by {origin}, but its value looks like a secret ({kind})")
            }
            Self::OddName => f.write_str("its name is empty, contains `=` or is not UTF-8"),
        }
    }
}

/// The environment of the agent, and the account of how it came about.
#[derive(Debug, Clone)]
pub struct Filtered {
    /// What the agent gets, in the order of the names.
    pub vars: BTreeMap<OsString, Value>,
    /// Every variable that was set outside or is set inside, with the reason.
    pub reasons: BTreeMap<OsString, Reason>,
}

impl Filtered {
    /// Names of the variables that were set outside and do not reach the agent.
    pub fn hidden(&self) -> impl Iterator<Item = &OsStr> {
        self.reasons.iter().filter(|(_, reason)| !reason.passes()).map(|(name, _)| name.as_os_str())
    }

    /// Sets a variable that must fit the inside, such as `HOME` or `TMPDIR`.
    pub fn set_inside(&mut self, name: &str, value: impl Into<OsString>) {
        self.vars.insert(name.into(), Value::from(value.into()));
        self.reasons.insert(name.into(), Reason::Inside);
    }

    /// Takes a variable out that has no meaning inside.
    pub fn unset(&mut self, name: &str) {
        if self.vars.remove(OsStr::new(name)).is_some() {
            self.reasons.insert(name.into(), Reason::NotListed);
        }
    }
}

/// Judges each variable. Pure.
#[must_use]
pub fn filter(env: &Env, policy: &EnvPolicy) -> Filtered {
    let mut filtered = Filtered { vars: BTreeMap::new(), reasons: BTreeMap::new() };
    for (name, value) in env.iter() {
        let reason = judge(name, value, policy);
        if reason.passes() {
            filtered.vars.insert(name.to_owned(), value.clone());
        }
        filtered.reasons.insert(name.to_owned(), reason);
    }
    for (name, (value, origin)) in &policy.set {
        filtered.vars.insert(name.into(), Value::from(value.as_str()));
        filtered.reasons.insert(name.into(), Reason::Set(origin.clone()));
    }
    filtered
}

fn judge(name: &OsStr, value: &Value, policy: &EnvPolicy) -> Reason {
    let Some(text) = name.to_str().filter(|n| !n.is_empty() && !n.contains('=')) else {
        return Reason::OddName;
    };
    let find = |rules: &[(String, Origin)]| {
        rules.iter().rev().find(|(pattern, _)| matches(pattern, text)).map(|(_, origin)| origin.clone())
    };
    // A name spelled out as the agent's own key beats a deny pattern of a weaker layer only if no deny spells it
    // out too: deny always wins, so that a floor cannot be lowered by a wildcard.
    if let Some(origin) = find(&policy.deny) {
        return Reason::Denied(origin);
    }
    if let Some(origin) = find(&policy.secrets) {
        return Reason::AllowedSecret(origin);
    }
    match find(&policy.allow) {
        None => Reason::NotListed,
        Some(origin) => match secret::looks_secret(text, value.reveal()) {
            Some(kind) => Reason::LooksSecret(kind, origin),
            None => Reason::Allowed(origin),
        },
    }
}

/// Whether `name` matches `pattern`, in which each `*` stands for any run of characters.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str) -> (String, Origin) {
        (pattern.to_owned(), Origin::text("test"))
    }

    #[test]
    fn patterns() {
        for (pattern, name, want) in [
            ("TERM", "TERM", true),
            ("TERM", "TERMINFO", false),
            ("LC_*", "LC_ALL", true),
            ("LC_*", "XLC_ALL", false),
            ("ANTHROPIC_*_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", true),
            ("ANTHROPIC_*_MODEL", "ANTHROPIC_MODEL", false),
            ("*_KEY", "A_KEY", true),
            ("*", "", true),
            ("a*b*a", "aba", true),
            ("aa*aa", "aaa", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn deny_beats_secrets_beats_allow_and_nothing_passes_unlisted() {
        let policy = EnvPolicy {
            allow: vec![rule("OK_*"), rule("URL")],
            secrets: vec![rule("MY_KEY"), rule("OK_DENIED")],
            deny: vec![rule("OK_DENIED")],
            set: BTreeMap::from([("GUARD".into(), ("1".into(), Origin::text("test")))]),
        };
        let secret = format!("https://ana:{}@host/", "hunter2hunter2");
        let env = Env::new(
            [("OK_A", "1"), ("OK_DENIED", "1"), ("MY_KEY", "x"), ("OTHER", "1"), ("URL", &secret), ("", "1")]
                .map(|(n, v)| (n.into(), v.into())),
        );
        let filtered = filter(&env, &policy);
        let names: Vec<_> = filtered.vars.keys().map(|n| n.to_str().unwrap()).collect();
        assert_eq!(names, ["GUARD", "MY_KEY", "OK_A"]);
        let hidden: Vec<_> = filtered.hidden().map(|n| n.to_str().unwrap()).collect();
        assert_eq!(hidden, ["", "OK_DENIED", "OTHER", "URL"]);
    }

    #[test]
    fn a_value_does_not_print() {
        assert_eq!(format!("{:?}", Value::from("hush")), "<4 bytes>");
    }
}
