//! Every machine: each Landlock version, with and without namespaces, seccomp and overlays, and every wish.

use nix::errno::Errno;

use super::*;
use crate::host::{Capability, LandlockFault, NamespaceFault};

const FAULTS: [NamespaceFault; 5] = [
    NamespaceFault::DebianSwitch,
    NamespaceFault::Maximum,
    NamespaceFault::AppArmor,
    NamespaceFault::Refused(Errno::EPERM),
    NamespaceFault::ProcMasked(Errno::EPERM),
];

/// What comes out of a machine with Landlock and seccomp: by namespaces, `require` and the tier asked for.
const OUTCOMES: [(bool, Require, Option<Tier>, &str); 12] = [
    (true, Require::Full, None, "full"),
    (true, Require::Full, Some(Tier::Full), "full"),
    (true, Require::Full, Some(Tier::Landlock), "below required"),
    (true, Require::Landlock, None, "full"),
    (true, Require::Landlock, Some(Tier::Full), "full"),
    (true, Require::Landlock, Some(Tier::Landlock), "landlock"),
    (false, Require::Full, None, "no namespaces"),
    (false, Require::Full, Some(Tier::Full), "no namespaces"),
    (false, Require::Full, Some(Tier::Landlock), "below required"),
    (false, Require::Landlock, None, "landlock"),
    (false, Require::Landlock, Some(Tier::Full), "no namespaces"),
    (false, Require::Landlock, Some(Tier::Landlock), "landlock"),
];

type Row = (&'static str, Option<Tier>, std::ops::RangeInclusive<u32>, Option<bool>);

/// Gaps by their short names: the tier they belong to, the versions of Landlock that have them, and whether overlays
/// matter.
const GAPS: [Row; 15] = [
    ("sockets", Some(Tier::Landlock), 1..=8, None),
    ("process list", Some(Tier::Landlock), 1..=10, None),
    ("file metadata", Some(Tier::Landlock), 1..=10, None),
    ("System V IPC", Some(Tier::Landlock), 1..=10, None),
    ("no new terminals", Some(Tier::Landlock), 1..=10, None),
    ("signals", Some(Tier::Landlock), 1..=5, None),
    ("truncation", Some(Tier::Landlock), 1..=2, None),
    ("device ioctls", Some(Tier::Landlock), 1..=4, None),
    ("abstract sockets", None, 1..=5, None),
    ("no moves between directories", None, 1..=1, None),
    ("limits", Some(Tier::Landlock), 1..=10, None),
    ("withheld files", Some(Tier::Landlock), 1..=10, None),
    ("protected files", Some(Tier::Landlock), 1..=10, None),
    ("read-only caches", Some(Tier::Landlock), 1..=10, None),
    ("read-only caches", Some(Tier::Full), 1..=10, Some(false)),
];

/// A policy with something of each kind that a host may fail to hold.
fn scene(require: Require) -> Scene {
    let word = if require == Require::Full { "full" } else { "landlock" };
    Scene::new(&["/home/ana/.npm/", "/home/ana/p/secret/"]).user(&format!(
        "require = \"{word}\"\n[resources]\nprocesses = 500\n[fs]\noverlay = [\"~/.npm\"]\n\
         deny = [\"$PROJECT/secret\"]\nprotect = [\"$PROJECT/.git/config\"]"
    ))
}

#[test]
fn every_host_has_its_tier_or_its_refusal() {
    let mut cases = 0;
    for (require, forced) in [Require::Full, Require::Landlock]
        .into_iter()
        .flat_map(|r| [None, Some(Tier::Full), Some(Tier::Landlock)].map(|t| (r, t)))
    {
        let mut scene = scene(require);
        scene.tier = forced;
        for abi in 0..=10 {
            for namespaces in [None].into_iter().chain(FAULTS.map(Some)) {
                for (seccomp, overlay) in [(true, true), (true, false), (false, true), (false, false)] {
                    cases += 1;
                    scene.host = Host { landlock_abi: abi, namespaces, seccomp, overlay, ..able() };
                    judge(&scene, require);
                }
            }
        }
    }
    assert_eq!(cases, 2 * 3 * 11 * 6 * 4);
}

fn judge(scene: &Scene, require: Require) {
    let host = &scene.host;
    let case = format!("{host:?} {require:?} {:?}", scene.tier);
    let want = if host.landlock_abi == 0 {
        "no landlock"
    } else if !host.seccomp {
        "no seccomp"
    } else {
        let row =
            OUTCOMES.iter().find(|(ns, r, t, _)| *ns == host.namespaces.is_none() && *r == require && *t == scene.tier);
        row.unwrap().3
    };
    match scene.make() {
        Err(refusal) => {
            let got = match &refusal {
                Refusal::NoLandlock(_) => "no landlock",
                Refusal::NoSeccomp => "no seccomp",
                Refusal::NoNamespaces { .. } => "no namespaces",
                Refusal::TierBelowRequired(_) => "below required",
                other => panic!("{case}: {other}"),
            };
            assert_eq!(got, want, "{case}");
            assert_eq!(refusal.exit_code(), 125, "{case}");
            assert!(!refusal.hint().is_empty(), "{case}");
        }
        Ok(plan) => {
            assert_eq!(plan.tier.word(), want, "{case}");
            locked(&plan, &case);
            assert_eq!(names(&plan), expected(&plan, host), "{case}");
        }
    }
}

/// Both the ruleset and the filter are there, and the root in the full tier.
fn locked(plan: &Plan, case: &str) {
    assert!(plan.ruleset.abi > 0 && !plan.ruleset.paths.is_empty(), "{case}");
    for call in ["ptrace", "mount", "keyctl", "io_uring_setup", "ioctl", "bpf", "setns", "open_by_handle_at"] {
        let found = plan.filter.iter().any(|rule| rule.name == call);
        assert_eq!(found, call != "ptrace", "{case}: {call}");
    }
    let private = |at: &str| plan.mounts.iter().any(|m| m.at == AbsPath::known(at));
    for at in ["/proc", "/dev", "/tmp", "/dev/pts", "/dev/shm", HOME] {
        assert_eq!(private(at), plan.tier == Tier::Full, "{case}: {at}");
    }
    if plan.tier == Tier::Landlock {
        for outside in ["/", "/home", HOME, "/tmp", "/etc"] {
            let open = plan.ruleset.paths.iter().any(|r| r.path == AbsPath::known(outside));
            assert!(!open, "{case}: {outside}");
        }
    }
    assert_eq!(plan.env.vars.get(std::ffi::OsStr::new("GUARD_TIER")).unwrap().reveal(), plan.tier.word(), "{case}");
}

fn names(plan: &Plan) -> Vec<&'static str> {
    let mut names: Vec<_> = plan.gaps.iter().map(Gap::short).collect();
    names.sort_unstable();
    names
}

