//! Profiles that are wrong, hostile or odd, given to the real binary: each ends the start with exit code 125, says
//! where and what, and runs nothing. And `/etc/guard/managed.toml` as a floor, in a world with an `/etc` of its own.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use support::{Output, User, World};

const CONFIG: &str = ".config/guard/config.toml";
const MANAGED: &str = "/etc/guard/managed.toml";

/// A world with a secret, a project, and a command that leaves a mark there when it runs.
struct Place {
    world: World,
    user: User,
    project: PathBuf,
}

impl Place {
    fn new(user: User) -> Place {
        let world = World::new();
        world.write(user, ".ssh/id_ed25519", "the key\n");
        world.write(user, "docs/a.txt", "a document\n");
        let project = world.mkdir(user, "src/p");
        Place { world, user, project }
    }

    fn host(&self, path: impl AsRef<Path>) -> PathBuf {
        self.world.host_path(self.user.path(path))
    }

    fn config(&self, text: impl AsRef<[u8]>) {
        self.world.write(self.user, CONFIG, text);
    }

    /// `guard run FLAGS -- bash -c SCRIPT` in the project.
    fn run(&self, flags: &[&str], script: &str) -> Output {
        let args = ["run"].iter().chain(flags);
        self.world.run(self.user).cwd(&self.project).guard(args).sh(script).output()
    }

    fn guard(&self, args: &[&str]) -> Output {
        self.world.run(self.user).cwd(&self.project).guard(args).output()
    }

    /// The start is refused with these words, by `run`, `why` and `--dry-run` alike, and nothing has run.
    #[track_caller]
    fn refuses(&self, flags: &[&str], words: &[&str]) {
        let output = self.run(flags, "touch ran").expect_code(125);
        assert!(!self.world.exists(self.project.join("ran")), "it ran\n{}", output.report());
        let mut output = output.expect_stderr("guard: ").expect_no("the key");
        for word in words {
            output = output.expect_stderr(word);
        }
        assert!(output.stderr().len() < 4000, "a message nobody reads\n{}", output.report());
        let dry = ["--dry-run"].iter().chain(flags).copied().collect::<Vec<_>>();
        self.run(&dry, "true").expect_code(125);
        let why: Vec<&str> = ["why"].iter().chain(flags).chain(&["read", "."]).copied().collect();
        self.guard(&why).expect_code(2);
    }

    /// It starts; the mark is made; the key stays out of reach.
    #[track_caller]
    fn starts(&self, flags: &[&str]) {
        let output = self.run(flags, "cat ~/.ssh/id_ed25519; touch ran").success().expect_no("the key");
        assert!(self.world.exists(self.project.join("ran")), "it did not run\n{}", output.report());
        fs::remove_file(self.host(self.project.join("ran"))).unwrap();
    }
}

#[test]
fn a_sound_config_starts() {
    for user in User::ALL {
        let place = Place::new(user);
        place.starts(&[]);
        place.config("[fs]\nread = [\"~/docs\"]\n");
        place.starts(&[]);
        place.run(&[], "cat ~/docs/a.txt").success().expect_stdout("a document");
    }
}

