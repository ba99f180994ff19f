//! The rows of the attack tables, and how one is tried: outside, where it must succeed; then inside, for each tier,
//! where it must be refused and must change nothing, or must be one of the gaps the row names.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::scene::{Scene, Try};
use super::support::{Output, User, World};

/// What success means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It prints the canary.
    Leak,
    /// It prints the canary so many times: once for each of many things tried.
    Leaks(usize),
    /// It exits with 0.
    Act,
    /// It changes something outside. Inside it may seem to succeed, as long as nothing outside changes.
    Change,
    /// It changes so many things outside.
    Changes(usize),
    /// A victim is told something: this text is on its output afterwards.
    Reach(&'static str),
}

/// What a tier does about it.
#[derive(Clone, Copy)]
pub enum Holds {
    /// It is refused.
    Stops,
    /// It succeeds, and this is why. Where it turns out to be refused, the row is out of date and fails.
    Open(&'static str),
}

/// Who tries it.
#[derive(Clone, Copy)]
pub enum Who {
    Both,
    /// One user only, with the reason.
    Only(User, &'static str),
}

pub struct Row {
    name: String,
    kind: Kind,
    who: Who,
    full: Holds,
    landlock: Holds,
    may_lack: bool,
    prepare: Box<dyn Fn(&mut Scene) -> Try>,
}

/// A row that both users try and both tiers stop, until told otherwise.
pub fn row(name: impl Into<String>, kind: Kind, prepare: impl Fn(&mut Scene) -> Try + 'static) -> Row {
    Row {
        name: name.into(),
        kind,
        who: Who::Both,
        full: Holds::Stops,
        landlock: Holds::Stops,
        may_lack: false,
        prepare: Box::new(prepare),
    }
}

impl Row {
    pub fn only(mut self, user: User, why: &'static str) -> Row {
        self.who = Who::Only(user, why);
        self
    }

    /// The landlock tier cannot stop it (✗LL in the threat table).
    pub fn gap(mut self, why: &'static str) -> Row {
        self.landlock = Holds::Open(why);
        self
    }

    /// No tier stops it.
    pub fn open(mut self, why: &'static str) -> Row {
        self.full = Holds::Open(why);
        self.landlock = Holds::Open(why);
        self
    }