fn expected(plan: &Plan, host: &Host) -> Vec<&'static str> {
    let rows = GAPS.iter().filter(|(_, tier, abi, overlay)| {
        tier.is_none_or(|t| t == plan.tier)
            && abi.contains(&host.landlock_abi)
            && overlay.is_none_or(|o| o == host.overlay)
    });
    let mut names: Vec<_> = rows.map(|row| row.0).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_full_machine_of_today_has_no_gap_that_weakens() {
    let plan = scene(Require::Full).plan();
    assert_eq!(plan.gaps, [] as [Gap; 0]);
}

#[test]
fn each_refusal_names_its_fix() {
    for (fault, word, fix) in [
        (NamespaceFault::DebianSwitch, "unprivileged_userns_clone", "sysctl kernel.unprivileged_userns_clone=1"),
        (NamespaceFault::Maximum, "max_user_namespaces", "sysctl user.max_user_namespaces="),
        (NamespaceFault::AppArmor, "apparmor_restrict_unprivileged_userns", "guard doctor --apparmor"),
        (NamespaceFault::Refused(Errno::EPERM), "Operation not permitted", "seccomp"),
        (NamespaceFault::ProcMasked(Errno::EPERM), "/proc", "systempaths=unconfined"),
    ] {
        let refusal = Scene::new(&[]).host(|h| h.namespaces = Some(fault)).make().unwrap_err();
        assert!(refusal.to_string().contains(word), "{refusal}");
        let hint = refusal.hint();
        assert!(hint.contains(fix) && hint.contains("--require landlock"), "{fault:?}: {hint}");
    }
    for (fault, fix) in [
        (Some(LandlockFault::Disabled), "lsm="),
        (Some(LandlockFault::Missing), "CONFIG_SECURITY_LANDLOCK"),
        (None, "CONFIG_SECURITY_LANDLOCK"),
    ] {
        let host = |h: &mut Host| (h.landlock_abi, h.landlock_fault) = (0, fault);
        // Accepting less does not help: without Landlock one lock would remain at best.
        for scene in [Scene::new(&[]).host(host), Scene::new(&[]).host(host).flat()] {
            let refusal = scene.make().unwrap_err();
            assert!(refusal.hint().contains(fix), "{fault:?}: {}", refusal.hint());
        }
    }
    let refusal = Scene::new(&[]).host(|h| h.seccomp = false).make().unwrap_err();
    assert!(refusal.hint().contains("CONFIG_SECCOMP_FILTER"));
    let refusal = Scene::new(&[]).tier(Tier::Landlock).make().unwrap_err();
    assert!(refusal.hint().contains("--require landlock"), "{}", refusal.hint());
}

