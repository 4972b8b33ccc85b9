#!/bin/bash
# Measures how many bytes travel when a machine is updated: by one more
# package, by one changed file, and by another kernel. Beside casync, which is
# given the same parts of the same images, and beside the whole image. All that
# we fetch counts, from the manifest and the signature on. After "make build",
# with casync (ci/install-deps.sh) and a mirror of Debian that can be reached.
#
#   ci/bench-update.sh [--json]
#
# BENCH_DIR is where to work (15 GB), a temporary directory by default.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. ci/bench/begin.sh

options "$@"
needs casync jq bin/imgbuild
mapfile -t kernels < <(apt-cache search --names-only '^linux-image-6\.1\.0-[0-9]+-amd64$' | cut -d ' ' -f 1 | sort -V | tail -n 2)
if [ ${#kernels[@]} -ne 2 ]; then
    fail 3 "the mirror does not have two kernels of Debian 12: apt-get update"
fi

scratch
export TMPDIR=$work
layout=oci:$work/oci

# image NAME VERSION KERNEL PACKAGES ELEMENTS builds an image, signs it and
# prints its digest.
image() {
    echo "bench-update.sh: building the image '$1'" >&2
    sed "s/@VERSION@/$2/; s/@KERNEL@/$3/; s/@PACKAGES@/$4/; s/@ELEMENTS@/$5/" ci/bench/u.yaml >"$work/$1.yaml"
    {
        bin/imgbuild build --elements-path ci/bench/elements -o "$work/$1" "$work/$1.yaml" &&
            bin/imgbuild push "$work/$1/u.manifest.json" "$layout:$1" &&
            rm -r "${work:?}/$1" &&
            bin/imgbuild sign "$layout:$1" --key "$work/keys/release.key"
    } >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        fail 1 "'$1': failed; its last lines are above"
    }
    tail -n 1 "$work/log"
}

# stored is the size of casync's store, in bytes.
stored() { find "$work/store" -type f -printf '%s\n' | awk '{ n += $1 } END { print n }'; }

# chunks NAME... cuts parts into the store.
chunks() {
    for part in "$@"; do
        casync --store="$work/store" make "$work/$part.caibx" "$work/$part" >/dev/null
    done
}

bin/imgbuild keys release "$work/keys" >/dev/null
old=$(image old 1 "${kernels[0]}" '' '')
go test -c -o "$work/fetch.test" ./internal/update/fetch
rows=$work/rows
# update NAME KERNEL PACKAGES ELEMENTS adds a row: NAME, bytes by ours, by
# casync, and of the whole image.
update() {
    local new before after index ours whole
    new=$(image new 2 "$2" "$3" "$4")
    "$work/fetch.test" -test.run TestTravel -old "$layout@$old" -new "$layout@$new" -parts "$work" >"$work/log"
    read -r ours whole < <(awk -F '\t' '$1 == "new fetched" { print $2, $4 }' "$work/log")
    rm -rf "$work/store"
    chunks old.root old.uki
    before=$(stored)
    chunks new.root new.uki
    after=$(stored)
    index=$(cat "$work/new.root.caibx" "$work/new.uki.caibx" | wc -c)
    printf '%s\t%d\t%d\t%d\n' "$1" "$ours" "$((after - before + index))" "$whole" >>"$rows"
}
update "one more package (nano)" "${kernels[0]}" ', nano' ''
update "one changed file" "${kernels[0]}" '' ', change'
update "another kernel (${kernels[1]})" "${kernels[1]}" '' ''

if [ -n "$json" ]; then
    jq -R -s '{rows: [split("\n")[] | select(. != "") | split("\t")
        | {name: .[0], bytes: (.[1] | tonumber), casync_bytes: (.[2] | tonumber), image_bytes: (.[3] | tonumber)}]}' "$rows"
    exit
fi
{
    printf 'update\tours\tcasync\tthe image\tours / casync\tof the image\n'
    awk -F '\t' -v OFS='\t' '{ print $0, sprintf("%.2f", $2 / $3), sprintf("%.2f %%", 100 * $2 / $4) }' "$rows"
} | column -t -s "$(printf '\t')"