#[test]
fn what_is_wrong_in_a_text_is_shown_where_it_is() {
    let place = Place::new(User::Ana);
    let at = |line: &str| format!("/home/ana/{CONFIG}:{line}");
    for (text, place_in_file, words) in [
        ("# x\n[fs]\nraed = [\"~/docs\"]\n", "3:1", &["raed = [", "^^^^", "unknown field", "did you mean `read`?"][..]),
        ("[network]\nmode = \"opne\"\n", "2:8", &["^^^^^^", "did you mean `open`?"]),
        ("[fs]\nread = \"~/docs\"\n", "2:8", &["invalid type", "^"]),
        ("[resources]\nprocesses = \"many\"\n", "2:13", &["invalid type"]),
        ("[resources]\nprocesses = -1\n", "2:13", &["-1"]),
        ("[sockets]\ndocker = 1\n", "2:10", &["invalid type"]),
        ("[fs\n", "1:4", &["^"]),
        ("[fs]\nread = [\"~/docs\"]\nread = [\"~/docs\"]\n", "3:1", &["duplicate key"]),
        ("[fs]\nread = [\"docs\"]\n", "2:9", &["not absolute", "^^^^^^"]),
        ("[fs]\nread = [\"~/docs/../.ssh\"]\n", "2:9", &["`..`"]),
        ("[fs]\nread = [\"$PROJECT/../../.ssh\"]\n", "2:9", &["`..`"]),
        ("[fs]\nread = [\"~/docs\\u001b]52;c;\\u0007\"]\n", "2:9", &["control character"]),
        ("[fs]\nread = [\"~/docs\\n/x\"]\n", "2:9", &["control character"]),
        ("[fs]\nread = [\"~/do*\"]\n", "2:9", &["`*`", "name the directory"]),
        ("[fs]\nread = [\"~\"]\n", "2:9", &["whole home"]),
        ("[fs]\nwrite = [\"/home/ana\"]\n", "2:10", &["whole home"]),
        ("[fs]\nread = [\"/\"]\n", "2:9", &["whole home"]),
        ("[network]\nmode = \"filtered\"\n", "2:8", &["does not exist yet"]),
        ("[resources]\ntmp = \"1X\"\n", "2:7", &["a size is"]),
        ("[env]\nallow = [\"A-B\"]\n", "2:10", &["environment variable"]),
        ("extends = [\"nobody\"]\n", "1:12", &["no profile named `nobody`"]),
    ] {
        place.config(text);
        let position = at(place_in_file);
        place.refuses(&[], &[&[position.as_str(), "because: "][..], words].concat());
        // The linter says the same, apart from what only the whole start knows.
        if !text.contains("extends") {
            place.guard(&["profile", "check"]).expect_code(2).expect_stderr(&position);
        }
    }
    place.config("");
    place.starts(&[]);
}

#[test]
fn messages_carry_no_escape_sequences() {
    let place = Place::new(User::Ana);
    for text in
        ["\"\\u001b]52;c;eA==\\u0007\" = 1\n", "extends = [\"\\u001b[2J\"]\n", "[fs]\nread = [\"\\u001b[2J\"]\n"]
    {
        place.config(text);
        let output = place.run(&[], "touch ran").expect_code(125);
        assert!(!output.stderr().contains('\u{1b}'), "{}", output.report());
    }
}

#[test]
fn profiles_that_extend_each_other_in_a_circle() {
    let place = Place::new(User::Ana);
    for (name, text) in [("a", "extends = [\"b\"]"), ("b", "extends = [\"c\"]"), ("c", "extends = [\"a\"]")] {
        place.world.write(User::Ana, format!(".config/guard/profiles/{name}.toml"), text);
    }
    place.world.write(User::Ana, ".config/guard/profiles/self.toml", "extends = [\"self\"]");
    place.refuses(&["--profile", "a"], &["circle", "a → b → c → a", "profiles/c.toml:1:12"]);
    place.refuses(&["--profile", "self"], &["circle", "self → self"]);
    place.refuses(&["--profile", "clod"], &["no profile named `clod`", "guard profile list"]);
    place.refuses(&["--profile", "../../x"], &["no profile named"]);
    place.starts(&[]);
}

