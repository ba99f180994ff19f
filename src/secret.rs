//! Does a value look like a secret? A small set with high precision, for the variable filter.
//!
//! In: a name and a value. Out: the kind of secret, or nothing. It never returns or prints a part of the value.
//! Limits: it knows a few dozen prefixes and shapes; a secret of another shape under an allowed name passes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;

use regex::bytes::RegexSet;

/// Kinds and their shapes. Prefixes are the vendors' own, each bounded so that it cannot match inside a longer word.
/// Sources: the vendors' documentation of their token formats, as collected in the project's notes.
const SHAPES: &[(&str, &str)] = &[
    ("private key", r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    ("password in a URL", r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s:@]*:[^/\s@]+@"),
    ("GitHub token", r"(^|[^A-Za-z0-9_])(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{40,})"),
    ("GitLab token", r"(^|[^A-Za-z0-9_])gl(pat|rt|dt|ptt|ft|soat|agent|oas|cbt|imt)-[A-Za-z0-9_-]{20,}"),
    ("AWS access key", r"(^|[^A-Z0-9])(AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}($|[^A-Z0-9])"),
    ("API key (sk-)", r"(^|[^A-Za-z0-9_])sk-[A-Za-z0-9_-]{20,}"),
    ("Stripe key", r"(^|[^A-Za-z0-9_])[rs]k_(live|test)_[A-Za-z0-9]{16,}"),
    ("Slack token", r"(^|[^A-Za-z0-9_])xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}"),
    ("Google API key", r"(^|[^A-Za-z0-9_])AIza[A-Za-z0-9_-]{35}"),
    ("npm token", r"(^|[^A-Za-z0-9_])npm_[A-Za-z0-9]{36}"),
    ("PyPI token", r"(^|[^A-Za-z0-9_])pypi-AgE[A-Za-z0-9_-]{40,}"),
    ("Docker Hub token", r"(^|[^A-Za-z0-9_])dckr_(pat|oat)_[A-Za-z0-9_-]{20,}"),
    ("Hugging Face token", r"(^|[^A-Za-z0-9_])hf_[A-Za-z]{30,}"),
    ("JSON web token", r"(^|[^A-Za-z0-9_])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    ("authorization header", r"(?i-u)(^|\s)(bearer|basic)\s+[A-Za-z0-9+/_=.-]{16,}"),
    ("age key", r"AGE-SECRET-KEY-1[A-Z0-9]{20,}"),
];

static SET: LazyLock<RegexSet> =
    LazyLock::new(|| RegexSet::new(SHAPES.iter().map(|(_, shape)| shape)).expect("the shapes above are valid"));

/// A name that announces a secret, by its last word.
const NAME_ENDS: &[&str] = &[
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "APIKEY",
    "API_KEY",
    "PRIVATE_KEY",
    "CREDENTIALS",
    "SECRET_KEY",
    "ACCESS_KEY",
];

/// What kind of secret this looks like, or `None`.
///
/// A name such as `MY_TOKEN` condemns any value of eight or more characters that is not a path or a number, since a
/// wildcard such as `FOO_*` in a profile should not carry it along; a profile that means it lists it in `env.secrets`.
#[must_use]
pub fn looks_secret(name: &str, value: &OsStr) -> Option<&'static str> {
    let bytes = value.as_bytes();
    // No secret known here is shorter than this, and most variables are.
    const SHORTEST: usize = 8;
    if bytes.len() < SHORTEST {
        return None;
    }
    let upper = name.to_ascii_uppercase();
    let announced = NAME_ENDS.iter().any(|end| {
        upper.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with(['_', '-', '.']))
    });
    if announced && !bytes.starts_with(b"/") && !bytes.iter().all(u8::is_ascii_digit) {
        return Some("by its name");
    }
    if !worth_a_look(bytes) {
        return None;
    }
    SET.matches(bytes).iter().next().map(|index| SHAPES[index].0)
}

