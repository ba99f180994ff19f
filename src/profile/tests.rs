//! The profiles that come with guard, the loader's order, and schema and parser against each other.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::*;
use crate::policy::{Places, resolve};

/// A user's configuration directory with files in it.
struct Config {
    dir: tempfile::TempDir,
}

impl Config {
    fn new(files: &[(&str, &str)]) -> Self {
        let config = Self { dir: tempfile::tempdir().unwrap() };
        for (name, text) in files {
            config.write(name, text);
        }
        config
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join("config").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn home(&self) -> AbsPath {
        AbsPath::known(fs::canonicalize(self.dir.path()).unwrap())
    }

    fn load(&self, agent: &str, directory: &str, markers: &[&str]) -> Result<Vec<Layer>, ProfileError> {
        let markers: Vec<String> = markers.iter().map(|m| (*m).to_owned()).collect();
        load(Request {
            agent,
            config: &self.home().join("config"),
            home: &self.home(),
            directory: &self.home().join(directory),
            markers: &markers,
            command_line: parse(&Source::new("flags", String::new())).unwrap(),
            uid: nix::unistd::getuid().as_raw(),
            managed: Path::new("/nonexistent/managed.toml"),
        })
    }

    /// The layers between toolchains and flags, by kind and name.
    #[track_caller]
    fn layers(&self, agent: &str, directory: &str) -> Vec<String> {
        let layers = self.load(agent, directory, &[]).unwrap_or_else(|e| panic!("{e:?}"));
        let shown = |l: &Layer| format!("{:?} {}{}", l.kind, l.name, if l.is_builtin() { " (built in)" } else { "" });
        layers.iter().filter(|l| (LayerKind::Agent..=LayerKind::Project).contains(&l.kind)).map(shown).collect()
    }

    #[track_caller]
    fn fails(&self, agent: &str) -> ProfileError {
        self.load(agent, "", &[]).expect_err("accepted")
    }
}

/// What is wrong, and where: `LINE:COLUMN`.
fn place(error: &ProfileError) -> (String, String) {
    let ProfileError::Invalid { place, source } = error else { panic!("{error:?}") };
    (source.to_string(), format!("{}:{}", place.line, place.column))
}

#[test]
fn every_file_in_profiles_is_in_the_index_as_it_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for folder in ["profiles", "profiles/toolchains", "profiles/agents"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "toml") {
                continue;
            }
            files += 1;
            let name = path.file_stem().unwrap().to_str().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let profile = parse(&Source::new(name, text.clone())).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let found = builtin::by_name(name).unwrap_or_else(|| panic!("{name} is not in the index"));
            assert_eq!(found.text, text, "{name}");
            assert_eq!(found.file, path.strip_prefix(root).unwrap().to_str().unwrap());
            let (agent, detect) = (profile.agent.unwrap_or_default(), profile.detect.unwrap_or_default());
            assert_eq!(found.commands, agent.commands, "{name}");
            assert_eq!(found.packages, agent.packages, "{name}");
            assert_eq!(found.files, detect.files, "{name}");
            assert_eq!(found.paths, detect.paths, "{name}");
            let kind = match folder {
                "profiles" => BuiltinKind::Base,
                "profiles/toolchains" => BuiltinKind::Toolchain,
                _ => BuiltinKind::Agent,
            };
            assert_eq!(found.kind, kind, "{name}");
            assert!(profile.description.is_some_and(|d| !d.is_empty()), "{name} has no description");
        }
    }
    assert_eq!(files, BUILTINS.len(), "the index has profiles that are not files");
}

#[test]
fn every_built_in_profile_resolves() {
    let config = Config::new(&[]);
    let all: Vec<&str> = BUILTINS.iter().flat_map(|b| b.files).copied().collect();
    for builtin in BUILTINS {
        let layers = config.load(builtin.name, "p", &all).unwrap_or_else(|e| panic!("{}: {e:?}", builtin.name));
        let (home, project) = (AbsPath::known("/home/ana"), AbsPath::known("/home/ana/p"));
        let places = Places { home, project: Some(project), git: Vec::new(), modules: Vec::new(), guard: None };
        let policy = resolve(&layers, builtin.name, &places).unwrap_or_else(|e| panic!("{}: {e:?}", builtin.name));
        // Whatever the profile, the terminal rules hold.
        for path in ["/home/ana/.config/guard", "/home/ana/.bashrc", "/home/ana/.ssh/id_ed25519", "/etc/shadow"] {
            let (_, rule) = policy.rule(&AbsPath::known(path)).unwrap();
            assert!(rule.access == crate::policy::Access::Deny, "{}: {path}", builtin.name);
        }
        assert_eq!(policy.overridden, [], "{}: a rule that can have no effect", builtin.name);
    }
}

