#!/bin/bash
# Usage: tests/setup/kernels.sh [DIRECTORY]
#
# Fetches the Debian kernels that tests/kernels.rs boots in QEMU and unpacks them into DIRECTORY (default: the
# environment variable GUARD_KERNELS, then target/kernels):
#
#     DIRECTORY/6.1/vmlinuz    bookworm, Landlock ABI 2      DIRECTORY/6.1/overlay.ko    built as a module by Debian
#     DIRECTORY/6.12/vmlinuz   trixie,   Landlock ABI 6      DIRECTORY/6.12/overlay.ko
#
# How it works. Each kernel comes from the Debian archive this machine's apt already uses, through a private apt
# configuration below DIRECTORY: no kernel is installed, no source is added to the system and its package lists are
# left alone. A kernel that is already there is not fetched again; delete its directory to renew it. A directory
# appears whole (by rename) or not at all. QEMU and busybox are installed when missing and the script runs as root.
#
# Limitations. amd64 and Debian (or a derivative whose apt has a Debian archive among its sources) only.
set -euo pipefail

fail() {
    printf 'kernels.sh: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  %s\n' "$line" >&2; done
    exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
dir=${1:-${GUARD_KERNELS:-$here/target/kernels}}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

[ "$(uname -m)" = x86_64 ] || fail "the kernels are for x86_64, this machine is $(uname -m)"
for tool in apt-get apt-cache dpkg-deb tar xz flock; do
    command -v "$tool" >/dev/null ||
        fail "$tool is missing" "hint: this script needs Debian's apt, dpkg, tar, xz-utils and util-linux"
done

# Tools of the test itself.
missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
# The ordinary busybox package is linked dynamically and would not start in the initramfs.
status=$(dpkg-query -W -f '${db:Status-Status}' busybox-static 2>/dev/null || true)
[ "$status" = installed ] || missing+=(busybox-static)
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}" "hint: apt-get install --no-install-recommends ${missing[*]}"
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "${missing[@]}"
fi

# Two runs at once must not fetch into the same place.
exec 9>"$dir/.lock"
flock 9
# What a killed run left.
rm -rf "$dir"/.fetch.*

# The archive's address, as this machine's apt knows it: a suite of Debian's own that is neither the security
# archive nor an updates suite.
archive() {
    # shellcheck disable=SC2016  # apt's own placeholders
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }'
}

# kernel VERSION SUITE: fetches Debian's linux-image-amd64 of SUITE, which must be Linux VERSION.
kernel() {
    local version=$1 suite=$2 uri private package image release module
    if [ -s "$dir/$version/vmlinuz" ] && [ -s "$dir/$version/overlay.ko" ]; then
        printf '%s is there: %s\n' "$version" "$(cat "$dir/$version/package")"
        return
    fi
    uri=$(archive)
    # Without lists apt does not know an archive's origin yet.
    if [ -z "$uri" ] && [ "$(id -u)" = 0 ]; then
        apt-get -q update
        uri=$(archive)
    fi
    [ -n "$uri" ] || fail "no Debian archive among apt's sources" "hint: run apt-get update, or add a Debian source"

    private=$(mktemp -d "$dir/.fetch.XXXXXX")
    # shellcheck disable=SC2064  # the name of now is meant
    trap "rm -rf '$private'" EXIT
    mkdir -p "$private"/{lists/partial,cache/archives/partial,unpacked,done}
    # apt's sandbox user need not be able to enter our directory; the signature is checked all the same.
    local options=(
        -q -o Dir::Etc::sourcelist="$private/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
        -o Dir::State::lists="$private/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$private/cache"
        -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o APT::Architectures=amd64
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Retries=3
    )
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$uri" "$suite" \
        >"$private/sources.list"
    apt-get "${options[@]}" -o APT::Update::Error-Mode=any update ||
        fail "cannot read the package list of $suite from $uri"
    package=$(apt-cache "${options[@]}" depends linux-image-amd64 | awk '$1 == "Depends:" { print $2; exit }')
    case $package in
        linux-image-"$version".*) ;;
        *) fail "linux-image-amd64 of $suite is ${package:-not there}, not Linux $version" ;;
    esac
    (cd "$private" && apt-get "${options[@]}" download "$package") || fail "cannot download $package"
    image=$(echo "$private/$package"_*.deb)
    [ -s "$image" ] || fail "apt-get download left no $package in $private"

    dpkg-deb --fsys-tarfile "$image" |
        tar -x -C "$private/unpacked" --wildcards './boot/vmlinuz-*' '*/kernel/fs/overlayfs/overlay.ko*' ||
        fail "$package holds no kernel image or no overlay module"
    cp "$private"/unpacked/boot/vmlinuz-* "$private/done/vmlinuz"
    release=${package#linux-image-}
    module=$(find "$private/unpacked" -name 'overlay.ko*')
    case $module in
        *.xz) xz -dc "$module" >"$private/done/overlay.ko" ;;
        *.ko) cp "$module" "$private/done/overlay.ko" ;;
        *) fail "cannot unpack the overlay module of $package: ${module:-not found}" ;;
    esac
    basename "$image" .deb >"$private/done/package"
    rm -rf "${dir:?}/$version"
    mv "$private/done" "$dir/$version"
    rm -rf "$private"
    trap - EXIT
    printf '%s fetched: %s\n' "$version" "$release"
}

kernel 6.1 bookworm
kernel 6.12 trixie
