//! Merging as an algebra, the floor, and every way a rule can be wrong.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::profile::{Source, parse};

const HOME: &str = "/home/ana";

fn places() -> Places {
    Places {
        home: AbsPath::known(HOME),
        project: Some(AbsPath::known("/home/ana/p")),
        git: Vec::new(),
        modules: Vec::new(),
        guard: None,
    }
}

fn layer(kind: LayerKind, text: &str) -> Layer {
    let source = Arc::new(Source::new("made-up.toml", text.to_owned()));
    let profile = parse(&source).unwrap_or_else(|e| panic!("{text}: {e:?}"));
    Layer { name: "made-up".into(), kind, source, profile }
}

fn merged(layers: &[(LayerKind, &str)]) -> Policy {
    let layers: Vec<Layer> = layers.iter().map(|(kind, text)| layer(*kind, text)).collect();
    resolve(&layers, "shell", &places()).unwrap_or_else(|e| panic!("{e:?}"))
}

/// As the loader puts `/etc/guard/managed.toml` around the other layers.
fn managed<'a>(text: &'a str, others: &[(LayerKind, &'a str)]) -> Policy {
    let mut layers = vec![(LayerKind::ManagedGrants, text)];
    layers.extend(others);
    layers.push((LayerKind::ManagedFloor, text));
    merged(&layers)
}

/// What a policy means, whoever said it.
fn meaning(policy: &Policy) -> String {
    let rules: Vec<_> = policy.rules.iter().map(|(p, r)| (p, r.access, r.terminal)).collect();
    let merges: Vec<_> = policy.merges.iter().map(|m| (&m.file, &m.keep_outside, &m.by_project)).collect();
    let names = |list: &'_ [(String, Origin)]| list.iter().map(|(n, _)| n.clone()).collect::<BTreeSet<_>>();
    let env = (names(&policy.env.allow), names(&policy.env.secrets), names(&policy.env.deny));
    let set: Vec<_> = policy.env.set.iter().map(|(n, (v, _))| (n, v)).collect();
    let sockets: Vec<_> = policy.sockets.keys().collect();
    let commands: Vec<_> = policy.commands.keys().collect();
    format!(
        "{rules:?} {:?} {merges:?} {env:?} {set:?} {:?} {sockets:?} {commands:?} {:?} {:?} {:?} {:?} {}",
        policy.create,
        policy.network.0,
        policy.resources,
        policy.require.0,
        policy.sandbox_args,
        policy.instructions,
        policy.quiet
    )
}

/// Layers that touch everything a profile can say, and each other.
const TEXTS: [&str; 8] = [
    "",
    "[fs]\nread = [\"/a\", \"~/x\"]\nwrite = [\"/a/b\"]\ndeny = [\"/a/b/c\"]",
    "[fs]\ndeny = [\"/a\"]\nread = [\"/a/b\"]\nmask = [\"~/x\"]\nprotect = [\"$PROJECT/q\"]",
    "[fs]\nstate = [\"~/x\"]\noverlay = [\"/a/b\"]\n[fs.create]\n\"~/x/y\" = \"1\"\n[[fs.merge]]\nfile = \"~/m\"",
    "require = \"landlock\"\n[network]\nmode = \"none\"\n[sockets]\ndocker = true\nx11 = false\n[start]\nquiet = true",
    "require = \"full\"\n[network]\nmode = \"open\"\n[sockets]\ndocker = false\nx11 = true\n[start]\nquiet = false",
    "[env]\nallow = [\"A\", \"B*\"]\nsecrets = [\"S\"]\ndeny = [\"D\"]\n[env.set]\nV = \"1\"\nW = \"~/w\"",
    "[resources]\nprocesses = 10\nmemory = \"1G\"\ntmp = \"1M\"\n[commands]\ndeny = [\"kubectl\"]\n\
     [agent]\nsandbox_args = [\"-x\"]\n[env.set]\nV = \"2\"\n[[fs.merge]]\nfile = \"~/m\"\nby_project = \"p\"",
];

const KINDS: [LayerKind; 8] = [
    LayerKind::ManagedGrants,
    LayerKind::Base,
    LayerKind::Toolchain,
    LayerKind::Agent,
    LayerKind::User,
    LayerKind::Directory,
    LayerKind::CommandLine,
    LayerKind::ManagedFloor,
];

#[test]
fn a_layer_twice_is_the_layer_once() {
    for kind in KINDS {
        for below in TEXTS {
            for text in TEXTS {
                let once = merged(&[(LayerKind::Base, below), (kind, text)]);
                let twice = merged(&[(LayerKind::Base, below), (kind, text), (kind, text)]);
                assert_eq!(meaning(&once), meaning(&twice), "{kind:?}\n{below}\n---\n{text}");
            }
        }
    }
}

#[test]
fn an_empty_layer_changes_nothing_anywhere() {
    for (first, second) in TEXTS.iter().flat_map(|a| TEXTS.iter().map(move |b| (a, b))) {
        let plain = meaning(&merged(&[(LayerKind::Agent, first), (LayerKind::User, second)]));
        for at in 0..=2 {
            for kind in KINDS {
                let mut layers = vec![(LayerKind::Agent, *first), (LayerKind::User, *second)];
                layers.insert(at, (kind, ""));
                assert_eq!(meaning(&merged(&layers)), plain, "{kind:?} at {at}\n{first}\n---\n{second}");
            }
        }
    }
}

#[test]
fn grouping_does_not_matter() {
    // What two layers of one kind say one after the other, one file may say at once, table by table.
    for (whole, parts) in [
        ("[fs]\nread = [\"/a\"]\ndeny = [\"/a/b\"]", ["[fs]\nread = [\"/a\"]", "[fs]\ndeny = [\"/a/b\"]"]),
        // Within one file what narrows is the stronger, in whatever order it stands.
        ("[fs]\ndeny = [\"/a\"]\nread = [\"/a\"]", ["[fs]\nread = [\"/a\"]", "[fs]\ndeny = [\"/a\"]"]),
        (
            "[env]\nallow = [\"A\"]\ndeny = [\"A\"]\n[network]\nmode = \"none\"",
            ["[env]\ndeny = [\"A\"]\n[network]\nmode = \"none\"", "[env]\nallow = [\"A\"]"],
        ),
    ] {
        let split = merged(&[(LayerKind::User, parts[0]), (LayerKind::User, parts[1])]);
        assert_eq!(meaning(&merged(&[(LayerKind::User, whole)])), meaning(&split), "{whole}");
    }
    // Nor does it matter where in the row of layers one stops: a layer is above all before it.
    for kinds in KINDS.windows(3) {
        for texts in TEXTS.windows(3) {
            let all = [(kinds[0], texts[0]), (kinds[1], texts[1]), (kinds[2], texts[2])];
            let again = [all[0], all[1], all[1], all[2], all[2]];
            assert_eq!(meaning(&merged(&all)), meaning(&merged(&again)), "{all:?}");
        }
    }
}

#[test]
fn for_one_key_the_later_layer_decides() {
    let policy = merged(&[(LayerKind::Agent, TEXTS[4]), (LayerKind::User, TEXTS[5])]);
    assert_eq!((policy.network.0, policy.require.0, policy.quiet), (NetworkMode::Open, Require::Full, false));
    assert_eq!(policy.sockets.keys().collect::<Vec<_>>(), [&Socket::X11]);
    let policy = merged(&[(LayerKind::Agent, TEXTS[5]), (LayerKind::User, TEXTS[4])]);
    assert_eq!((policy.network.0, policy.require.0, policy.quiet), (NetworkMode::None, Require::Landlock, true));
    assert_eq!(policy.sockets.keys().collect::<Vec<_>>(), [&Socket::Docker]);
    let policy = merged(&[(LayerKind::Agent, TEXTS[6]), (LayerKind::User, TEXTS[7])]);
    assert_eq!(policy.env.set["V"].0, "2");
    assert_eq!(policy.env.set["W"].0, "/home/ana/w");
    let policy = merged(&[(LayerKind::Agent, TEXTS[3]), (LayerKind::User, TEXTS[7])]);
    assert_eq!(policy.merges.len(), 1);
    assert_eq!(policy.merges[0].by_project.as_deref(), Some("p"));
}

#[test]
fn nothing_said_grants_nothing() {
    let policy = merged(&[]);
    assert!(policy.rules.is_empty() && policy.sockets.is_empty() && policy.env.allow.is_empty());
    assert_eq!(policy.require.0, Require::Full);
    assert_eq!(policy.require.1.to_string(), "default");
}

/// How far a path is open: 0 not at all, 1 for reading, 2 with a private layer, 3 for writing.
fn openness(policy: &Policy, path: &AbsPath) -> u8 {
    let mut rules = path.prefixes().filter_map(|p| policy.rules.get(p)).map(|rule| rule.access);
    match rules.next() {
        Some(Access::Deny | Access::Mask) | None => 0,
        Some(Access::Read) => 1,
        Some(Access::Overlay) => 2,
        Some(Access::Write | Access::State) => 3,
        // Read-only, if something above is open at all.
        Some(Access::Protect) => u8::from(rules.find(|a| *a != Access::Protect).is_some_and(Access::grants)),
    }
}

/// A row of numbers that is the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        // Knuth's MMIX constants; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }

    fn text(&mut self) -> String {
        const PATHS: [&str; 7] = ["/a", "/a/b", "/a/b/c", "/a/d", "~/x", "~/x/y", "$PROJECT/q"];
        let keys = ["read", "write", "state", "overlay", "protect", "mask", "deny"];
        let mut text = String::from("[fs]\n");
        for key in keys {
            let chosen: Vec<String> =
                PATHS.iter().filter(|_| self.below(6) == 0).map(|path| format!("{path:?}")).collect();
            text += &format!("{key} = [{}]\n", chosen.join(", "));
        }
        let mode = ["open", "none"][self.below(2)];
        let require = ["landlock", "full"][self.below(2)];
        let docker = self.below(2) == 0;
        let (tmp, processes) = (1 + self.below(9), 8 + self.below(9));
        let deny = ["A", "B", "A*"][self.below(3)];
        format!(
            "require = \"{require}\"\n{text}[network]\nmode = \"{mode}\"\n[sockets]\ndocker = {docker}\n[env]\n\
             allow = [\"A\", \"AB\", \"B\"]\ndeny = [\"{deny}\"]\n[env.set]\nAB = \"1\"\n[resources]\ntmp = \"{tmp}M\"\n\
             processes = {processes}\n[commands]\ndeny = [\"c{}\"]\n[fs.create]\n\"~/x/y\" = \"\"\n\
             [[fs.merge]]\nfile = \"~/x/y\"\n",
            self.below(3)
        )
    }
}

