//! Plans over machines and trees that do not exist: what comes out, what is named as lost, and what is refused.
//!
//! [`Scene`] holds a tree, layers and a host; [`Scene::plan`] makes the plan, and [`shown`] says in a few words what
//! lies at a place of the new root.

mod grants;
mod hosts;
mod links;
mod starts;
mod verdicts;

use std::ffi::OsString;
use std::sync::Arc;

use super::*;
use crate::policy::{Places, resolve};
use crate::profile::{BUILTINS, BuiltinKind, Layer, LayerKind, Source, parse};
use crate::tree::fake::FakeTree;

const HOME: &str = "/home/ana";
const PROJECT: &str = "/home/ana/p";

/// A machine with everything.
fn able() -> Host {
    Host {
        landlock_abi: 7,
        landlock_fault: None,
        namespaces: None,
        seccomp: true,
        overlay: true,
        kernel: "6.18".into(),
    }
}

/// A start that has not been planned.
struct Scene {
    tree: FakeTree,
    layers: Vec<Layer>,
    host: Host,
    project: Project,
    env: Env,
    tier: Option<Tier>,
    needs: Vec<AbsPath>,
    uid: u32,
}

impl Scene {
    /// A home, a git project in it, a shell, these paths, and a layer that grants `/usr` and the project.
    fn new(paths: &[&str]) -> Self {
        let mut all = vec![
            "/usr/bin/sh",
            "/bin -> usr/bin",
            "/dev/null",
            "/proc/sys/",
            "/proc/kcore",
            "/tmp/",
            "/home/ana/p/.git/HEAD",
            "/home/ana/p/.git/config",
        ];
        all.extend(paths);
        let project = AbsPath::known(PROJECT);
        let scene = Self {
            tree: FakeTree::new(&all),
            layers: Vec::new(),
            host: able(),
            project: Project {
                cwd: project.clone(),
                root: Some(project),
                git: Vec::new(),
                modules: Vec::new(),
                markers: Vec::new(),
                repositories_below: 0,
                owner: 1000,
            },
            env: Env::new([("PATH".into(), "/usr/bin".into())]),
            tier: None,
            needs: Vec::new(),
            uid: 1000,
        };
        scene.layer(LayerKind::Base, "[fs]\nread = [\"/usr\", \"/bin\"]\nwrite = [\"$PROJECT\"]")
    }

    /// The rules that come with guard, instead of the two of [`Scene::new`].
    fn with_builtins(mut self, agent: &str) -> Self {
        self.layers.clear();
        for b in BUILTINS {
            let kind = match b.kind {
                BuiltinKind::Base if b.name == "terminal" => LayerKind::Terminal,
                BuiltinKind::Base => LayerKind::Base,
                BuiltinKind::Agent if b.name == agent => LayerKind::Agent,
                BuiltinKind::Agent | BuiltinKind::Toolchain => continue,
            };
            let source = Arc::new(Source::new(b.file, b.text.to_owned()));
            let profile = parse(&source).unwrap();
            self.layers.push(Layer { name: b.name.into(), kind, source, profile });
        }
        self
    }

    fn layer(mut self, kind: LayerKind, text: &str) -> Self {
        let source = Arc::new(Source::new("made-up.toml", text.to_owned()));
        let profile = parse(&source).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        self.layers.push(Layer { name: "made-up".into(), kind, source, profile });
        self
    }

    /// Rules of the agent's profile.
    fn agent(self, text: &str) -> Self {
        self.layer(LayerKind::Agent, text)
    }

    /// Rules of the user's `config.toml`.
    fn user(self, text: &str) -> Self {
        self.layer(LayerKind::User, text)
    }

    fn host(mut self, change: impl FnOnce(&mut Host)) -> Self {
        change(&mut self.host);
        self
    }

    /// Another directory: where one stands, and the project's top if there is one.
    fn at(mut self, cwd: &str, root: Option<&str>) -> Self {
        self.project.cwd = AbsPath::known(cwd);
        self.project.root = root.map(AbsPath::known);
        self
    }

    fn tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Without namespaces, and that accepted.
    fn flat(self) -> Self {
        self.tier(Tier::Landlock).layer(LayerKind::CommandLine, "require = \"landlock\"")
    }

