//! A plan and a policy as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::out::Colour;
use crate::path::AbsPath;
use crate::plan::{ArgTest, Hidden, Plan, Tier, What, Writes};
use crate::policy::Policy;
use crate::start::Start;

/// What is at a place, in a few words.
fn words(what: &What) -> (&'static str, String) {
    let from = |path: &AbsPath| path.to_string();
    match what {
        What::Bind { node, writes: Writes::No, .. } => ("read", from(&node.path)),
        What::Bind { node, writes: Writes::Yes, .. } => ("write", from(&node.path)),
        What::Device(node) => ("device", from(&node.path)),
        What::Private(dir) => ("private", from(dir)),
        What::Overlay { lower, layer } => ("overlay", format!("{} under {layer}", lower.path)),
        What::Tmpfs { bytes, .. } => ("tmpfs", format!("{} KiB at most", bytes >> 10)),
        What::Proc => ("proc", "processes of this sandbox".into()),
        What::Terminals => ("devpts", "terminals of this sandbox".into()),
        What::Link(target) => ("link", crate::path::printable(target.as_os_str())),
        What::Frozen => ("frozen", "read-only".into()),
        What::EmptyDir(Hidden::Masked) | What::EmptyFile(Hidden::Masked) => ("mask", "reads as empty".into()),
        What::EmptyDir(Hidden::Denied) | What::EmptyFile(Hidden::Denied) => ("deny", "cannot be opened".into()),
    }
}

/// The plan for a person.
pub(super) fn plan_text(plan: &Plan, start: &Start, colour: Colour) -> String {
    let mut text = String::new();
    let head = |text: &mut String, title: &str| {
        let _ = writeln!(text, "{}", colour.strong(title));
    };
    let _ = writeln!(
        text,
        "{} {}",
        colour.strong("command:"),
        shell_words::join(plan.argv.iter().map(|a| crate::path::printable(a)))
    );
    let _ = writeln!(text, "{} {}", colour.strong("executes:"), plan.program);
    let _ = writeln!(text, "{} {}", colour.strong("in:"), plan.cwd);
    let _ = writeln!(text, "{} {}", colour.strong("profile:"), crate::start::layer_words(&start.policy));
    let _ = writeln!(
        text,
        "{} {} (required: {}, by {})",
        colour.strong("tier:"),
        plan.tier.word(),
        require_word(&start.policy),
        start.policy.require.1
    );
    let _ = writeln!(text, "{} {} (by {})", colour.strong("network:"), network_word(plan), start.policy.network.1);
    if !plan.create.is_empty() {
        head(&mut text, "made first, in your home:");
        for (path, _) in &plan.create {
            let _ = writeln!(text, "  {path}");
        }
    }
    if plan.tier == Tier::Full {
        head(&mut text, "the new root:");
        for mount in &plan.mounts {
            let (kind, source) = words(&mount.what);
            let _ =
                writeln!(text, "  {kind:<8} {} {}", mount.at, colour.dim(&format!("← {source} ({})", mount.origin)));
        }
    } else {
        head(&mut text, "granted by Landlock:");
        for rule in &plan.ruleset.paths {
            let _ = writeln!(text, "  {:<10} {}", format!("{:?}", rule.grant).to_lowercase(), rule.path);
        }
    }
    head(&mut text, "variables passed:");
    for (name, reason) in plan.env.reasons.iter().filter(|(_, r)| r.passes()) {
        let _ = writeln!(text, "  {} {}", crate::path::printable(name), colour.dim(&format!("({reason})")));
    }
    head(&mut text, "variables hidden:");
    for (name, reason) in plan.env.reasons.iter().filter(|(_, r)| !r.passes()) {
        let _ = writeln!(text, "  {} {}", crate::path::printable(name), colour.dim(&format!("({reason})")));
    }
    if !plan.idle.is_empty() {
        head(&mut text, "rules without effect here:");
        for (path, origin, why) in &plan.idle {
            let _ = writeln!(text, "  {path} {}", colour.dim(&format!("({origin}: {why})")));
        }
    }
    if !plan.absent.is_empty() {
        head(&mut text, "protected, but not there yet (looked for again at the end):");
        for (path, origin) in &plan.absent {
            let _ = writeln!(text, "  {path} {}", colour.dim(&format!("({origin})")));
        }
    }
    head(&mut text, if plan.gaps.is_empty() { "gaps: none" } else { "gaps:" });
    for gap in &plan.gaps {
        let mark = if gap.weakens() { colour.bad("lost") } else { colour.warn("note") };
        let _ = writeln!(text, "  {mark} {gap}");
    }
    text
}

fn require_word(policy: &Policy) -> &'static str {
    match policy.require.0 {
        crate::profile::schema::Require::Full => "full",
        crate::profile::schema::Require::Landlock => "landlock",
    }
}

