#!/bin/bash
# The rehearsal's servers: two QEMU machines behind management controllers, in a
# network namespace of their own. Sourced by demos, from the project's directory,
# as root; executed by itself for what runs inside.
#
#   rack_start     the servers, from the time on that it returns until the script
#                  ends, and their inventory; $rack is the directory with their logs
#   rack_trust     a key, .goldsmith/keys/release.key, and an element that has
#                  machines trust it
#   rack_ramdisk   the deploy ramdisk, .goldsmith/ramdisk/ramdisk
set -eu -o pipefail
rack=$PWD/.goldsmith/rehearsal

# inside is the servers: their network, machines and controllers. Everything of it
# ends with this process, also when that is killed.
inside() {
    ip link set lo up
    ip link add br0 type bridge stp_state 0 forward_delay 0
    ip address add 10.77.0.1/24 dev br0
    echo 0 >/proc/sys/net/ipv6/conf/br0/accept_ra
    ip address add fd77::1/64 dev br0 nodad
    ip link set br0 up
    for i in 1 2; do
        ip tuntap add dev "tap$i" mode tap
        ip link set "tap$i" master br0 up
    done
    # The first behind our emulator. The second behind Debian's ipmi_sim, which
    # asks another of ours to do what it is told.
    emulate 1 127.0.0.1:6231
    emulate 2 127.0.0.1:7232 --serial 127.0.0.1:7233
    simulate
    touch "$rack/ready"
    wait
}

# emulate N ADDRESS [FLAGS]: a machine with its controller.
emulate() {
    bin/imgpipe vbmc --machine "ci/demo-metal/node$1.yaml" --listen "$2" --user admin \
        --password-file ci/demo-metal/bmc.password --control "$rack/metal$1.sock" "${@:3}" >"$rack/metal$1.log" 2>&1 &
}

# simulate starts ipmi_sim (lan.conf(5)). It keeps what it was told in its state
# directory, which is why that begins empty.
simulate() {
    rm -rf "$rack/sim"
    mkdir -p "$rack/sim"
    sed -e 's|@PORT@|6232|; s|@SERIAL@|7233|' -e "s|@PASSWORD@|$(cat ci/demo-metal/bmc.password)|" \
        -e "s|@CHASSIS@|$PWD/ci/demo-metal/chassis 127.0.0.1:7232|" testbed/ipmi/testdata/ipmi_sim.conf >"$rack/sim.conf"
    ipmi_sim -n -c "$rack/sim.conf" -f ci/demo-metal/sim.emu -s "$rack/sim" >"$rack/sim.log" 2>&1 &
}

rack_start() {
    [ "$(id -u)" -eq 0 ] || {
        echo "$0: needs root, for a network namespace" >&2
        exit 3
    }
    mkdir -p "$rack"
    rm -f "$rack/ready"
    # The rack ends with the script, also when that is killed.
    setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc ci/rack.sh inside &
    rack_pid=$!
    # unshare takes no other signal; its child and all that it started go with it.
    trap rack_end EXIT
    for _ in $(seq 100); do
        [ ! -e "$rack/ready" ] || break
        sleep 0.1
    done
    ln -sfn "/proc/$rack_pid/ns/net" "$rack/netns"
    bin/imgpipe node apply ci/demo-metal/inventory.yaml
    bin/imgpipe node allow metal1
    bin/imgpipe node allow metal2
}

# rack_end ends the servers, and before them what uses them: the process rack_with,
# if there is one.
rack_with=
rack_end() {
    if [ -n "$rack_with" ]; then
        kill "$rack_with" 2>/dev/null || true
        wait "$rack_with" 2>/dev/null || true
    fi
    kill -KILL "$rack_pid" 2>/dev/null || true
    wait "$rack_pid" 2>/dev/null || true
}

# Machines take images only that are signed by a key that their own image brings.
rack_trust() {
    local element=.goldsmith/elements/rehearsal-trust
    [ -e .goldsmith/keys/release.key ] || bin/imgbuild keys release .goldsmith/keys
    mkdir -p "$element/static/usr/share/goldsmith/trust"
    cp .goldsmith/keys/release.pub "$element/static/usr/share/goldsmith/trust/rehearsal.pub"
    echo install-static >"$element/element-deps"
    printf '# rehearsal-trust\n\nThe key of this rehearsal.\n' >"$element/README.md"
    export ELEMENTS_PATH=$PWD/elements:$PWD/.goldsmith/elements
}

rack_ramdisk() {
    bin/imgbuild build -o .goldsmith/ramdisk ci/demo-metal/ramdisk.yaml
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    [ "${1:-}" = inside ] || {
        echo "ci/rack.sh: is sourced by ci/demo.sh and ci/demo-metal.sh" >&2
        exit 2
    }
    inside
fi