#[test]
fn names_and_commands_are_unique() {
    let mut names = BTreeSet::new();
    let mut commands = BTreeSet::new();
    for builtin in BUILTINS {
        assert!(names.insert(builtin.name), "{}", builtin.name);
        for command in builtin.commands {
            assert!(commands.insert(*command), "{command}");
            assert_eq!(builtin::by_command(command).unwrap().name, builtin.name);
            assert_eq!(builtin.kind, BuiltinKind::Agent);
        }
        let detects = !builtin.files.is_empty() || !builtin.paths.is_empty();
        assert_eq!(detects, builtin.kind == BuiltinKind::Toolchain, "{}", builtin.name);
    }
    assert!(builtin::by_command("sh").is_none() && builtin::by_command("").is_none());
}

#[test]
fn a_pack_applies_by_its_markers() {
    let config = Config::new(&[]);
    let packs = |markers: &[&str]| -> Vec<String> {
        let layers = config.load("shell", "p", markers).unwrap();
        layers.iter().filter(|l| l.kind == LayerKind::Toolchain).map(|l| l.name.clone()).collect()
    };
    for (marker, pack) in [
        ("Cargo.toml", "cargo"),
        ("package.json", "node"),
        ("pyproject.toml", "python"),
        ("requirements-dev.txt", "python"),
        ("go.mod", "go"),
        ("Gemfile", "ruby"),
        ("pom.xml", "java"),
    ] {
        let without = packs(&[]);
        assert!(!without.contains(&pack.to_owned()), "{pack} without {marker}");
        assert!(packs(&[marker, "other"]).contains(&pack.to_owned()), "{pack} with {marker}");
    }
}

#[test]
fn layers_come_weakest_first() {
    let config = Config::new(&[
        ("config.toml", ""),
        ("directories.toml", "[[directory]]\npath = \"~/w\"\nprofiles = [\"mine\"]"),
        ("profiles/mine.toml", ""),
    ]);
    let layers = config.load("claude", "w", &["Cargo.toml"]).unwrap();
    let kinds: Vec<LayerKind> = layers.iter().map(|l| l.kind).collect();
    assert!(kinds.is_sorted(), "{kinds:?}");
    assert_eq!(layers.first().unwrap().name, "base");
    assert_eq!(layers.last().unwrap().name, "terminal");
    assert_eq!(config.layers("claude", "w"), ["Agent claude (built in)", "User config", "Directory mine"]);
}

#[test]
fn the_nearest_directory_is_the_strongest() {
    let config = Config::new(&[
        (
            "directories.toml",
            "[[directory]]\npath = \"~/w/a/b\"\nprofiles = [\"near\", \"nearer\"]\n\
             [[directory]]\npath = \"~/w\"\nprofiles = [\"far\"]\n\
             [[directory]]\npath = \"~/w/a\"\nprofiles = [\"middle\"]\n\
             [[directory]]\npath = \"~/w/a-other\"\nprofiles = [\"other\"]",
        ),
        ("profiles/near.toml", ""),
        ("profiles/nearer.toml", ""),
        ("profiles/far.toml", ""),
        ("profiles/middle.toml", ""),
        ("profiles/other.toml", ""),
    ]);
    let names = |directory: &str| -> Vec<String> {
        let layers = config.load("shell", directory, &[]).unwrap();
        layers.iter().filter(|l| l.kind == LayerKind::Directory).map(|l| l.name.clone()).collect()
    };
    assert_eq!(names("w/a/b/c"), ["far", "middle", "near", "nearer"]);
    assert_eq!(names("w/a"), ["far", "middle"]);
    assert_eq!(names("w/a-other/x"), ["far", "other"]);
    assert_eq!(names("elsewhere"), [] as [String; 0]);
}

