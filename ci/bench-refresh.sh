#!/bin/bash
# Measures refreshcfg beside Debian's os-refresh-config, and both beside a shell
# that calls the same scripts: 40 hooks that do nothing, ten in each phase.
# Everything in one run: machines differ and are shared, so only ratios mean
# something. After "make build", with what ci/install-deps.sh installs.
#
#   ci/bench-refresh.sh [--json]
#
# BENCH_DIR is where to work, a temporary directory by default.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. ci/bench/begin.sh

options "$@"
needs bin/refreshcfg /usr/bin/os-refresh-config /usr/bin/dib-run-parts /usr/bin/time
bin=$PWD/bin
scratch
cd "$work"
for phase in pre-configure configure post-configure migration; do
    mkdir -p "base/$phase.d"
    for i in {10..19}; do
        printf '#!/bin/sh\nexit 0\n' >"base/$phase.d/$i-hook"
        chmod 0755 "base/$phase.d/$i-hook"
    done
done
# shellcheck disable=SC2016 # the loop's own variable
echo 'for hook in base/*/*; do "$hook"; done' >bare
ln -s "$bin/refreshcfg" os-refresh-config
export OS_REFRESH_CONFIG_BASE_DIR=$work/base OS_CONFIG_FILES=

# measure NAME TIMES COMMAND... adds a row: NAME, milliseconds of CPU (user and
# system) and on the clock for one run, and the largest resident memory of the
# program or what it ran, in MiB.
measure() {
    local name=$1 times=$2 TIMEFORMAT='%R %U %S' rss
    shift 2
    echo "bench-refresh.sh: $name" >&2
    runs() {
        local i
        for i in $(seq "$times"); do "$@" >log 2>&1 || return; done
    }
    if ! { time runs "$@"; } 2>./times; then
        tail -n 5 log >&2
        fail 1 "$name: failed; its last lines are above"
    fi
    rss=$(/usr/bin/time -o rss -f %M "$@" >log 2>&1 && cat rss)
    awk -v name="$name" -v n="$times" -v rss="$rss" '{ printf "%s\t%.1f\t%.1f\t%.1f\n", name, ($2 + $3) * 1000 / n, $1 * 1000 / n, rss / 1024 }' times >>rows
}

before=$(cut -d ' ' -f 1-3 /proc/loadavg)
measure "bare scripts" 20 sh bare
measure "refreshcfg" 20 "$bin/refreshcfg" --lockfile lock --state state --no-signal
measure "refreshcfg, called os-refresh-config" 20 ./os-refresh-config --lockfile lock
measure "os-refresh-config" 5 /usr/bin/os-refresh-config --lockfile lock
after=$(cut -d ' ' -f 1-3 /proc/loadavg)

awk -F '\t' -v OFS='\t' 'NR == 1 { bare = $2 } { print $0, sprintf("%.2f", $2 / bare) }' rows >table
if [ -n "$json" ]; then
    jq -R -s --arg before "$before" --arg after "$after" '
        {load_before: $before, load_after: $after, rows: [split("\n")[] | select(. != "") | split("\t")
            | {name: .[0], cpu_ms: (.[1] | tonumber), wall_ms: (.[2] | tonumber), rss_mib: (.[3] | tonumber), ratio: (.[4] | tonumber)}]}' table
    exit
fi
{
    printf 'what\tCPU ms\twall ms\tMiB\tx bare\n'
    cat table
} | column -t -s "$(printf '\t')"
echo "load: $before before, $after after, on $(nproc) processors"
