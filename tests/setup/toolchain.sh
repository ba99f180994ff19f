#!/usr/bin/env bash
# Usage: . tests/setup/toolchain.sh; need_rust; need_packages NAME...
#
# What building and testing guard needs on a Debian machine: a Rust toolchain new enough, and Debian packages.
# Installs what is missing where it may (as root, or through sudo), and says what to do where it may not.
# Limitations: knows apt only; on another system it names what is missing and stops.

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "guard: cannot install packages: not root, and there is no sudo" >&2
    return 1
  fi
}

# Installs the Debian packages among the arguments that are not installed.
need_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null; then
    echo "guard: cannot install ${missing[*]}: there is no apt-get here" >&2
    return 1
  fi
  echo "installing: ${missing[*]}" >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null
}

# A cargo of at least the version in Cargo.toml.
need_rust() {
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  have=$(cargo --version 2>/dev/null | awk '{print $2}')
  if [ "$(printf '%s\n%s\n' "$wanted" "${have:-0}" | sort -V | head -1)" = "$wanted" ]; then
    return
  fi
  # Debian keeps a current compiler for its browsers.
  if command -v apt-cache >/dev/null; then
    as_root apt-get -qq update >/dev/null
    if apt-cache show cargo-web >/dev/null 2>&1; then
      need_packages cargo-web rustc-web
      return
    fi
  fi
  echo "guard: needs Rust $wanted or later, found ${have:-none}; see https://rustup.rs" >&2
  return 1
}

# A Node.js new enough for the agents, on PATH: the system's, else the one that the npm registry carries as a package.
need_node() {
  local wanted=20 have dir arch
  have=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/')
  if [ "${have:-0}" -ge "$wanted" ] && command -v npm >/dev/null; then
    return
  fi
  command -v npm >/dev/null || need_packages nodejs npm
  have=$(node --version | sed 's/^v\([0-9]*\).*/\1/')
  [ "$have" -ge "$wanted" ] && return
  case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) echo "guard: no Node.js $wanted for $(uname -m) at hand" >&2; return 1 ;;
  esac
  dir=$HOME/.cache/guard-test-node
  [ -x "$dir/node_modules/node-linux-$arch/bin/node" ] ||
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$dir" "node-linux-$arch@$wanted" >&2
  PATH=$dir/node_modules/node-linux-$arch/bin:$PATH
}