#[test]
fn a_directory_rule_means_the_directory_a_link_leads_to() {
    let rule = "[[directory]]\npath = \"~/w\"\nprofiles = [\"mine\"]";
    let config = Config::new(&[("directories.toml", rule), ("profiles/mine.toml", "")]);
    fs::create_dir(config.dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", config.dir.path().join("w")).unwrap();
    // The current directory is known by its real path.
    assert_eq!(config.layers("shell", "real/x").last().unwrap(), "Directory mine");
}

#[test]
fn a_wrong_directory_rule_ends_the_start_wherever_it_is() {
    for (text, words, at) in [
        ("[[directory]]\npath = \"w\"\nprofiles = []", "not absolute", "2:8"),
        ("[[directory]]\npath = \"~/../w\"\nprofiles = []", "`..`", "2:8"),
        ("[[directory]]\npath = \"~/w/*\"\nprofiles = []", "`*`", "2:8"),
        ("[[directory]]\npath = \"/elsewhere\"\nprofiles = [\"nobody\"]", "no profile named `nobody`", "3:13"),
        ("[[directory]]\npath = \"/x\"\nprofile = []", "unknown field `profile`", "3:1"),
        ("[[directories]]\npath = \"/x\"", "unknown field `directories`", "1:3"),
        ("[[directory]]\npath = \"/x\"", "missing field `profiles`", "1:1"),
    ] {
        let (found, place) = place(&Config::new(&[("directories.toml", text)]).fails("shell"));
        assert!(found.contains(words), "{text}: {found}");
        assert_eq!(place, at, "{text}");
    }
}

#[test]
fn extends_lays_its_profiles_below() {
    let config = Config::new(&[
        ("config.toml", "extends = [\"a\", \"b\"]"),
        ("profiles/a.toml", "extends = [\"c\"]"),
        ("profiles/b.toml", "extends = [\"c\"]"),
        ("profiles/c.toml", ""),
    ]);
    // One that is in force already is not added again.
    assert_eq!(config.layers("shell", ""), ["Agent shell (built in)", "User c", "User a", "User b", "User config"]);
    // A built-in one may be extended, and those that are in every sandbox change nothing.
    let config = Config::new(&[("profiles/mine.toml", "extends = [\"base\", \"terminal\", \"claude\"]")]);
    assert_eq!(config.layers("mine", ""), ["Agent claude (built in)", "Agent mine"]);
}

#[test]
fn a_users_profile_may_extend_the_built_in_one_of_its_name() {
    let config = Config::new(&[("profiles/claude.toml", "extends = [\"claude\"]\n[fs]\nread = [\"~/docs\"]")]);
    assert_eq!(config.layers("claude", ""), ["Agent claude (built in)", "Agent claude"]);
    // Without `extends` it takes its place.
    let config = Config::new(&[("profiles/claude.toml", "")]);
    assert_eq!(config.layers("claude", ""), ["Agent claude"]);
    // Also when another extends it.
    let files = [("profiles/claude.toml", "extends = [\"claude\"]"), ("profiles/mine.toml", "extends = [\"claude\"]")];
    let config = Config::new(&files);
    assert_eq!(config.layers("mine", ""), ["Agent claude (built in)", "Agent claude", "Agent mine"]);
}

#[test]
fn a_circle_is_told_with_its_links() {
    for (files, words) in [
        (&[("profiles/a.toml", "extends = [\"a\"]")][..], "a → a"),
        (&[("profiles/a.toml", "extends = [\"b\"]"), ("profiles/b.toml", "extends = [\"a\"]")], "a → b → a"),
        (
            &[
                ("profiles/a.toml", "extends = [\"b\"]"),
                ("profiles/b.toml", "extends = [\"c\"]"),
                ("profiles/c.toml", "extends = [\"b\"]"),
            ],
            "a → b → c → b",
        ),
        (
            &[("profiles/a.toml", "extends = [\"claude\"]"), ("profiles/claude.toml", "extends = [\"a\"]")],
            "a → claude → a",
        ),
    ] {
        let (found, at) = place(&Config::new(files).fails("a"));
        assert!(found.contains("circle") && found.contains(words), "{words}: {found}");
        assert_eq!(at, "1:12");
    }
}

#[test]
fn unknown_names_suggest_the_nearest() {
    let config = Config::new(&[("profiles/backend.toml", "")]);
    for (name, want) in [
        ("cluade", Some("claude")),
        ("opencod", Some("opencode")),
        ("bakend", Some("backend")),
        ("zzzzzzzzzz", None),
        ("../claude", Some("claude")),
        ("/etc/passwd", None),
        ("", None),
    ] {
        let error = config.fails(name);
        let ProfileError::Unknown { nearest, .. } = &error else { panic!("{error:?}") };
        if let Some(want) = want {
            assert_eq!(nearest.as_deref(), Some(want), "{name}");
            assert!(error.hint().unwrap().contains(want));
        }
        assert!(error.hint().unwrap().contains("guard profile list"));
    }
    let (found, at) = place(&Config::new(&[("config.toml", "\nextends = [\"nobody\"]")]).fails("shell"));
    assert!(found.contains("`nobody`"), "{found}");
    assert_eq!(at, "2:12");
}

#[test]
fn a_key_that_is_nearly_right_is_suggested() {
    for (text, want) in [
        ("requre = \"full\"", "require"),
        ("[fs]\nraed = []", "read"),
        ("[fs]\noverlays = []", "overlay"),
        ("[netwrok]\nmode = \"open\"", "network"),
        ("[network]\nmode = \"opne\"", "open"),
        ("require = \"landlok\"", "landlock"),
        ("[sockets]\nssh_agent = true", "ssh-agent"),
    ] {
        let error = parse(&Source::new("x", text.into())).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some(format!("did you mean `{want}`?").as_str()), "{text}: {error:?}");
    }
}

