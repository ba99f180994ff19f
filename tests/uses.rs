//! What a developer and an agent do all day must work inside as it does outside: the legitimate uses of the threat
//! table, with the real tools, as an ordinary user and as root, in both tiers.
//!
//! Each row is a script that ends with the word it wants on stdout. It runs outside first; a use that does not work
//! there says nothing about guard. The terminal's uses (45 and 48 to 51) have their own tests, on ptys.

mod support;

#[path = "uses/files.rs"]
mod files;
#[path = "uses/plumbing.rs"]
mod plumbing;
#[path = "uses/system.rs"]
mod system;
#[path = "uses/toolchains.rs"]
mod toolchains;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use support::{User, World};

/// One legitimate use.
struct Use {
    /// The number in the threat table.
    number: u8,
    name: &'static str,
    /// What has to be there before the session: files, other repositories, toolchains.
    set_up: fn(&mut Place),
    /// Run by bash with `-e`, in the project.
    script: &'static str,
    /// What stdout must contain in the end.
    wants: &'static str,
    /// Why the landlock tier cannot have it, if it cannot.
    not_in_landlock: Option<&'static str>,
    /// What must be true outside afterwards.
    leaves: fn(&Place) -> bool,
}

/// Where a use takes place.
struct Place {
    world: World,
    user: User,
    project: PathBuf,
    path: String,
    guard: Vec<&'static str>,
    /// Whether the use happens inside guard; known only after the set-up.
    inside: bool,
}

impl Place {
    fn new(user: User) -> Place {
        let world = World::new();
        let project = world.project(user, "demo");
        Place { world, user, project, path: "/usr/local/bin:/usr/bin:/bin".into(), guard: Vec::new(), inside: false }
    }

    /// Writes a file of the project.
    fn file(&self, name: &str, text: impl AsRef<[u8]>) {
        self.world.write(self.user, self.project.join(name), text);
    }

    /// Runs a script outside, as part of the set-up.
    fn outside(&self, script: &str) {
        self.world
            .run(self.user)
            .cwd(&self.project)
            .env("PATH", &self.path)
            .sh(format!("set -e; {script}"))
            .output()
            .success();
    }
}

fn nothing(_: &mut Place) {}

fn anything(_: &Place) -> bool {
    true
}

/// A use that holds in both tiers and needs nothing prepared.
fn used(number: u8, name: &'static str, script: &'static str, wants: &'static str) -> Use {
    Use { number, name, set_up: nothing, script, wants, not_in_landlock: None, leaves: anything }
}

impl Use {
    fn set_up(mut self, set_up: fn(&mut Place)) -> Use {
        self.set_up = set_up;
        self
    }

    fn not_in_landlock(mut self, why: &'static str) -> Use {
        self.not_in_landlock = Some(why);
        self
    }

    fn leaves(mut self, leaves: fn(&Place) -> bool) -> Use {
        self.leaves = leaves;
        self
    }
}

const PLACES: [Option<&str>; 3] = [None, Some("full"), Some("landlock")];

fn run(uses: &[Use]) {
    // Fails once and early where no world can be made at all.
    drop(World::new());
    let only = std::env::var("USE").unwrap_or_default();
    let (mut ran, mut failures, mut given_up) = (0, Vec::new(), 0);
    for case in uses.iter().filter(|case| case.name.contains(&only)) {
        for user in User::ALL {
            for tier in PLACES {
                let given_up_here = tier == Some("landlock") && case.not_in_landlock.is_some();
                ran += 1;
                given_up += usize::from(given_up_here);
                let works = catch_unwind(AssertUnwindSafe(|| once(case, user, tier)));
                let place = tier.unwrap_or("outside");
                match works {
                    Ok(()) if given_up_here => failures.push(format!(
                        "=== {} {} as {} ({place}): it works, though the table says: {}",
                        case.number,
                        case.name,
                        user.name(),
                        case.not_in_landlock.unwrap_or_default()
                    )),
                    Err(panic) if !given_up_here => failures.push(format!(
                        "=== {} {} as {} ({place}): {}",
                        case.number,
                        case.name,
                        user.name(),
                        panic.downcast_ref::<String>().cloned().unwrap_or_default()
                    )),
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
    println!("{} uses, {ran} cases, {given_up} of them given up in the landlock tier", uses.len());
    if only.is_empty() {
        assert_eq!(ran, uses.len() * User::ALL.len() * PLACES.len(), "not every case ran");
    }
    assert!(failures.is_empty(), "{} of {ran} cases failed\n{}", failures.len(), failures.join("\n"));
}

fn once(case: &Use, user: User, tier: Option<&str>) {
    let mut place = Place::new(user);
    (case.set_up)(&mut place);
    place.inside = tier.is_some();
    let mut run = place.world.run(user).cwd(&place.project).env("PATH", &place.path);
    if let Some(tier) = tier {
        let mut args = vec!["run", "--quiet", "--tier", tier];
        args.extend(&place.guard);
        run = run.guard(args);
    }
    let out = run.sh(format!("set -e\n{}", case.script)).output().success().expect_stdout(case.wants);
    let left = (case.leaves)(&place);
    drop(out.check(left, "it did not leave outside what it should"));
}

/// Every number of the threat table has its row, here or in the terminal's tests.
#[test]
fn no_use_is_forgotten() {
    let mut numbers: Vec<u8> = [files::uses(), plumbing::uses(), system::uses(), toolchains::uses()]
        .into_iter()
        .flatten()
        .map(|case| case.number)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let terminal = [45, 48, 49, 50, 51];
    let wanted: Vec<u8> = (1..=57).filter(|number| !terminal.contains(number)).collect();
    // 52 to 57 and 40 are plain tests in plumbing.rs, because they are about guard's own status and pipes.
    let plain = plumbing::PLAIN_TESTS;
    let missing: Vec<u8> =
        wanted.into_iter().filter(|number| !numbers.contains(number) && !plain.contains(number)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}