#[test]
fn a_floor_only_takes_away() {
    let paths = ["/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/d", "/home/ana/x", "/home/ana/x/y", "/home/ana/p/q", "/z"];
    let env = crate::env::Env::new(["A", "AB", "B", "C"].map(|n| (n.into(), "1".into())));
    let mut numbers = Numbers(7);
    for round in 0..400 {
        let (first, second, floor) = (numbers.text(), numbers.text(), numbers.text());
        for kind in [LayerKind::ManagedFloor, LayerKind::Terminal] {
            let below = [(LayerKind::Agent, first.as_str()), (LayerKind::User, second.as_str())];
            let without = merged(&below);
            let with = merged(&[below[0], below[1], (kind, &floor)]);
            let case = format!("round {round} {kind:?}\n{first}\n---\n{second}\n--- floor\n{floor}");
            for path in paths.map(AbsPath::known) {
                assert!(openness(&with, &path) <= openness(&without, &path), "{path}\n{case}");
            }
            assert!(with.network.0 >= without.network.0 && with.require.0 >= without.require.0, "{case}");
            assert!(with.sockets.keys().all(|s| without.sockets.contains_key(s)), "{case}");
            assert!(without.commands.keys().all(|c| with.commands.contains_key(c)), "{case}");
            assert!(with.resources.tmp_bytes <= without.resources.tmp_bytes, "{case}");
            assert!(with.resources.processes <= without.resources.processes, "{case}");
            assert!(with.create.keys().all(|p| without.create.contains_key(p)), "{case}");
            assert!(with.merges.iter().all(|m| without.merges.contains(m)), "{case}");
            let passes = |policy: &Policy| crate::env::filter(&env, &policy.env).vars;
            let before = passes(&without);
            assert!(passes(&with).keys().all(|name| before.contains_key(name)), "{case}");
        }
    }
}