#[test]
fn the_caret_is_below_what_is_wrong() {
    for (text, want) in [
        ("[fs]\nraed = []", "x:2:1\n    2 | raed = []\n      | ^^^^"),
        ("[fs]\n\traed = []", "x:2:2\n    2 |  raed = []\n      |  ^^^^"),
        ("# ü\n[fs]\n\"ä\" = []", "x:3:1\n    3 | \"ä\" = []\n      | ^^^"),
    ] {
        let error = parse(&Source::new("x", text.into())).unwrap_err();
        assert_eq!(error.place().unwrap().to_string(), want);
    }
}

#[test]
fn what_a_message_quotes_cannot_steer_the_terminal() {
    let error = parse(&Source::new("x", "\"\\u001b]52;c;x\\u0007\" = 1".into())).unwrap_err();
    let text = format!("{} {}", std::error::Error::source(&error).unwrap(), error.place().unwrap());
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
}

#[test]
fn a_missing_file_is_no_error_but_a_link_to_nowhere_is() {
    let config = Config::new(&[("x", "")]);
    assert_eq!(config.layers("shell", ""), ["Agent shell (built in)"]);
    std::os::unix::fs::symlink("/nonexistent/config.toml", config.dir.path().join("config/config.toml")).unwrap();
    assert!(matches!(config.fails("shell"), ProfileError::Read { .. }));
}

#[test]
fn only_fit_files_are_obeyed() {
    for (bytes, mode, want) in [
        (&b"\xff\xfe[\0f\0s\0]\0"[..], 0o600, Unfit::NotText),
        (b"[fs]\n# \0", 0o600, Unfit::NotText),
        (b"# \x1b[2J", 0o600, Unfit::NotText),
        (b"# \xc3\x28", 0o600, Unfit::NotText),
        (b"", 0o620, Unfit::Mode(0o620)),
        (b"", 0o602, Unfit::Mode(0o602)),
    ] {
        let config = Config::new(&[("config.toml", "")]);
        let path = config.dir.path().join("config/config.toml");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = config.fails("shell");
        let ProfileError::Unfit { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*source, want);
    }
    let big = "#".repeat(MAX_BYTES as usize + 1);
    let error = Config::new(&[("config.toml", &big)]).fails("shell");
    assert!(matches!(error, ProfileError::Unfit { source: Unfit::TooLarge, .. }), "{error:?}");
    Config::new(&[("config.toml", &big[1..])]).layers("shell", "");
}

/// The schema a reference or an optional value stands for.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str() {
        return resolved(&root["$defs"][name.rsplit('/').next().unwrap()], root);
    }
    let options = ["anyOf", "allOf"].iter().find_map(|key| schema[key].as_array());
    match options.and_then(|list| list.iter().find(|option| option["type"] != "null")) {
        Some(option) => resolved(option, root),
        None => schema,
    }
}

