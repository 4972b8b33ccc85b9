#!/bin/bash
# Rehearses servers on this host: QEMU machines behind management controllers,
# in a network namespace of their own, get an image by PXE, are tested and
# upgraded by imgpipe. After "make build", as root.
#
#   ci/demo-metal.sh
set -eu -o pipefail
cd "$(dirname "$0")/.."
dir=$PWD/.goldsmith/rehearsal

# rack is the servers: their network, machines and controllers. Everything of it
# ends with this process, also when that is killed.
rack() {
    ip link set lo up
    ip link add br0 type bridge stp_state 0 forward_delay 0
    ip address add 10.77.0.1/24 dev br0
    echo 0 >/proc/sys/net/ipv6/conf/br0/accept_ra
    ip address add fd77::1/64 dev br0 nodad
    ip link set br0 up
    for i in 1 2; do
        ip tuntap add dev "tap$i" mode tap
        ip link set "tap$i" master br0 up
        bin/imgpipe vbmc --machine "ci/demo-metal/node$i.yaml" --listen "127.0.0.1:623$i" --user admin \
            --password-file ci/demo-metal/bmc.password --control "$dir/metal$i.sock" >"$dir/metal$i.log" 2>&1 &
    done
    touch "$dir/ready"
    wait
}

if [ "${1:-}" = rack ]; then
    rack
    exit
fi
[ "$(id -u)" -eq 0 ] || {
    echo "demo-metal.sh: needs root, for a network namespace" >&2
    exit 3
}
mkdir -p "$dir"
rm -f "$dir/ready"
bin/imgbuild build -o .goldsmith/ramdisk ci/demo-metal/ramdisk.yaml
unshare --net --mount --pid --fork --kill-child --mount-proc "$0" rack &
rack=$!
# unshare takes no other signal; its child and all that it started go with it.
trap 'kill -KILL "$rack" 2>/dev/null; wait "$rack" 2>/dev/null || true' EXIT
for _ in $(seq 100); do
    [ ! -e "$dir/ready" ] || break
    sleep 0.1
done
ln -sfn "/proc/$rack/ns/net" "$dir/netns"
bin/imgpipe node apply ci/demo-metal/inventory.yaml
bin/imgpipe node allow metal1
bin/imgpipe node allow metal2
bin/imgpipe run ci/demo-metal/pipeline.yaml
bin/imgpipe node ls