#[test]
fn what_a_floor_withholds_no_layer_opens() {
    let mut numbers = Numbers(11);
    for round in 0..200 {
        let text = numbers.text();
        for kind in [LayerKind::Agent, LayerKind::User, LayerKind::Directory, LayerKind::CommandLine] {
            let floor = "require = \"full\"\n[fs]\ndeny = [\"/a/b\"]\nmask = [\"~/x\"]\nprotect = [\"/a/d\"]\n\
                         [network]\nmode = \"none\"\n[env]\ndeny = [\"A*\"]\n[sockets]\ndocker = false\n\
                         [commands]\ndeny = [\"kubectl\"]\n[resources]\ntmp = \"2M\"\nprocesses = 9\nmemory = \"1G\"";
            let policy = managed(floor, &[(LayerKind::Base, &text), (kind, &text)]);
            let case = format!("round {round} {kind:?}\n{text}");
            for (path, most) in
                [("/a/b", 0), ("/a/b/c", 0), ("/a/b/c/d", 0), ("/home/ana/x", 0), ("/home/ana/x/y", 0), ("/a/d", 1)]
            {
                assert!(openness(&policy, &AbsPath::known(path)) <= most, "{path}\n{case}");
            }
            assert_eq!((policy.network.0, policy.require.0), (NetworkMode::None, Require::Full), "{case}");
            assert_eq!(policy.merges, [], "{case}");
            assert!(policy.create.is_empty() && policy.sockets.is_empty(), "{case}");
            assert!(policy.commands.contains_key("kubectl"), "{case}");
            assert!(policy.resources.tmp_bytes <= 2 << 20, "{case}");
            assert!(policy.resources.processes <= Some(9) && policy.resources.memory_bytes == Some(1 << 30), "{case}");
            let env = crate::env::Env::new([("A".into(), "1".into()), ("B".into(), "1".into())]);
            let passed = crate::env::filter(&env, &policy.env).vars;
            assert!(!passed.keys().any(|name| name.to_str().unwrap().starts_with('A')), "{case}");
        }
    }
}

