#!/usr/bin/env bash
# Usage: ./install.sh [--no-demo]
#
# Builds guard, installs it to /usr/local/bin (as root) or ~/.local/bin, with manual pages and completions, and shows
# what it does with `guard demo`. Installs a compiler and a linker where they are missing (Debian and its kin).
# How it works: the build is static, so the installed file depends on nothing.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tests/setup/toolchain.sh
. tests/setup/toolchain.sh

command -v cc >/dev/null || need_packages gcc libc6-dev
[ -e /usr/include/stdio.h ] || need_packages libc6-dev
need_rust

if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi
echo "building (two minutes on two cores)" >&2
cargo build --release --quiet
binary=$(find target -path '*/release/guard' -type f -perm -u+x -print -quit)
install -D -m 755 "$binary" "$prefix/bin/guard"
for page in "" run why profile doctor demo; do
  install -d "$prefix/share/man/man1"
  # shellcheck disable=SC2086
  "$prefix/bin/guard" man $page > "$prefix/share/man/man1/guard${page:+-$page}.1"
done
install -d "$prefix/share/bash-completion/completions" "$prefix/share/zsh/site-functions" "$prefix/share/fish/vendor_completions.d"
"$prefix/bin/guard" completions bash > "$prefix/share/bash-completion/completions/guard"
"$prefix/bin/guard" completions zsh > "$prefix/share/zsh/site-functions/_guard"
"$prefix/bin/guard" completions fish > "$prefix/share/fish/vendor_completions.d/guard.fish"
echo "installed: $prefix/bin/guard" >&2
case ":$PATH:" in
  *":$prefix/bin:"*) ;;
  *) echo "add it to your PATH: export PATH=\"$prefix/bin:\$PATH\"" >&2 ;;
esac
[ "${1:-}" = --no-demo ] || "$prefix/bin/guard" demo
