#!/usr/bin/env bash
# Usage: tests/run.sh [ARGUMENTS OF cargo test]
#
# Everything that must pass, on a Debian machine, as root: it installs what it needs, checks form, and runs all tests:
# the real binary in real shells, real kernels in QEMU, real agents against a scripted model on 127.0.0.1.
# How it works: each step ends the run when it fails; nothing that should be tested is skipped in silence.
# Limitations: root only, since the tests make users' worlds in mount namespaces; the machine's own files stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "guard: the tests need root, to act as several users; run: sudo tests/run.sh" >&2
  exit 1
fi
# shellcheck source=tests/setup/toolchain.sh
. tests/setup/toolchain.sh

need_packages gcc libc6-dev git zsh fish tmux strace gdb python3 python3-venv shellcheck qemu-system-x86 busybox-static \
  cpio make procps util-linux curl ca-certificates
need_rust
need_node
tests/setup/kernels.sh >/dev/null
tests/setup/agents.sh >/dev/null

echo "form" >&2
cargo fmt --check
cargo clippy --quiet --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --document-private-items
git ls-files '*.sh' .ci/run | xargs shellcheck -x
for file in shell/*.zsh; do [ ! -e "$file" ] || zsh -n "$file"; done
for file in shell/*.fish; do [ ! -e "$file" ] || fish -n "$file"; done

echo "tests" >&2
cargo build --quiet --examples --bins
export RUST_BACKTRACE=0
exec cargo test --no-fail-fast "$@"