#[test]
fn a_managed_policy_grants_too_and_others_may_take_it_back() {
    let text =
        "[fs]\nread = [\"/opt/corp\"]\n[env]\nallow = [\"CORP\"]\n[sockets]\ndocker = true\n[resources]\ntmp = \"1M\"";
    let policy = managed(text, &[]);
    assert_eq!(openness(&policy, &AbsPath::known("/opt/corp/x")), 1);
    assert!(policy.sockets.contains_key(&Socket::Docker));
    assert_eq!(policy.env.allow.len(), 1);
    let user = "[fs]\ndeny = [\"/opt/corp\"]\n[sockets]\ndocker = false\n[resources]\ntmp = \"1G\"";
    let policy = managed(text, &[(LayerKind::User, user)]);
    assert_eq!(openness(&policy, &AbsPath::known("/opt/corp/x")), 0);
    assert!(policy.sockets.is_empty());
    assert_eq!(policy.resources.tmp_bytes, 1 << 20, "a limit is a floor as well");
}

#[test]
fn what_a_terminal_rule_overrode_is_told() {
    let policy = merged(&[
        (LayerKind::User, "[fs]\nread = [\"~/.ssh/id_rsa\", \"~/.ssh/known_hosts\"]"),
        (LayerKind::Terminal, "[fs]\n\ndeny = [\"~/.ssh/id_rsa\"]"),
    ]);
    let told: Vec<_> = policy.overridden.iter().map(|(p, o, by)| format!("{p} {o} {by}")).collect();
    // For the same path the terminal rule simply takes the place of the other.
    assert_eq!(told, [] as [String; 0]);
    assert_eq!(openness(&policy, &AbsPath::known("/home/ana/.ssh/known_hosts")), 1);
    let policy = merged(&[
        (LayerKind::User, "[fs]\nwrite = [\"~/.config/guard/x\"]"),
        (LayerKind::Terminal, "[fs]\n\ndeny = [\"~/.config/guard\"]"),
    ]);
    let told: Vec<_> = policy.overridden.iter().map(|(p, o, by)| format!("{p} {o} {by}")).collect();
    assert_eq!(told, ["/home/ana/.config/guard/x made-up.toml:2 made-up.toml:3"]);
}

