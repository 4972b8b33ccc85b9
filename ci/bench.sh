#!/bin/bash
# Builds set M (docs/performance.md) with imgbuild and with what it replaces,
# and measures two of its writers. Everything in one run: machines differ and
# are shared, so only ratios mean something. As root, after "make build", with
# a mirror of Debian that can be reached.
#
#   ci/bench.sh [--json]
#
# BENCH_PEERS names what it is compared with, of "mmdebstrap dib"; the default
# is mmdebstrap alone, as diskimage-builder takes minutes. BENCH_DIR is where
# to work (5 GB), a temporary directory by default.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. ci/bench/begin.sh

options "$@"
peers=" ${BENCH_PEERS-mmdebstrap} "
for p in $peers; do
    if [[ $p != mmdebstrap && $p != dib ]]; then
        fail 2 "BENCH_PEERS: '$p' is not known; there are mmdebstrap and dib"
    fi
done
if [ "$(id -u)" -ne 0 ]; then
    fail 3 "needs root, as diskimage-builder and mmdebstrap are measured with it"
fi
needs bin/imgbuild

scratch
export TMPDIR=$work
rows=$work/rows

# measure NAME COMMAND... adds a row: NAME, seconds on the clock, CPU seconds
# (user and system) of the command and all that it waited for.
measure() {
    local name=$1 TIMEFORMAT='%R %U %S'
    shift
    echo "bench.sh: $name" >&2
    # The shell's time counts all processes that were waited for, as wait(2) adds
    # them up.
    if ! { time "$@" >"$work/log" 2>&1; } 2>"$work/time"; then
        tail -n 20 "$work/log" >&2
        fail 1 "$name: failed; its last lines are above"
    fi
    awk -v name="$name" '{ printf "%s\t%.2f\t%.2f\n", name, $1, $2 + $3 }' "$work/time" >>"$rows"
}

ours() {
    bin/imgbuild build --elements-path "$work/elements" --cache "$work/cache" -o "$work/out" ci/bench/m.yaml
}

theirs() {
    mmdebstrap --mode=root --format=directory --variant=minbase \
        --include=linux-image-cloud-amd64,systemd-sysv,udev,systemd-boot-efi bookworm "$work/tree" &&
        truncate -s 1280M "$work/tree.raw" &&
        mke2fs -q -t ext4 -d "$work/tree" "$work/tree.raw"
}

# original runs diskimage-builder: to a file system, not a disk, since for
# partitions it needs the device mapper. The sources that debian-minimal has of
# itself do not fit this release.
original() {
    local mirror
    # shellcheck disable=SC2016 # apt's variable
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n 1)
    DIB_RELEASE=bookworm DIB_APT_SOURCES_CONF="default:deb $mirror bookworm main" \
        /usr/bin/disk-image-create -a amd64 -t raw --image-cache "$work/dib-cache" -o "$work/dib" \
        -p linux-image-cloud-amd64 -p systemd-sysv -p udev debian-minimal
}

cp -r ci/bench/elements "$work/elements"
before=$(cut -d ' ' -f 1-3 /proc/loadavg)
measure "imgbuild, empty cache" ours
measure "imgbuild, nothing changed" ours
sed -i 's/late/later/' "$work/elements/late/post-install.d/90-late"
measure "imgbuild, a late hook changed" ours
if [[ $peers == *" mmdebstrap "* ]]; then
    measure "mmdebstrap and mke2fs -d" theirs
fi
if [[ $peers == *" dib "* ]]; then
    measure "diskimage-builder, no boot loader" original
fi

raw=$work/out/m.raw
go test -c -o "$work/qcow2.test" ./internal/qcow2
go test -c -o "$work/erofs.test" ./internal/erofs
measure "qcow2 with zstd, imgbuild" "$work/qcow2.test" -test.run '^$' -test.bench Disk -test.benchtime 1x -disk "$raw"
measure "qcow2 with zstd, qemu-img" qemu-img convert -c -O qcow2 -o compression_type=zstd "$raw" "$work/q.qcow2"
"$work/erofs.test" -test.run '^$' -test.bench Write -test.benchtime 5s >"$work/log"
erofs=$(awk '/^BenchmarkWrite/ { for (i = 2; i <= NF; i++) if ($i == "MB/cpu-s") print $(i - 1) }' "$work/log")
after=$(cut -d ' ' -f 1-3 /proc/loadavg)

# Ratios are to the first row, those of qcow2 to our own writer.
ratios=$work/ratios
awk -F '\t' -v OFS='\t' '
    NR == 1 || $1 ~ /, imgbuild$/ { base = $3 }
    { print $0, (base > 0 ? sprintf("%.3f", $3 / base) : "-") }' "$rows" >"$ratios"
if [ -n "$json" ]; then
    jq -R -s --arg before "$before" --arg after "$after" --arg cores "$(nproc)" --argjson erofs "$erofs" '
        {load_before: $before, load_after: $after, processors: ($cores | tonumber), erofs_mb_per_cpu_second: $erofs,
         rows: [split("\n")[] | select(. != "") | split("\t")
            | {name: .[0], wall_seconds: (.[1] | tonumber), cpu_seconds: (.[2] | tonumber), ratio: (.[3] | tonumber? // null)}]}' "$ratios"
    exit
fi
{
    printf 'what\twall s\tCPU s\tratio\n'
    cat "$ratios"
} | column -t -s "$(printf '\t')"
echo "EROFS: $erofs MB per CPU second"
echo "load: $before before, $after after, on $(nproc) processors"