    /// Kernels are built without it; then outside too it is refused for that reason, and nothing else may be.
    pub fn may_lack(mut self) -> Row {
        self.may_lack = true;
        self
    }
}

const TIERS: [(&str, &[&str]); 2] = [("full", &[]), ("landlock", &["--tier", "landlock"])];

/// Tries every row. Fails with all rows that did not go as they say.
pub fn run(rows: Vec<Row>) {
    // Fails once and early where no world can be made at all.
    drop(World::new());
    let (mut ran, mut wanted, mut failures, mut gaps) = (0, 0, Vec::new(), 0);
    // For looking at one row by hand.
    let only = std::env::var("ATTACK").unwrap_or_default();
    for row in rows.iter().filter(|row| row.name.contains(&only)) {
        let users: Vec<User> = match row.who {
            Who::Both => User::ALL.to_vec(),
            Who::Only(user, why) => {
                assert!(!why.is_empty());
                vec![user]
            }
        };
        wanted += users.len() * (1 + TIERS.len());
        for user in users {
            let mut fail = |place: &str, why: String| {
                failures.push(format!("=== {} as {} ({place}): {why}", row.name, user.name()));
            };
            ran += 1;
            let lacks = match caught(|| control(row, user)) {
                Ok(Control::Done) => false,
                Ok(Control::Lacking) => true,
                Err(why) => {
                    fail("outside", why);
                    false
                }
            };
            for (tier, args) in TIERS {
                ran += 1;
                // What the kernel does not have is refused in any case, so a gap is none.
                let holds = if lacks {
                    Holds::Stops
                } else if tier == "full" {
                    row.full
                } else {
                    row.landlock
                };
                gaps += usize::from(matches!(holds, Holds::Open(_)));
                if let Err(why) = caught(|| attack(row, user, holds, args)) {
                    fail(tier, why);
                }
            }
        }
    }
    assert_eq!(ran, wanted, "not every case ran");
    println!("{} rows, {ran} cases, {gaps} of them documented gaps", rows.len());
    assert!(failures.is_empty(), "{} of {ran} cases failed\n{}", failures.len(), failures.join("\n"));
}

/// How the control of a row ended.
enum Control {
    Done,
    /// This kernel is built without it.
    Lacking,
}

fn caught<T>(case: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|panic| Err(words(&*panic)))
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or("panic".into())
}

fn start(scene: &mut Scene, attempt: &Try, guard: Option<&[&str]>) -> Output {
    let mut run = scene.world.run(scene.user).cwd(&scene.project).wrap(&attempt.wrap);
    run = run.envs(attempt.env.iter().map(|(name, value)| (name, value)));
    if let Some(tier) = guard {
        let mut args = vec!["run".into(), "--quiet".into()];
        args.extend(tier.iter().map(Into::into));
        args.extend(attempt.guard.iter().cloned());
        run = run.guard(args);
    }
    run = if attempt.raw { run.cmd(&attempt.act) } else { run.probe(&attempt.act) };
    run.output()
}

fn control(row: &Row, user: User) -> Result<Control, String> {
    let mut scene = Scene::new(user);
    let attempt = (row.prepare)(&mut scene);
    let before = scene.snapshot();
    let out = start(&mut scene, &attempt, None);
    if row.may_lack && lacking(&out) {
        println!("{}: this kernel does not have it: {}", row.name, out.stdout().trim());
        return Ok(Control::Lacking);
    }
    // Also for the tables' own sake: what does not succeed outside proves nothing inside.
    succeeded(row, &scene, &attempt, &out)?;
    let wanted = match row.kind {
        Kind::Change => 1,
        Kind::Changes(count) => count,
        Kind::Leak | Kind::Leaks(_) | Kind::Act | Kind::Reach(_) => 0,
    };
    let changes = before.differences(&scene.snapshot());
    if changes.len() < wanted {
        let changes = changes.join("; ");
        return Err(format!("{wanted} things outside should have changed, not {changes}\n{}", out.report()));
    }
    if let Kind::Reach(text) = row.kind {
        scene.victims.last_mut().expect("a victim to reach").wait_for(text);
    }
    Ok(Control::Done)
}

fn lacking(out: &Output) -> bool {
    let reasons = ["ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "ENOPROTOOPT", "ENODEV"];
    reasons.iter().any(|reason| out.stdout().starts_with(&format!("denied {reason}")))
}

fn succeeded(row: &Row, scene: &Scene, attempt: &Try, out: &Output) -> Result<(), String> {
    let said = attempt.raw || out.stdout().trim_start().starts_with("ok");
    if out.code() != 0 || !said {
        return Err(format!("it did not succeed\n{}", out.report()));
    }
    let wanted = match row.kind {
        Kind::Leak => 1,
        Kind::Leaks(count) => count,
        Kind::Act | Kind::Change | Kind::Changes(_) | Kind::Reach(_) => 0,
    };
    let leaked = out.stdout().matches(&scene.canary).count();
    if leaked < wanted {
        return Err(format!("it printed the canary {leaked} times, not {wanted}\n{}", out.report()));
    }
    Ok(())
}

fn attack(row: &Row, user: User, holds: Holds, tier: &[&str]) -> Result<(), String> {
    let mut scene = Scene::new(user);
    let attempt = (row.prepare)(&mut scene);
    let before = scene.snapshot();
    let out = start(&mut scene, &attempt, Some(tier));
    if let Holds::Open(why) = holds {
        assert!(!why.is_empty());
        return succeeded(row, &scene, &attempt, &out).map_err(|error| format!("this gap ({why}) is none: {error}"));
    }
    if out.mentions(&scene.canary) {
        return Err(format!("the canary came out\n{}", out.report()));
    }
    let changes = before.differences(&scene.snapshot());
    if !changes.is_empty() {
        return Err(format!("the outside has changed: {}\n{}", changes.join("; "), out.report()));
    }
    if let Kind::Reach(text) = row.kind {
        unreached(&mut scene, text)?;
    }
    // The probe says what became of it, also when it printed nothing that matters. A filter may have killed it.
    let tried = attempt.raw || ["ok", "denied"].iter().any(|word| out.stdout().trim_start().starts_with(word));
    match out.code() {
        // SIGSYS.
        159 => Ok(()),
        _ if !tried => Err(format!("the attack was not tried\n{}", out.report())),
        // Guard's own refusals are no denial of the attack: nothing was tried.
        125..=127 => Err(format!("the attack was not tried\n{}", out.report())),
        0 if seeming(row, &attempt) => Ok(()),
        0 => Err(format!("it succeeded\n{}", out.report())),
        1 if attempt.raw => Ok(()),
        1 => plausible(&out),
        _ => Err(format!("neither done nor denied\n{}", out.report())),
    }
}

/// Whether an attack may exit with 0 inside: when what counts is what came out or changed, which was looked at.
fn seeming(row: &Row, attempt: &Try) -> bool {
    match row.kind {
        Kind::Leak | Kind::Leaks(_) | Kind::Change | Kind::Changes(_) => !attempt.raw,
        // The kernel does not tell the sender of SIGIO that it was not delivered.
        Kind::Reach(text) => text.starts_with("signal"),
        Kind::Act => false,
    }
}

/// A victim that was told nothing says nothing. Holders are asked to speak up, so that silence is no accident.
fn unreached(scene: &mut Scene, text: &str) -> Result<(), String> {
    let victim = scene.victims.last_mut().expect("a victim to reach");
    if text.starts_with("signal") {
        // SIGUSR2 is taken after any pending SIGUSR1: the lower number comes first.
        victim.signal(nix::sys::signal::Signal::SIGUSR2);
        victim.wait_for("signal SIGUSR2");
    }
    let heard = victim.stdout();
    if heard.contains(text) { Err(format!("the victim was reached: {heard}")) } else { Ok(()) }
}

/// A denial for the reasons a sandbox has; EINVAL or EFAULT would mean that the probe is at fault.
fn plausible(out: &Output) -> Result<(), String> {
    let known = [
        "ENOENT",
        "EACCES",
        "EPERM",
        "EROFS",
        "EXDEV",
        "EBUSY",
        "ENOSYS",
        "ECONNREFUSED",
        "ESRCH",
        "ENXIO",
        "EAFNOSUPPORT",
        "EPROTONOSUPPORT",
        "ESOCKTNOSUPPORT",
        "EIO",
        "ENOTDIR",
        "ENETUNREACH",
        "EBADF",
        "ENOKEY",
        "EIDRM",
        "ENODEV",
        "EADDRNOTAVAIL",
    ];
    let said = out.stdout();
    let mut denials = said.lines().filter_map(|line| line.trim_start().strip_prefix("denied "));
    let errno = denials.next().and_then(|rest| rest.split_whitespace().next());
    if errno.is_some_and(|errno| known.contains(&errno)) {
        return Ok(());
    }
    // shmat of an id that this IPC namespace does not have.
    if errno == Some("EINVAL") && out.report().contains("shm-read") {
        return Ok(());
    }
    Err(format!("denied for a strange reason\n{}", out.report()))
}
