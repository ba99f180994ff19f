#!/usr/bin/env bash
# Usage: benches/startup.sh [PATH-OF-GUARD]
#
# What a person waits for, measured on this machine in one run:
#   1. start: a command bare, in guard, and in bubblewrap with the same namespaces and as many mounts;
#   2. memory: the most the waiting parent ever held;
#   3. work inside: cargo build, git status and a walk over 50,000 files, inside against outside.
# Needs hyperfine, bubblewrap, git, python3, cargo. Prints medians with the spread, and says how loaded the machine was.
# How it works: the bubblewrap line is made from `guard run --dry-run --json`, so that both mount the same things.
# Limitations: the numbers of a loaded machine mean little; the ratio between rows of one run means more.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")/.." && pwd)
guard=${1:+$(realpath "$1")}
if [ -z "$guard" ]; then
  (cd "$here" && cargo build --release --quiet)
  guard=$(find "$here/target" -path '*-linux-*/release/guard' -type f -perm -u+x -print -quit)
fi
for tool in hyperfine bwrap git python3 cargo; do
  command -v "$tool" >/dev/null || { echo "benches/startup.sh: $tool is missing (apt-get install hyperfine bubblewrap git python3)" >&2; exit 1; }
done

work=$(mktemp -d "${TMPDIR:-/var/tmp}/guard-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/project"
cd "$work/project"
git init -q .
git -c user.name=bench -c user.email=bench@localhost commit -q --allow-empty -m start

echo "guard:  $("$guard" --version), $(stat -c %s "$guard") bytes"
echo "kernel: $(uname -r), $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
echo

# One line for bubblewrap with what guard mounts.
bwrap_line=$("$guard" run --dry-run --json -- /bin/true | python3 -c '
import json, shlex, sys
plan = json.load(sys.stdin)
args = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--dev", "/dev", "--proc", "/proc"]
for mount in plan["mounts"]:
    kind, at, source = mount["kind"], mount["at"], mount["source"]
    if at == "/proc" or at.startswith("/dev"):
        continue
    if kind == "read":
        args += ["--ro-bind", source, at]
    elif kind in ("write", "private"):
        args += ["--bind", source, at]
    elif kind == "link":
        args += ["--symlink", source, at]
    elif kind == "tmpfs":
        args += ["--tmpfs", at]
    elif kind == "frozen":
        args += ["--ro-bind", at, at]
    elif kind in ("mask", "deny"):
        args += ["--ro-bind", "/dev/null", at]
    elif kind == "overlay":
        args += ["--overlay-src", source.split(" under ")[0], "--tmp-overlay", at]
print(shlex.join(args + ["/bin/true"]))
')
mounts=$("$guard" run --dry-run --json -- /bin/true | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["mounts"]))')
# bubblewrap before 0.8 knows no overlays; then it mounts fewer, in its favour.
# shellcheck disable=SC2086
eval "$bwrap_line" 2>/dev/null || bwrap_line=$(printf '%s' "$bwrap_line" | sed -E 's/--overlay-src [^ ]+ --tmp-overlay [^ ]+ ?//g')

echo "1. start ($mounts places in the new root)"
hyperfine -N --warmup 10 --runs 200 --export-json "$work/start.json" \
  -n bare /bin/true -n guard "$guard run --quiet -- /bin/true" -n bwrap "$bwrap_line" >/dev/null 2>&1
python3 - "$work/start.json" <<'PY'
import json, sys
rows = {r["command"]: r for r in json.load(open(sys.argv[1]))["results"]}
def ms(x): return f"{x * 1000:7.2f} ms"
for name, row in rows.items():
    print(f"   {name:<6} median {ms(row['median'])}   min {ms(row['min'])}   spread {ms(row['stddev'])}")
over = lambda n: rows[n]["median"] - rows["bare"]["median"]
print(f"   overhead: guard {ms(over('guard'))}, bwrap {ms(over('bwrap'))}, ratio {over('guard') / over('bwrap'):.2f}")
PY

echo "2. memory of the waiting parent"
# The agent is `sleep`; the parent is the process started here.
"$guard" run --quiet -- /bin/sleep 30 &
parent=$!
until pgrep -f '^/bin/sleep 30$' >/dev/null; do :; done
awk '/VmHWM/ {printf "   %.1f MiB at most\n", $2 / 1024}' "/proc/$parent/status"
kill "$parent"
wait "$parent" 2>/dev/null || true

echo "3. work inside, against outside"
mkdir -p "$work/project/src" "$work/project/many"
cat > Cargo.toml <<'TOML'
[package]
name = "bench"
version = "0.1.0"
edition = "2021"

[workspace]
TOML
python3 - <<'PY'
import os
with open("src/main.rs", "w") as f:
    for n in range(400):
        f.write(f"#[derive(Debug, Clone, PartialEq)]\npub struct S{n} {{ a: Vec<String>, b: Option<Box<S{n}>> }}\n")
    f.write("fn main() {\n")
    for n in range(400):
        f.write(f"    println!(\"{{:?}}\", S{n} {{ a: vec![], b: None }});\n")
    f.write("}\n")
for d in range(500):
    os.makedirs(f"many/{d}", exist_ok=True)
    for n in range(100):
        open(f"many/{d}/{n}", "w").close()
PY
printf 'target\n' > .gitignore
git add -A && git -c user.name=bench -c user.email=bench@localhost commit -q -m files
# Outside and inside by turns, each measured by a hyperfine of its own side, so that no start is counted and a change of
# the machine's load meets both. The best median of the rounds stands for the side.
compare() { # name, runs, preparation, command
  local round
  for round in 1 2 3 4; do
    hyperfine -N --warmup 2 --runs "$2" --prepare "$3" --export-json "$work/outside.$round.json" "$4" >/dev/null 2>&1
    "$guard" run --quiet --write "$work" -- \
      hyperfine -N --warmup 2 --runs "$2" --prepare "$3" --export-json "$work/inside.$round.json" "$4" >/dev/null 2>&1
  done
  python3 - "$work" "$1" <<'PY'
import glob, json, sys
def best(side):
    return min(json.load(open(f))["results"][0]["median"] for f in glob.glob(f"{sys.argv[1]}/{side}.*.json"))
out, ins = best("outside"), best("inside")
print(f"   {sys.argv[2]:<12} outside {out * 1000:8.1f} ms   inside {ins * 1000:8.1f} ms   {100 * (ins / out - 1):+.1f} %")
PY
}
compare "cargo build" 5 'rm -rf target' 'cargo build --offline --quiet'
compare "git status" 25 true 'git status --short'
compare "walk 50,000" 15 true 'find many -type f -size -1'