/// A cheap look before the patterns, which cost a millisecond to compile: all of them need one of these.
fn worth_a_look(bytes: &[u8]) -> bool {
    const NEEDLES: &[&[u8]] = &[
        b"-----BEGIN",
        b"@",
        b"gh",
        b"github_pat_",
        b"gl",
        b"AKIA",
        b"ASIA",
        b"ABIA",
        b"ACCA",
        b"sk-",
        b"k_live_",
        b"k_test_",
        b"xox",
        b"xapp-",
        b"AIza",
        b"npm_",
        b"pypi-",
        b"dckr_",
        b"hf_",
        b"eyJ",
        b"earer",
        b"asic",
        b"EARER",
        b"ASIC",
        b"AGE-",
    ];
    // The two short prefixes need their continuation, or every path with "highlight" would compile the patterns.
    let more = |needle: &[u8], at: usize| match needle {
        b"gh" => bytes[at..].get(3) == Some(&b'_'),
        b"gl" => bytes[at..].iter().take(8).any(|b| *b == b'-'),
        b"@" => bytes.windows(3).any(|w| w == b"://"),
        _ => true,
    };
    NEEDLES
        .iter()
        .any(|needle| bytes.windows(needle.len()).enumerate().any(|(at, window)| window == *needle && more(needle, at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeat(set: &str, length: usize) -> String {
        set.chars().cycle().take(length).collect()
    }

    #[test]
    fn shapes() {
        let mixed = repeat("aB3dE5fG7hJ9", 60);
        let base32 = repeat("ABCDEFGH234567", 16);
        for (name, value, want) in [
            ("A", format!("ghp_{}", repeat("aB3", 36)), Some("GitHub token")),
            ("A", format!("github_pat_{mixed}"), Some("GitHub token")),
            ("A", format!("glpat-{}", repeat("xY1", 20)), Some("GitLab token")),
            ("A", format!("AKIA{base32}"), Some("AWS access key")),
            ("A", format!("sk-{mixed}"), Some("API key (sk-)")),
            ("HTTP_PROXY", "http://ana:pw12345@proxy:3128".into(), Some("password in a URL")),
            ("A", format!("eyJ{m}.eyJ{m}.{m}", m = repeat("aB3", 20)), Some("JSON web token")),
            ("A", format!("-----BEGIN OPENSSH {}-----\n", "PRIVATE KEY"), Some("private key")),
            ("HDR", format!("Authorization: Bearer {mixed}"), Some("authorization header")),
            ("MY_TOKEN", "correct horse".into(), Some("by its name")),
            ("TOKEN_FILE", "correct horse".into(), None),
            ("GIT_TOKEN", "/run/secrets/token".into(), None),
            ("MAX_TOKEN", "12345678".into(), None),
            ("HTTP_PROXY", "http://proxy:3128".into(), None),
            ("PATH", "/usr/bin:/home/ana/glass-works/highlight:/opt/task-runner".into(), None),
            ("LS_COLORS", repeat("*.tar=01;31:", 1500), None),
            ("EMAIL", "ana@example.org".into(), None),
        ] {
            assert_eq!(looks_secret(name, OsStr::new(&value)), want, "{name}");
        }
    }

    #[test]
    fn the_cheap_look_passes_everything_the_patterns_match() {
        let text = repeat("aB3dE5fG7hJ9", 60);
        let alpha = repeat("abcdefgh", 40);
        for value in [
            format!("ghs_{text}"),
            format!("glrt-{text}"),
            format!("ASIA{}", repeat("ABC234", 16)),
            format!("rk_live_{text}"),
            format!("xoxb-{text}"),
            format!("xapp-1-{text}"),
            format!("AIza{}", &text[..35]),
            format!("npm_{}", &text[..36]),
            format!("pypi-AgE{text}"),
            format!("dckr_pat_{text}"),
            format!("hf_{alpha}"),
            format!("BASIC {text}"),
            format!("AGE-SECRET-KEY-1{}", repeat("A9", 30)),
        ] {
            assert!(looks_secret("A", OsStr::new(&value)).is_some(), "{value}");
        }
    }
}
