#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the machines that tests/kernels.rs boots.
#
# Usage: the kernel runs it as /init; it runs itself again after switching to a tmpfs root.
#
# How it works. /phases holds one directory per phase; each has a setup.sh and cases named NN-name.USER.sh with USER
# ana or root (in the project of that user) or host (root, in /). The phases of /phases/rootfs run first, on the
# kernel's own rootfs, from which no pivot_root is possible; then everything is copied to a tmpfs, which becomes the
# root as on any ordinary machine, and the phases of /phases/tmpfs run. Outcomes go to the second serial port:
#
#     #case PHASE/name.USER   o|a line of stdout   e|a line of stderr   #status N        and at the end: #done
#
# Limitations. A case that hangs is ended after 60 s and has status 143.

export PATH=/usr/local/bin:/usr/bin
report=/dev/ttyS1

mounts() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs devtmpfs /dev
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
}

# stop WHY: ends the machine without `#done`.
stop() {
    echo "init.sh: $1" >/dev/console
    poweroff -f
}

# What the cases try to reach: a process, servers, sockets and memory of the user's, all outside any sandbox.
# /run/outsider holds the numbers of the process and of the memory.
outsiders() {
    ip link set lo up
    # Process numbers that no small PID namespace can have.
    echo 3000 >/proc/sys/kernel/ns_last_pid
    outside process env OUTSIDER_TOKEN=outsider-environ sh -c 'read never </run/never' outsider-argv
    process=$!
    outside memory guard-probe shm-holder outsider-memory
    outside stream guard-probe serve-stream /run/ana/socket outsider-answer
    outside abstract guard-probe serve-abstract outsider outsider-answer
    outside tcp guard-probe serve-tcp 127.0.0.1:8080 outsider-answer
    outside udp guard-probe serve-udp 127.0.0.1:8080 outsider-answer
    for name in memory stream abstract tcp udp; do
        await "the outsider $name does not start" grep -q ready /run/outside/$name
    done
    await 'the process outside does not start' grep -q outsider-argv /proc/$process/cmdline
    echo "$process $(sed 's/ready //' /run/outside/memory)" >/run/outsider
}

# outside NAME COMMAND…: as the user, in the background; $! is the command itself, since su and the shell both exec.
outside() {
    name=$1
    shift
    # shellcheck disable=SC2016  # expanded by the inner shell
    su -s /bin/sh -- ana -c 'exec "$@"' sh "$@" </dev/null >/run/outside/"$name" &
}

# await WHY COMMAND…: until the command succeeds.
await() {
    why=$1
    shift
    tries=0
    until "$@" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 2000 ] || stop "$why"
    done
}

# run_case FILE: runs one case and reports it.
run_case() {
    file=$1
    name=${file##*/}
    name=${name#*-}
    name=${name%.sh}
    # The file that truncation attacks aim at is whole again before each case.
    echo 'an entry' >/home/ana/other/ledger
    case $name in
        *.ana)
            cd /home/ana/project || exit
            # shellcheck disable=SC2016  # expanded by the inner shell
            timeout 60 env -i PATH="$PATH" TERM=dumb LANG=C.UTF-8 su -s /bin/sh -- ana -c 'exec /bin/sh "$0"' "$file"
            ;;
        *.root)
            cd /root/project || exit
            timeout 60 env -i PATH="$PATH" TERM=dumb LANG=C.UTF-8 HOME=/root USER=root LOGNAME=root SHELL=/bin/sh \
                /bin/sh "$file"
            ;;
        *)
            cd / || exit
            timeout 60 /bin/sh "$file"
            ;;
    esac </dev/null >/case.out 2>/case.err
    status=$?
    cd / || exit
    {
        echo "#case $phase/$name"
        sed 's/^/o|/' /case.out
        echo
        sed 's/^/e|/' /case.err
        echo
        echo "#status $status"
    } >$report
}

run_phases() {
    for directory in "$1"/*/; do
        [ -d "$directory" ] || continue
        phase=${directory%/}
        phase=${phase##*/}
        # Numbered like the cases, so that they run in order.
        phase=${phase#*-}
        # shellcheck disable=SC1091  # written by the test
        . "$directory/setup.sh"
        for case in "$directory"/[0-9]*.sh; do
            run_case "$case"
        done
    done
}

if [ "$1" != tmpfs ]; then
    /bin/busybox --install -s /usr/bin
    mkdir -p /proc /sys /dev
    mkfifo /run/never
    chown ana:ana /run/ana
    mounts
    insmod /overlay.ko
    outsiders
    run_phases /phases/rootfs
    # shellcheck disable=SC2046  # a list of numbers
    kill -KILL $(jobs -p)
    wait
    rm /run/ana/socket
    mkdir /newroot
    mount -t tmpfs -o mode=755 tmpfs /newroot
    for entry in /*; do
        case $entry in
            /newroot | /proc | /sys | /dev | /case.*) ;;
            *) cp -a "$entry" /newroot/ ;;
        esac
    done
    mkdir /newroot/proc /newroot/sys /newroot/dev
    umount -l /proc /sys /dev
    exec switch_root /newroot /init tmpfs
fi

mounts
mount -t tmpfs -o mode=1777 tmpfs /tmp
outsiders
run_phases /phases/tmpfs
echo '#done' >$report
# Closing the port waits until it has sent everything.
poweroff -f
