//! `guard doctor`: what this machine can hold, found out by trying.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use serde_json::json;

use super::out::{self, Colour};
use super::{DoctorArgs, stage_error};
use crate::account::Account;
use crate::env::Env;
use crate::host::{Capability, Host, NamespaceFault};
use crate::plan::{Gap, Plan, Refusal, Tier};
use crate::profile::schema::Require;
use crate::sandbox;
use crate::session::{self, Ended, Stdio, store};
use crate::start::{Start, Wishes};

const APPARMOR: &str = include_str!("../../profiles/apparmor/guard");

/// Tries what settings cannot tell, and notes what is missing.
pub(super) fn probe(host: &mut Host, account: &Account) {
    if host.namespaces.is_some() {
        return;
    }
    match sandbox::try_namespaces(account.uid, account.gid) {
        Ok(overlay) => host.overlay = overlay,
        Err(e) => {
            let lost = e.lost.unwrap_or(Capability::Namespaces(NamespaceFault::Refused(e.source)));
            host.lose(lost);
        }
    }
}

/// What a tier comes to on this machine.
struct Finding {
    tier: Tier,
    plan: Result<Plan, Refusal>,
    /// What a trial start came to.
    trial: Option<Result<(), String>>,
}

pub(super) fn doctor(args: &DoctorArgs, env: &Env, cwd: io::Result<PathBuf>) -> u8 {
    if args.apparmor {
        let guard = std::env::current_exe().unwrap_or_else(|_| "/usr/local/bin/guard".into());
        out::print(&APPARMOR.replace("@GUARD@", &guard.to_string_lossy()));
        return 0;
    }
    let cwd = cwd.unwrap_or_else(|_| "/".into());
    let mut findings = Vec::new();
    let mut host = None;
    for tier in [Tier::Full, Tier::Landlock] {
        let wishes = Wishes { require: Some(Require::Landlock), tier: Some(tier), ..Wishes::default() };
        let mut start = match Start::new(env, Ok(cwd.clone()), OsStr::new("/bin/true"), Vec::new(), &wishes) {
            Ok(start) => start,
            Err(e) => {
                stage_error(env, &e);
                return 2;
            }
        };
        probe(&mut start.host, &start.account);
        findings.push(try_tier(&start, env, tier));
        host.get_or_insert(start.host);
    }
    let host = host.expect("two tiers were tried");
    let holds = |finding: &Finding| matches!(finding.trial, Some(Ok(())));
    let text =
        if args.json { json_text(&host, &findings) } else { plain_text(&host, &findings, Colour::for_stdout(env)) };
    out::print(&text);
    u8::from(!findings.iter().any(|f| f.tier == Tier::Full && holds(f)))
}

/// Makes the plan of a tier and starts `true` with it, which ends only if every check from inside has passed.
fn try_tier(start: &Start, env: &Env, tier: Tier) -> Finding {
    let (stored, _hold) = match store::open(&start.account, &start.project) {
        Ok(opened) => opened,
        Err(e) => {
            let stored = store::locate(&start.account, &start.project);
            let why = format!("{e}: {}", e.source);
            return Finding { tier, plan: start.plan(env, &stored), trial: Some(Err(why)) };
        }
    };
    let plan = start.plan(env, &stored);
    let trial = plan.as_ref().ok().map(|plan| match session::run(plan, None, Stdio::Keep, &mut env.clone()) {
        Ok(outcome) if outcome.ended == Ended::Code(0) => Ok(()),
        Ok(outcome) => Err(format!("`true` ended with {:?}", outcome.ended)),
        Err(e) => Err(format!("{e}: {}", e.source.desc())),
    });
    Finding { tier, plan, trial }
}

fn plain_text(host: &Host, findings: &[Finding], colour: Colour) -> String {
    let mut text = String::new();
    let mut line = |good: bool, what: &str| {
        let mark = if good { colour.good("ok") } else { colour.bad("no") };
        let _ = writeln!(text, "{mark}  {what}");
    };
    line(
        host.landlock_abi > 0,
        &match host.landlock_abi {
            0 => "Landlock: not available in this kernel".to_owned(),
            abi => format!("Landlock: ABI {abi} (Linux {})", host.kernel),
        },
    );
    line(
        host.namespaces.is_none(),
        &match host.namespaces {
            None => "user namespaces: usable".to_owned(),
            Some(fault) => format!("user namespaces: not usable ({})", fault_words(fault)),
        },
    );
    line(
        host.overlay,
        if host.overlay {
            "overlay mounts: usable"
        } else {
            "overlay mounts: not usable; shared caches are read-only inside"
        },
    );
    line(host.seccomp, if host.seccomp { "seccomp: usable" } else { "seccomp: not available in this kernel" });
    for finding in findings {
        let name = finding.tier.word();
        let _ = writeln!(text);
        match (&finding.plan, &finding.trial) {
            (Ok(_), Some(Ok(()))) => {
                let _ = writeln!(
                    text,
                    "{} {}",
                    colour.strong(&format!("tier {name}:")),
                    colour.good("holds (started, checked from inside, ended)")
                );
            }
            (Ok(_), Some(Err(why))) => {
                let _ = writeln!(text, "{} {} {why}", colour.strong(&format!("tier {name}:")), colour.bad("failed:"));
            }
            (Ok(_), None) => {}
            (Err(refusal), _) => {
                let _ =
                    writeln!(text, "{} {} {refusal}", colour.strong(&format!("tier {name}:")), colour.bad("refused:"));
                let _ = writeln!(text, "  {} {}", colour.strong("hint:"), refusal.hint());
            }
        }
        if let Ok(plan) = &finding.plan {
            for gap in &plan.gaps {
                let mark = if gap.weakens() { colour.bad("lost") } else { colour.warn("note") };
                let _ = writeln!(text, "  {mark} {gap}");
            }
            if !plan.gaps.iter().any(Gap::weakens) {
                let _ = writeln!(text, "  nothing is lost");
            }
        }
    }
    text
}

fn fault_words(fault: NamespaceFault) -> String {
    match fault {
        NamespaceFault::DebianSwitch => "kernel.unprivileged_userns_clone = 0".into(),
        NamespaceFault::Maximum => "user.max_user_namespaces = 0".into(),
        NamespaceFault::AppArmor => "kernel.apparmor_restrict_unprivileged_userns = 1".into(),
        NamespaceFault::Refused(errno) => format!("tried: {}", errno.desc()),
        NamespaceFault::ProcMasked(errno) => format!("tried: a new /proc: {}", errno.desc()),
    }
}

fn json_text(host: &Host, findings: &[Finding]) -> String {
    let tiers: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "tier": finding.tier.word(),
                "holds": matches!(finding.trial, Some(Ok(()))),
                "failure": finding.trial.as_ref().and_then(|t| t.as_ref().err()),
                "refusal": finding.plan.as_ref().err().map(ToString::to_string),
                "hint": finding.plan.as_ref().err().map(Refusal::hint),
                "gaps": finding.plan.as_ref().map(|p| p.gaps.iter().map(|g| json!({"name": g.short(), "weakens": g.weakens(), "text": g.to_string()})).collect::<Vec<_>>()).unwrap_or_default(),
            })
        })
        .collect();
    let value = json!({
        "version": 1,
        "kernel": host.kernel,
        "landlock_abi": host.landlock_abi,
        "user_namespaces": host.namespaces.is_none(),
        "user_namespaces_fault": host.namespaces.map(fault_words),
        "overlay": host.overlay,
        "seccomp": host.seccomp,
        "tiers": tiers,
    });
    format!("{value:#}\n")
}