/// A few values the schema allows, as TOML.
fn values(schema: &Value, root: &Value) -> Vec<String> {
    let schema = resolved(schema, root);
    let words = |list: &Value| list.as_array().unwrap().iter().map(|v| v.to_string()).collect::<Vec<_>>();
    if schema["enum"].is_array() {
        return words(&schema["enum"]);
    }
    if let Some(options) = schema["oneOf"].as_array() {
        return options.iter().map(|option| option["const"].to_string()).collect();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|k| *k != "null").unwrap(),
        kind => kind,
    };
    match kind.as_str().unwrap_or_else(|| panic!("{schema}")) {
        "string" => vec!["\"/x\"".into()],
        "boolean" => vec!["true".into(), "false".into()],
        "integer" => vec!["64".into()],
        "array" => {
            let items = values(&schema["items"], root);
            vec!["[]".into(), format!("[{}]", items.join(", "))]
        }
        "object" if schema["additionalProperties"].is_object() => {
            let inner = values(&schema["additionalProperties"], root);
            vec!["{}".into(), format!("{{ \"/x\" = {} }}", inner[0])]
        }
        "object" => {
            let required = required(schema, root);
            vec![format!("{{ {} }}", required.join(", "))]
        }
        other => panic!("a kind of value the test does not know: {other}"),
    }
}

fn required(schema: &Value, root: &Value) -> Vec<String> {
    let names = schema["required"].as_array().into_iter().flatten();
    let pair = |name: &Value| {
        let name = name.as_str().unwrap();
        format!("{name} = {}", values(&schema["properties"][name], root)[0])
    };
    names.map(pair).collect()
}

/// Compares one table of the schema with the parser, and the tables below it. `before` and `after` are the text that
/// leads into the table and out of it.
fn compare(schema: &Value, root: &Value, before: &str, after: &str, seen: &mut Vec<String>) {
    let table = resolved(schema, root);
    assert_eq!(
        table["additionalProperties"], false,
        "{before}: the schema must refuse unknown keys, as the parser does"
    );
    let parsed = |pairs: &[String]| {
        let separator = if before.is_empty() { "\n" } else { ", " };
        let text = format!("{before}{}{after}", pairs.join(separator));
        (text.clone(), parse(&Source::new("schema", text)))
    };
    let properties = table["properties"].as_object().unwrap();
    for (name, schema) in properties {
        for value in values(schema, root) {
            let mut pairs = required(table, root);
            pairs.retain(|pair| !pair.starts_with(&format!("{name} = ")));
            pairs.push(format!("{name} = {value}"));
            if let (text, Err(error)) = parsed(&pairs) {
                panic!("the schema allows what the parser refuses: {text}\n{error:?}");
            }
            seen.push(format!("{before}{name}"));
        }
        let inner = resolved(schema, root);
        let pairs: Vec<String> = required(table, root);
        let lead = if pairs.is_empty() { String::new() } else { format!("{}, ", pairs.join(", ")) };
        if inner["properties"].is_object() {
            compare(inner, root, &format!("{before}{lead}{name} = {{ "), &format!(" }}{after}"), seen);
        } else if inner["items"].is_object() && resolved(&inner["items"], root)["properties"].is_object() {
            let items = resolved(&inner["items"], root);
            compare(items, root, &format!("{before}{lead}{name} = [{{ "), &format!(" }}]{after}"), seen);
        }
    }
    // The parser's own list of keys stands in its message.
    let mut pairs = required(table, root);
    pairs.push("no-such-key = 1".into());
    let (text, result) = parsed(&pairs);
    let error = result.expect_err("an unknown key was accepted");
    let ProfileError::Invalid { source: Invalid::Toml(message), .. } = error else { panic!("{text}: {error:?}") };
    assert!(message.starts_with("unknown field `no-such-key`"), "{text}: {message}");
    let known: BTreeSet<&str> = message.split('`').skip(1).step_by(2).skip(1).collect();
    assert_eq!(known, properties.keys().map(String::as_str).collect(), "{text}");
}

#[test]
fn schema_and_parser_accept_the_same_keys() {
    let schema = schemars::schema_for!(Profile);
    let root = serde_json::to_value(&schema).unwrap();
    let mut seen = Vec::new();
    compare(&root, &root, "", "", &mut seen);
    seen.dedup();
    // Neither is empty, and the deepest table was reached.
    assert!(seen.len() > 30, "{seen:?}");
    assert!(seen.iter().any(|name| name.contains("merge = [{ ") && name.ends_with("by_project")), "{seen:?}");
}