    fn env(mut self, vars: &[(&str, &str)]) -> Self {
        self.env = Env::new(vars.iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    fn copy(&self) -> Self {
        let copy = |l: &Layer| Layer {
            name: l.name.clone(),
            kind: l.kind,
            source: Arc::clone(&l.source),
            profile: l.profile.clone(),
        };
        Self {
            tree: self.tree.clone(),
            layers: self.layers.iter().map(copy).collect(),
            host: self.host.clone(),
            project: self.project.clone(),
            env: self.env.clone(),
            tier: self.tier,
            needs: self.needs.clone(),
            uid: self.uid,
        }
    }

    fn account(&self) -> Account {
        Account {
            uid: self.uid,
            gid: 1000,
            groups: vec![],
            name: Some("ana".into()),
            anchor: AbsPath::known(HOME),
            home: AbsPath::known(HOME),
        }
    }

    fn policy(&self) -> Policy {
        let places = Places {
            home: AbsPath::known(HOME),
            project: self.project.root.clone(),
            git: self.project.git.clone(),
            modules: Vec::new(),
            guard: None,
        };
        let mut layers = self.copy().layers;
        layers.sort_by_key(|layer| layer.kind);
        resolve(&layers, "claude", &places).unwrap_or_else(|e| panic!("{e:?}"))
    }

    fn make(&self) -> Result<Plan, Refusal> {
        let program = Program { typed: "sh".into(), path: AbsPath::known("/usr/bin/sh"), needs: self.needs.clone() };
        let args: Vec<OsString> = Vec::new();
        make(
            &self.policy(),
            &self.host,
            &self.tree,
            &Subject {
                account: &self.account(),
                project: &self.project,
                program: &program,
                args: &args,
                env: &self.env,
                store: &store(),
                terminal: None,
                tier: self.tier,
            },
        )
    }

    #[track_caller]
    fn plan(&self) -> Plan {
        self.make().unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// The verdict on an act in this scene's plan.
    #[track_caller]
    fn verdict(&self, act: Act, path: &str) -> Verdict {
        self.plan().verdict(&self.tree, act, &AbsPath::known(path))
    }

    #[track_caller]
    fn allows(&self, act: Act, path: &str, want: bool) {
        let verdict = self.verdict(act, path);
        assert_eq!(verdict.allowed(), want, "{act:?} {path}: {verdict}");
    }
}

fn store() -> Store {
    let guard = AbsPath::known("/home/ana/.local/share/guard");
    Store {
        home: guard.join("homes/p/home"),
        flat_home: guard.join("homes/p/flat"),
        layers: guard.join("homes/p/layers"),
        session: guard.join("sessions/1"),
        shared: guard.join("shared"),
        canary: guard.join("canary"),
    }
}

/// What the new root has at exactly this place.
fn shown(plan: &Plan, at: &str) -> String {
    let Some(mount) = plan.mounts.iter().find(|m| m.at == AbsPath::known(at)) else { return "nothing".into() };
    match &mount.what {
        What::Bind { writes: Writes::No, .. } => "read",
        What::Bind { writes: Writes::Yes, .. } => "write",
        What::Device(_) => "device",
        What::Private(_) => "private",
        What::Overlay { .. } => "overlay",
        What::Tmpfs { .. } => "tmpfs",
        What::Proc => "proc",
        What::Terminals => "terminals",
        What::Link(target) => return format!("-> {}", target.display()),
        What::Frozen => "frozen",
        What::EmptyDir(Hidden::Masked) => "masked directory",
        What::EmptyDir(Hidden::Denied) => "denied directory",
        What::EmptyFile(Hidden::Masked) => "masked file",
        What::EmptyFile(Hidden::Denied) => "denied file",
    }
    .into()
}

/// Why a rule has no effect, or an empty text.
fn idle(plan: &Plan, path: &str) -> String {
    let path = AbsPath::known(path);
    plan.idle.iter().filter(|(p, ..)| *p == path).map(|(_, _, why)| why.as_str()).collect::<Vec<_>>().join("; ")
}

/// Nothing of this place of the outside is part of the plan: not bound, not below a bind, not granted by Landlock.
#[track_caller]
fn closed(scene: &Scene, outside: &str) {
    let path = AbsPath::known(outside);
    let plan = scene.plan();
    for mount in &plan.mounts {
        let source = match &mount.what {
            What::Bind { node, .. } | What::Device(node) | What::Overlay { lower: node, .. } => &node.path,
            _ => continue,
        };
        if path.is_within(source) {
            let held = plan.mounts.iter().any(|m| {
                path.is_within(&m.at)
                    && m.at.is_within(source)
                    && matches!(m.what, What::EmptyDir(_) | What::EmptyFile(_) | What::Tmpfs { .. })
            });
            assert!(held, "{outside} is open through {mount:?}");
        }
    }
    if plan.tier == Tier::Landlock {
        let open = plan.ruleset.paths.iter().find(|rule| path.is_within(&rule.path));
        assert!(open.is_none(), "{outside} is open through {open:?}");
    }
    for act in [Act::Read, Act::Write, Act::Exec] {
        let verdict = plan.verdict(&scene.tree, act, &path);
        let private = matches!(&verdict, Verdict::Allowed(_, Some(_)));
        assert!(!verdict.allowed() || private, "{act:?} {outside}: {verdict}");
    }
}