#[test]
fn bytes_that_are_no_profile() {
    for user in User::ALL {
        let place = Place::new(user);
        let noise: Vec<u8> = (0..10_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let utf16: Vec<u8> = [0xfeff].into_iter().chain("[fs]\n".encode_utf16()).flat_map(u16::to_le_bytes).collect();
        for (bytes, words) in [
            (noise, "larger than"),
            (vec![b'#'; 10_000_000], "larger than"),
            (utf16, "not plain UTF-8"),
            (b"[fs]\n# \xff\xfe\n".to_vec(), "not plain UTF-8"),
            (b"[fs]\n# \0\n".to_vec(), "not plain UTF-8"),
            (b"\x7fELF\x02\x01\x01".to_vec(), "not plain UTF-8"),
            (b"# \x1b]52;c;eA==\x07\n".to_vec(), "not plain UTF-8"),
        ] {
            place.config(bytes);
            place.refuses(&[], &["cannot use the profile", CONFIG, words]);
        }
    }
}

#[test]
fn things_that_are_no_file() {
    for user in User::ALL {
        let place = Place::new(user);
        place.world.mkdir(user, ".config/guard");
        let config = place.host(CONFIG);
        let own = |path: &Path| std::os::unix::fs::lchown(path, Some(user.uid()), Some(user.uid())).unwrap();
        let link = |target: &str| symlink(target, &config).unwrap();
        let cases: [(&dyn Fn(), &str); 7] = [
            (&|| fs::create_dir(&config).unwrap(), "not a regular file"),
            (
                &|| nix::unistd::mkfifo(&config, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap(),
                "not a regular file",
            ),
            (&|| link("/dev/zero"), "not a regular file"),
            (&|| link("/dev/stdin"), "cannot"),
            (&|| link("config.toml"), "cannot read the profile"),
            // A file that should be there may take something away: its absence is no permission.
            (&|| link("/nonexistent/config.toml"), "cannot read the profile"),
            (&|| link("/proc/self/mem"), "cannot"),
        ];
        for (make, words) in cases {
            make();
            own(&config);
            place.refuses(&[], &[CONFIG, words]);
            if config.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir(&config).unwrap();
            } else {
                fs::remove_file(&config).unwrap();
            }
        }
        place.starts(&[]);
    }
}

#[test]
fn files_that_others_could_have_written() {
    let place = Place::new(User::Ana);
    place.config("[fs]\nread = [\"~/docs\"]\n");
    place.starts(&[]);
    let config = place.host(CONFIG);
    for mode in [0o664, 0o646, 0o666, 0o777] {
        fs::set_permissions(&config, fs::Permissions::from_mode(mode)).unwrap();
        place.refuses(&[], &[CONFIG, "other users may write to it", "chmod go-w"]);
    }
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    chown(&config, Some(4243), None).unwrap();
    place.refuses(&[], &[CONFIG, "belongs to another user (uid 4243)", "chown"]);
    // Root's is obeyed, and one that cannot be read is no permission.
    chown(&config, Some(0), None).unwrap();
    place.starts(&[]);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    place.refuses(&[], &["cannot read the profile", CONFIG]);
    // A symlink to another user's file is that file.
    fs::remove_file(&config).unwrap();
    place.world.write(User::Root, "/tmp/theirs.toml", "");
    chown(place.world.host_path("/tmp/theirs.toml"), Some(4243), None).unwrap();
    symlink("/tmp/theirs.toml", &config).unwrap();
    place.refuses(&[], &["belongs to another user"]);
}

#[test]
fn every_file_of_the_users_is_judged_alike() {
    for (file, flags) in [
        (".config/guard/directories.toml", &[][..]),
        (".config/guard/profiles/shell.toml", &[]),
        (".config/guard/profiles/mine.toml", &["--profile", "mine"]),
    ] {
        let place = Place::new(User::Ana);
        place.world.write(User::Ana, file, "nonsense = 1\n");
        place.refuses(flags, &[file, ":1:1", "unknown field `nonsense`"]);
        fs::set_permissions(place.host(file), fs::Permissions::from_mode(0o666)).unwrap();
        place.refuses(flags, &[file, "other users may write to it"]);
    }
    // A profile of the user's with an agent's name has no more rights than another.
    let place = Place::new(User::Ana);
    place.world.write(User::Ana, ".config/guard/profiles/shell.toml", "[fs]\nwrite = [\"~\"]\n");
    place.refuses(&[], &["profiles/shell.toml:2:10", "whole home"]);
}

#[test]
fn a_granted_path_that_does_not_exist_is_skipped_and_listed() {
    for user in User::ALL {
        let place = Place::new(user);
        place.config("[fs]\nread = [\"~/gone\", \"~/docs\"]\nwrite = [\"~/also-gone\"]\n");
        place.starts(&[]);
        let list = place.run(&["--dry-run"], "true").success();
        for path in ["gone", "also-gone"] {
            let path = user.path(path).display().to_string();
            assert!(
                list.stdout().lines().any(|l| l.contains(&path) && l.contains("does not exist")),
                "{path}\n{}",
                list.report()
            );
        }
        place.run(&[], "cat ~/docs/a.txt && ! ls ~/gone").success();
        assert!(!place.host("gone").exists() && !place.host("also-gone").exists());
    }
}

#[test]
fn a_symlink_loop_names_the_rule() {
    let place = Place::new(User::Ana);
    symlink("loop", place.host("loop")).unwrap();
    for key in ["read", "write", "deny", "protect", "overlay"] {
        place.config(format!("\n[fs]\n{key} = [\"~/loop/x\"]\n"));
        place.refuses(&[], &[&format!("{CONFIG}:3"), "/home/ana/loop", "Too many levels of symbolic links"]);
    }
}

#[test]
fn flags_that_mean_nothing_or_too_much() {
    let place = Place::new(User::Ana);
    symlink("/home/ana", place.host("src/p/home")).unwrap();
    for (flags, words) in [
        (&["--write", "/home/ana"][..], "whole home"),
        (&["--read", "../.."], "whole home"),
        (&["--read", "/"], "whole home"),
        (&["--read", "nowhere/../x"], "`..`"),
        (&["--read", "/x\u{1b}[2J"], "control character"),
        (&["--env", "A=B"], "environment variable"),
        (&["--network", "filtered"], "does not exist yet"),
        (&["--tier", "landlock", "--require", "full"], "requires the full one"),
    ] {
        place.refuses(flags, &[words]);
    }
    // Through a link it is no error but opens nothing either.
    place.starts(&["--read", "home"]);
    place.starts(&["--read", "/home/ana/.ssh/nothing"]);
}

#[test]
fn a_grant_in_something_denied_in_a_grant() {
    for user in User::ALL {
        let place = Place::new(user);
        for file in ["docs/private/secret", "docs/private/open/x"] {
            place.world.write(user, file, format!("in {file}\n"));
        }
        place.config("[fs]\nread = [\"~/docs\"]\ndeny = [\"~/docs/private\"]\nwrite = [\"~/docs/private/open\"]\n");
        let script =
            "cat ~/docs/a.txt ~/docs/private/open/x && ! cat ~/docs/private/secret && echo y > ~/docs/private/open/y";
        place.run(&[], script).success().expect_stdout("in docs/private/open/x").expect_no("in docs/private/secret");
        assert_eq!(place.world.read(user.path("docs/private/open/y")), "y\n");
    }
}

#[test]
fn a_terminal_path_the_agent_makes_in_a_grant_is_told() {
    // A grant above guard's own config, which is not there yet.
    let place = Place::new(User::Ana);
    place.world.mkdir(User::Ana, "x");
    place.world.mkdir(User::Ana, ".config");
    let script = "mkdir ~/.config/fish && touch ~/.config/fish/config.fish";
    place.run(&["--write", "/home/ana/.config"], script).expect_stderr("/home/ana/.config/fish");
}

#[test]
fn the_managed_policy_is_a_floor() {
    for user in User::ALL {
        let place = Place::new(user);
        place.world.write(user, "docs/secret/x", "not for agents\n");
        place.config(
            "require = \"landlock\"\n[fs]\nread = [\"~/docs\", \"~/docs/secret/x\"]\n[env]\nallow = [\"CORP_*\"]\n\
             [env.set]\nCORP_URL = \"mine\"\n[resources]\ntmp = \"8G\"\n",
        );
        let look = "cat ~/docs/secret/x; echo url=$CORP_URL x=$CORP_X";
        let with = |place: &Place, flags: &[&str]| {
            let args = ["run"].iter().chain(flags);
            place.world.run(user).cwd(&place.project).env("CORP_X", "passed").guard(args).sh(look).output()
        };
        // The control: without it, all of that is open.
        with(&place, &[]).expect_stdout("not for agents").expect_stdout("url=mine x=passed");

        let docs = user.path("docs/secret").display().to_string();
        place.world.write(
            User::Root,
            MANAGED,
            format!(
                "require = \"full\"\n[network]\nmode = \"none\"\n[fs]\ndeny = [\"{docs}\"]\n[env]\ndeny = [\"CORP_*\"]\n\
                 [resources]\ntmp = \"1M\"\n"
            ),
        );
        for flags in
            [&[][..], &["--require", "landlock"], &["--network", "open"], &["--read", &docs], &["--env", "CORP_X"]]
        {
            with(&place, flags).expect_stdout("url= x=\n").expect_no("not for agents").expect_no("passed");
            let args: Vec<&str> = ["--dry-run", "--json"].iter().chain(flags).copied().collect();
            let plan: serde_json::Value = serde_json::from_str(&place.run(&args, "true").success().stdout()).unwrap();
            assert_eq!((&plan["network"], &plan["tier"]), (&"none".into(), &"full".into()), "{flags:?}");
            let why: Vec<&str> = ["why"].iter().chain(flags).chain(&["connect", "example.org:443"]).copied().collect();
            place.guard(&why).expect_code(1);
        }
        place.run(&[], "! head -c 2M /dev/zero > /tmp/x").success();
        place.refuses(&["--tier", "landlock"], &["requires the full one", "/etc/guard/managed.toml:1"]);
        place.run(&[], "cat /etc/guard/managed.toml").check_denied();
    }
}

trait Denied {
    fn check_denied(self);
}

impl Denied for Output {
    #[track_caller]
    fn check_denied(self) {
        let code = self.code();
        self.check(code == 1, "expected cat to fail").expect_no("require");
    }
}

#[test]
fn a_managed_policy_that_is_not_sound_ends_every_start() {
    let place = Place::new(User::Ana);
    let managed = place.world.host_path(MANAGED);
    for (text, words) in [
        ("[fs]\ndney = []\n", &["managed.toml:2:1", "did you mean `deny`?"][..]),
        ("[network]\nmode = \"filtered\"\n", &["managed.toml:2:8", "does not exist yet"]),
        ("extends = [\"corp\"]\n", &["managed.toml:1:12", "stands alone"]),
        ("[fs]\nread = [\"~\"]\n", &["managed.toml:2:9", "whole home"]),
        ("[fs]\ndeny = [\"x\"]\n", &["managed.toml:2:9", "not absolute"]),
    ] {
        place.world.write(User::Root, MANAGED, text);
        place.refuses(&[], words);
    }
    place.world.write(User::Root, MANAGED, "");
    place.starts(&[]);
    // It counts only as root's, and unreadable is not absent.
    chown(&managed, Some(User::Ana.uid()), None).unwrap();
    place.refuses(&[], &["managed.toml", "belongs to another user (uid 4242)", "must belong to root"]);
    chown(&managed, Some(0), None).unwrap();
    fs::set_permissions(&managed, fs::Permissions::from_mode(0o666)).unwrap();
    place.refuses(&[], &["managed.toml", "other users may write to it"]);
    fs::set_permissions(&managed, fs::Permissions::from_mode(0o600)).unwrap();
    place.refuses(&[], &["cannot read the profile /etc/guard/managed.toml"]);
}

#[test]
fn the_published_schema_is_the_parsers() {
    // The keys are compared in the library's own tests; this is that the command prints that schema.
    let place = Place::new(User::Ana);
    let printed: serde_json::Value =
        serde_json::from_str(&place.guard(&["profile", "schema"]).success().stdout()).unwrap();
    let wanted = serde_json::to_value(schemars::schema_for!(guard::profile::Profile)).unwrap();
    assert_eq!(printed, wanted);
}