fn network_word(plan: &Plan) -> &'static str {
    match plan.network {
        crate::profile::schema::NetworkMode::Open => "open",
        crate::profile::schema::NetworkMode::Filtered => "filtered",
        crate::profile::schema::NetworkMode::None => "none",
    }
}

/// The plan for a program. Paths that are not UTF-8 are escaped as in the text.
pub(super) fn plan_json(plan: &Plan) -> String {
    let mounts: Vec<Value> = plan
        .mounts
        .iter()
        .map(|mount| {
            let (kind, source) = words(&mount.what);
            json!({"at": mount.at.to_string(), "kind": kind, "source": source, "origin": mount.origin.to_string()})
        })
        .collect();
    let rules: Vec<Value> = plan
        .ruleset
        .paths
        .iter()
        .map(|r| json!({"path": r.path.to_string(), "grant": format!("{:?}", r.grant).to_lowercase(), "directory": r.dir}))
        .collect();
    let filter: Vec<Value> = plan
        .filter
        .iter()
        .map(|r| {
            let tests: Vec<Value> = r
                .when
                .iter()
                .map(|test| match test {
                    ArgTest::Is(argument, value) => json!({"argument": argument, "is": value}),
                    ArgTest::IsNot(argument, value) => json!({"argument": argument, "is_not": value}),
                    ArgTest::Has(argument, bits) => json!({"argument": argument, "has": bits}),
                })
                .collect();
            json!({"call": r.name, "when": tests, "answer": format!("{:?}", r.answer)})
        })
        .collect();
    let env: Vec<Value> = plan
        .env
        .reasons
        .iter()
        .map(|(name, r)| json!({"name": crate::path::printable(name), "passes": r.passes(), "reason": r.to_string()}))
        .collect();
    let gaps: Vec<Value> =
        plan.gaps.iter().map(|g| json!({"name": g.short(), "weakens": g.weakens(), "text": g.to_string()})).collect();
    let value = json!({
        "version": 1,
        "tier": plan.tier.word(),
        "network": network_word(plan),
        "program": plan.program.to_string(),
        "argv": plan.argv.iter().map(|a| crate::path::printable(a)).collect::<Vec<_>>(),
        "cwd": plan.cwd.to_string(),
        "home": plan.home().to_string(),
        "project": plan.project.as_ref().map(ToString::to_string),
        "create": plan.create.iter().map(|(p, _)| p.to_string()).collect::<Vec<_>>(),
        "mounts": mounts,
        "landlock": {"abi": plan.ruleset.abi, "rules": rules},
        "seccomp": filter,
        "environment": env,
        "absent_protected": plan.absent.iter().map(|(p, _)| p.to_string()).collect::<Vec<_>>(),
        "rules_without_effect": plan.idle.iter().map(|(p, o, w)| json!({"path": p.to_string(), "origin": o.to_string(), "why": w})).collect::<Vec<_>>(),
        "gaps": gaps,
    });
    format!("{value:#}\n")
}

/// The policy for a person: every rule with its origin.
pub(super) fn policy_text(policy: &Policy, colour: Colour) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<(String, String)>| {
        if lines.is_empty() {
            return;
        }
        let _ = writeln!(text, "{}", colour.strong(title));
        for (line, origin) in lines {
            let _ = writeln!(text, "  {line} {}", colour.dim(&format!("({origin})")));
        }
    };
    section("layers, weakest first", policy.layers.iter().map(|l| (l.name.clone(), l.file.clone())).collect());
    section("require", vec![(require_word(policy).into(), policy.require.1.to_string())]);
    let mode = format!("{:?}", policy.network.0).to_lowercase();
    section("network", vec![(mode, policy.network.1.to_string())]);
    section(
        "files",
        policy
            .rules
            .iter()
            .map(|(path, rule)| {
                let terminal = if rule.terminal { ", terminal" } else { "" };
                (format!("{:<8} {path}", rule.access.key()), format!("{}{terminal}", rule.origin))
            })
            .collect(),
    );
    section("shared by merging", policy.merges.iter().map(|m| (m.file.to_string(), m.origin.to_string())).collect());
    let names =
        |list: &[(String, crate::profile::Origin)]| list.iter().map(|(n, o)| (n.clone(), o.to_string())).collect();
    section("variables allowed", names(&policy.env.allow));
    section("variables allowed with any value", names(&policy.env.secrets));
    section("variables denied", names(&policy.env.deny));
    section("variables set", policy.env.set.iter().map(|(n, (v, o))| (format!("{n}={v}"), o.to_string())).collect());
    section(
        "sockets open",
        policy
            .sockets
            .iter()
            .map(|(s, o)| (format!("{} ({})", s.key(), crate::plan::socket_words(*s)), o.to_string()))
            .collect(),
    );
    section("commands denied", policy.commands.iter().map(|(n, o)| (n.clone(), o.to_string())).collect());
    section(
        "overridden by a terminal rule",
        policy.overridden.iter().map(|(p, o, by)| (format!("{p} of {o}"), by.to_string())).collect(),
    );
    text
}
