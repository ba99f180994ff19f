#!/bin/sh
# Usage: tests/setup/agents.sh [DIR]
#
# Installs the coding agents that tests/agents.rs runs, from the npm registry, into DIR
# (default: $GUARD_TEST_AGENTS, else ~/.cache/guard-test-agents). Prints nothing but the directory when
# everything is there already.
#
# How it works: each agent gets a prefix of its own, as `npm install -g` would fill it:
# DIR/NAME/lib/node_modules and DIR/NAME/bin/NAME. Install scripts of packages are not run: the agents' own
# only move a binary that npm has already fetched as an optional platform package (done here by hand, so it
# works with every npm that has its own idea about scripts), and those of their dependencies would compile
# or download. A marker file with the version is written last; a prefix without it is removed and made anew.
#
# Limitations: Linux on x64 or arm64 with glibc.
set -eu
umask 022

claude_version=2.1.197
opencode_version=1.18.33
codex_version=0.169.0
gemini_version=0.61.0

dir=${1:-${GUARD_TEST_AGENTS:-${HOME:?HOME is not set and no directory was given}/.cache/guard-test-agents}}

fail() {
    printf 'agents.sh: %s\n' "$1" >&2
    exit 1
}

command -v npm >/dev/null || fail 'npm is missing; install Node.js 20 or later (Debian: apt-get install nodejs npm)'
command -v node >/dev/null || fail 'node is missing; install Node.js 20 or later (Debian: apt-get install nodejs)'
[ "$(node -p 'Number(process.versions.node.split(".")[0]) >= 20')" = true ] ||
    fail "Node.js $(node --version) is too old for the agents; 20 or later is needed"

# agent NAME PACKAGE VERSION [SCRIPT]: SCRIPT is the package's own install step, relative to the package.
agent() {
    name=$1 package=$2 version=$3 script=${4:-}
    prefix=$dir/$name
    [ "$(cat "$prefix/.installed" 2>/dev/null || :)" = "$package@$version" ] && return 0

    rm -rf "$prefix"
    mkdir -p "$prefix"
    npm install --global --prefix "$prefix" --ignore-scripts --no-audit --no-fund --loglevel=error \
        "$package@$version" >&2 || fail "npm could not install $package@$version"
    if [ -n "$script" ]; then
        (cd "$prefix/lib/node_modules/$package" && node "$script") >&2 ||
            fail "the install step of $package@$version failed"
    fi
    # In a home of its own: some agents write state even for --version. No update checks and no catalogues.
    found=$(HOME=$home DISABLE_AUTOUPDATER=1 OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_MODELS_FETCH=1 \
        "$prefix/bin/$name" --version 2>&1) || fail "$package@$version does not start: $found"
    case $found in
        *"$version"*) ;;
        *) fail "$name says it is $found; $version was installed" ;;
    esac
    printf '%s\n' "$package@$version" >"$prefix/.installed"
}

mkdir -p "$dir"
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
agent claude @anthropic-ai/claude-code "$claude_version" install.cjs
agent opencode opencode-ai "$opencode_version" postinstall.mjs
agent codex @openai/codex "$codex_version"
agent gemini @google/gemini-cli "$gemini_version"
printf '%s\n' "$dir"