#[test]
fn the_project_opens_nothing_below_a_deny() {
    let at = |project: &str, layers: &[(LayerKind, &str)]| {
        let layers: Vec<Layer> = layers.iter().map(|(kind, text)| layer(*kind, text)).collect();
        let project = AbsPath::known(project);
        let places = Places { project: Some(project.clone()), ..places() };
        openness(&resolve(&layers, "shell", &places).unwrap(), &project)
    };
    let base = (LayerKind::Base, "[fs]\nwrite = [\"$PROJECT\"]");
    let secrets = (LayerKind::Base, "[fs]\ndeny = [\"~/.aws\"]");
    for (project, user, want) in [
        ("/home/ana/p", "", 3),
        ("/home/ana/.aws", "", 0),
        ("/home/ana/.aws/sso", "", 0),
        ("/home/ana/.aws/sso", "[fs]\n\nwrite = [\"~/.aws/sso\"]", 3),
        ("/home/ana/.aws/sso", "[fs]\nread = [\"~/.aws\"]", 3),
        ("/home/ana/w/secret", "[fs]\ndeny = [\"~/w\"]", 0),
        ("/home/ana/w/ok/p", "[fs]\ndeny = [\"~/w\"]\nread = [\"~/w/ok\"]", 3),
    ] {
        assert_eq!(at(project, &[base, secrets, (LayerKind::User, user)]), want, "{project} {user}");
    }
}

#[test]
fn paths_mean_what_they_say() {
    for (text, want) in [
        ("~/x", "/home/ana/x"),
        ("~//x/./y/", "/home/ana/x/y"),
        ("/x//y", "/x/y"),
        ("$PROJECT", "/home/ana/p"),
        ("$PROJECT/", "/home/ana/p"),
        ("$PROJECT/a/b", "/home/ana/p/a/b"),
        ("/größe/ä b", "/größe/ä b"),
        ("/$PROJECT", "/$PROJECT"),
        ("/~/x", "/~/x"),
    ] {
        let policy = merged(&[(LayerKind::User, &format!("[fs]\nread = [{text:?}]"))]);
        assert_eq!(policy.rules.keys().collect::<Vec<_>>(), [&AbsPath::known(want)], "{text}");
    }
    // Without a project its rules are not there, rather than relative to something else.
    let layers = [layer(LayerKind::Base, "[fs]\nwrite = [\"$PROJECT\"]\nprotect = [\"$PROJECT/.git\"]")];
    let policy = resolve(&layers, "shell", &Places { project: None, ..places() }).unwrap();
    assert!(policy.rules.is_empty());
}

#[test]
fn git_directories_outside_the_project_are_writable_but_for_what_git_obeys() {
    let layers = [Layer { name: "base".into(), ..layer(LayerKind::Base, "[fs]\nwrite = [\"$PROJECT\"]") }];
    let git = vec![AbsPath::known("/home/ana/main/.git")];
    let policy = resolve(&layers, "shell", &Places { git, ..places() }).unwrap();
    for (path, want) in [("index", 3), ("hooks/x", 1), ("config", 1), ("config.worktree", 1), ("commondir", 1)] {
        assert_eq!(openness(&policy, &AbsPath::known("/home/ana/main/.git").join(path)), want, "{path}");
    }
    assert_eq!(openness(&policy, &AbsPath::known("/home/ana/main/x")), 0);
}