#[test]
fn who_demands_the_full_tier_is_named() {
    let scene = Scene::new(&[]).host(|h| h.namespaces = Some(NamespaceFault::Maximum));
    let scene = scene.layer(LayerKind::ManagedFloor, "\n\nrequire = \"full\"");
    let scene = scene.layer(LayerKind::CommandLine, "require = \"landlock\"");
    let Err(Refusal::NoNamespaces { require, .. }) = scene.make() else { panic!() };
    assert_eq!(require.to_string(), "made-up.toml:3", "the floor's own word, which no flag lowers");
}

#[test]
fn what_a_start_finds_missing_is_lost_once() {
    let mut scene = scene(Require::Landlock);
    assert_eq!(scene.plan().tier, Tier::Full);
    assert!(scene.host.lose(Capability::Overlay));
    assert!(scene.plan().gaps.iter().any(|g| matches!(g, Gap::Caches(_))));
    assert!(scene.host.lose(Capability::Namespaces(NamespaceFault::Refused(Errno::EPERM))));
    assert_eq!(scene.plan().tier, Tier::Landlock);
    assert!(!scene.host.lose(Capability::Namespaces(NamespaceFault::Maximum)), "or planning would not end");
    assert!(!scene.host.lose(Capability::Overlay));
}

#[test]
fn without_a_network_abstract_sockets_are_closed_where_a_namespace_does_it() {
    for abi in 1..=10 {
        let scene = Scene::new(&[]).user("[network]\nmode = \"none\"").host(|h| h.landlock_abi = abi);
        assert!(!names(&scene.plan()).contains(&"abstract sockets"), "{abi}");
        let flat = scene.flat().plan();
        assert_eq!(names(&flat).contains(&"abstract sockets"), abi < 6, "{abi}");
        let internet = flat.filter.iter().rfind(|r| r.name == "socket").unwrap();
        assert!(!internet.when.contains(&ArgTest::IsNot(0, 2)), "AF_INET is refused by the filter");
    }
}

#[test]
fn every_gap_says_what_and_from_which_kernel_on() {
    for (gap, words) in [
        (Gap::PathSockets, "ssh-agent"),
        (Gap::AbstractSockets, "6.12"),
        (Gap::Signals, "6.12"),
        (Gap::Truncate, "6.2"),
        (Gap::DeviceIoctl, "6.10"),
        (Gap::Rename, "5.19"),
        (Gap::ProcessList, "/proc"),
        (Gap::Metadata, "size"),
        (Gap::SystemV, "System V"),
        (Gap::NoTerminals, "terminals"),
        (Gap::Limit("processes"), "processes"),
        (Gap::Withheld(vec![AbsPath::known("/x/\u{1b}y")]), "/x/\\u{1b}y"),
        (Gap::Protected(vec![AbsPath::known("/x"), AbsPath::known("/y")]), "/x, /y"),
        (Gap::Caches(vec![AbsPath::known("/x")]), "/x"),
    ] {
        assert!(gap.to_string().contains(words), "{gap}");
    }
}
