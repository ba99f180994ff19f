#!/bin/sh
# Usage: facts.sh HOME PROCESS MEMORY
#
# Tries what an agent must not be able to do, and some things it must, and prints one line each: `yes NAME` when it
# worked, `no NAME` when not, `error NAME` when it could not be tried. It runs outside any sandbox as the control,
# where every line says yes, and inside guard. HOME is the user's home as seen outside, PROCESS and MEMORY the numbers
# of a process and of a System V segment outside. The first line is `ran`: a command that guard refused to start never
# prints it.

home=$1
process=$2
memory=$3
echo ran

# try NAME COMMAND…
try() {
    fact=$1
    shift
    if "$@" >/dev/null 2>&1; then echo "yes $fact"; else echo "no $fact"; fi
}

# probe NAME ACT…: the probe tells a refusal (1) from a set-up that is missing (2).
probe() {
    fact=$1
    shift
    guard-probe "$@" >/dev/null 2>&1
    case $? in
        0) echo "yes $fact" ;;
        1) echo "no $fact" ;;
        *) echo "error $fact" ;;
    esac
}

# Must work everywhere.
try read-project cat "$home/project/README"
try write-project sh -c "echo line >>'$home/project/written'"
# shellcheck disable=SC2016  # expanded by the inner shell
try make-temporary sh -c 'rm "$(mktemp)"'
try read-etc cat /etc/passwd
try read-shared-cache cat "$home/.cargo/registry/cached"
# Into a layer of the sandbox's own, where the kernel has overlayfs.
try write-shared-cache sh -c "echo line >'$home/.cargo/registry/new' && rm '$home/.cargo/registry/new'"

# Files outside the grants.
try read-ssh-key cat "$home/.ssh/id_ed25519"
try read-other-project cat "$home/other/notes"
try write-other-project sh -c "echo line >>'$home/other/notes'"
try list-other-project ls "$home/other"
try stat-ssh-key stat "$home/.ssh/id_ed25519"
probe truncate-other-project truncate "$home/other/ledger"

# Other processes and what they share.
try signal-outsider kill -0 "$process"
try read-outsider-argv grep -q outsider-argv "/proc/$process/cmdline"
try read-outsider-environ grep -q outsider-environ "/proc/$process/environ"
probe read-outsider-memory shm-read "$memory"

# Sockets and the network.
probe connect-path-socket unix-stream /run/ana/socket
probe connect-abstract-socket abstract-stream outsider
probe talk-tcp tcp 127.0.0.1:8080
probe talk-udp udp 127.0.0.1:8080

# New kernel surface.
probe make-user-namespace clone-user
probe make-io-uring io-uring

sed -n 's/^\(NoNewPrivs\|Seccomp\|CapEff\|Uid\):[[:space:]]*\([^[:space:]]*\).*/status \1 \2/p' /proc/self/status