#[test]
fn each_error_has_its_place() {
    for (kind, text, words, line, column) in [
        (LayerKind::User, "[fs]\nread = [\"~/ok\", \"x/y\"]", "not absolute", 2, 17),
        (LayerKind::User, "[fs]\nread = [\"\"]", "not absolute", 2, 9),
        (LayerKind::User, "[fs]\nread = [\"$PROJECTS/x\"]", "not absolute", 2, 9),
        (LayerKind::User, "[fs]\nread = [\"~bob/x\"]", "not absolute", 2, 9),
        (LayerKind::User, "[fs]\nwrite = [\"/x/../y\"]", "`..`", 2, 10),
        (LayerKind::User, "[fs]\nwrite = [\"$PROJECT/..\"]", "`..`", 2, 10),
        (LayerKind::User, "[fs]\ndeny = [\"~/..\"]", "`..`", 2, 9),
        (LayerKind::User, "[fs]\ndeny = [\"/x\\u001b\"]", "control", 2, 9),
        (LayerKind::User, "[fs]\nmask = [\"/x\\n\"]", "control", 2, 9),
        (LayerKind::User, "[fs]\nmask = [\"/x\\u0000\"]", "control", 2, 9),
        (LayerKind::User, "[fs]\nprotect = [\"$PROJECT/*.pem\"]", "`*`", 2, 12),
        (LayerKind::Agent, "[fs]\nread = [\"~\"]", "whole home", 2, 9),
        (LayerKind::User, "[fs]\nread = [\"~/\"]", "whole home", 2, 9),
        (LayerKind::User, "[fs]\nwrite = [\"/\"]", "whole home", 2, 10),
        (LayerKind::Directory, "[fs]\noverlay = [\"/home\"]", "whole home", 2, 12),
        (LayerKind::CommandLine, "[fs]\nstate = [\"/home/ana\"]", "whole home", 2, 10),
        (LayerKind::ManagedGrants, "[fs]\nread = [\"/home\"]", "whole home", 2, 9),
        (LayerKind::User, "[fs.create]\n\"x\" = \"\"", "not absolute", 2, 1),
        (LayerKind::User, "[[fs.merge]]\nfile = \"../x\"", "`..`", 2, 8),
        (LayerKind::User, "[env]\nallow = [\"A-B\"]", "environment variable", 2, 10),
        (LayerKind::User, "[env]\nsecrets = [\"\"]", "environment variable", 2, 12),
        (LayerKind::User, "[env]\ndeny = [\"A=B\"]", "environment variable", 2, 9),
        (LayerKind::User, "[env.set]\n\"A*\" = \"1\"", "environment variable", 2, 1),
        (LayerKind::ManagedFloor, "[env]\ndeny = [\"A B\"]", "environment variable", 2, 9),
        (LayerKind::User, "[commands]\ndeny = [\"kube*\"]", "plain name", 2, 9),
        (LayerKind::ManagedFloor, "[commands]\ndeny = [\"/bin/sh\"]", "plain name", 2, 9),
        (LayerKind::User, "[network]\nmode = \"filtered\"", "does not exist yet", 2, 8),
        (LayerKind::ManagedFloor, "[network]\nmode = \"filtered\"", "does not exist yet", 2, 8),
        (LayerKind::User, "[resources]\nmemory = \"12X\"", "a size is", 2, 10),
        (LayerKind::User, "[resources]\ntmp = \"\"", "a size is", 2, 7),
        (LayerKind::User, "[resources]\ntmp = \"-1\"", "a size is", 2, 7),
        (LayerKind::User, "[resources]\ntmp = \"99999999999G\"", "a size is", 2, 7),
        (LayerKind::User, "[resources]\nmemory = \"1K\"", "at least", 2, 10),
        (LayerKind::User, "[resources]\ntmp = \"0\"", "at least", 2, 7),
        (LayerKind::ManagedFloor, "[resources]\nprocesses = 1", "at least", 2, 13),
    ] {
        let layers = [layer(kind, text)];
        let error = resolve(&layers, "shell", &places()).err().unwrap_or_else(|| panic!("{kind:?} {text}: accepted"));
        let ProfileError::Invalid { place, source } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains(words), "{text}: {source}");
        assert_eq!((place.line, place.column), (line, column), "{text}");
        assert_eq!(place.file, "made-up.toml");
    }
}

#[test]
fn sizes() {
    for (text, want) in [
        ("65536", Some(65536)),
        ("64K", Some(65536)),
        ("512M", Some(512 << 20)),
        ("4G", Some(4 << 30)),
        ("", None),
        ("K", None),
        ("1.5G", None),
        ("1g", None),
        ("1 G", None),
        ("+1G", None),
        ("１G", None),
        ("18446744073709551616", None),
        ("18014398509481984K", None),
    ] {
        assert_eq!(parse_size(text), want, "{text}");
    }
}
