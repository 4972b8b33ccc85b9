#!/bin/bash
# Measures applycfg beside Debian's os-apply-config, and both beside a loop that
# copies the same files: 500 templates and 5,000 keys. Everything in one run:
# machines differ and are shared, so only ratios mean something. After
# "make build", with what ci/install-deps.sh installs.
#
#   ci/bench-config.sh [--json]
#
# BENCH_DIR is where to work, a temporary directory by default: the file system
# there is measured, too.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. ci/bench/begin.sh

options "$@"
needs bin/applycfg /usr/bin/os-apply-config /usr/bin/time
bin=$PWD/bin
scratch
cd "$work"

# A loop that copies the files of a directory into another one.
cat >copyloop.go <<'EOF'
package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: copyloop FROM TO")
		os.Exit(2)
	}
	from, to := os.Args[1], os.Args[2]
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(dest, 0o755)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(dest, b, 0o644)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "copyloop:", err)
		os.Exit(1)
	}
}
EOF
go build -o copyloop copyloop.go

# The bed: each template reads ten keys of its own.
awk 'BEGIN {
    printf "{" >"m.json"
    for (i = 0; i < 500; i++) {
        dir = "t/etc/d" (i % 50)
        if (i < 50) system("mkdir -p " dir)
        file = dir "/f" i ".conf"
        printf "%s\"s%d\": {", (i ? ", " : ""), i >"m.json"
        printf "# service %d\n", i >file
        for (j = 0; j < 8; j++) {
            printf "\"k%d\": \"value %d of %d\", ", j, j, i >"m.json"
            printf "k%d = {{s%d.k%d}}\n", j, i, j >file
        }
        printf "\"list\": [1, 2, 3], \"on\": true}" >"m.json"
        printf "{{#s%d.list}}\nitem {{.}}\n{{/s%d.list}}\n{{^s%d.none}}default\n{{/s%d.none}}\n", i, i, i, i >file
        for (j = 0; j < 4; j++) printf "a line that stays as it is\n" >file
        close(file)
    }
    printf "}" >"m.json"
}'

# The same with a secret in each file.
cp -r t secret
sed -i 's/\.k0}}/.password}}/' secret/etc/*/*
sed 's/"k0":/"password":/g' m.json >secret.json

# measure NAME TIMES BASE COMMAND... adds a row: NAME, milliseconds of CPU (user
# and system) and on the clock for one run, the largest resident memory in MiB,
# and the row that it is compared with. OUT in a command is a directory, a new
# one for each run if it begins with "fresh".
measure() {
    local name=$1 times=$2 base=$3 TIMEFORMAT='%R %U %S' i rss
    shift 3
    echo "bench-config.sh: $name" >&2
    for i in $(seq "$times"); do mkdir -p "fresh-$i"; done
    runs() {
        for i in $(seq "$times"); do
            "${@//fresh/fresh-$i}" >log 2>&1 || return
        done
    }
    if ! { time runs "$@"; } 2>"$work/times"; then
        tail -n 5 log >&2
        fail 1 "$name: failed; its last lines are above"
    fi
    mkdir -p fresh-rss
    rss=$(/usr/bin/time -f %M "${@//fresh/fresh-rss}" 2>&1 >log | tail -n 1)
    rm -rf fresh-*
    awk -v name="$name" -v n="$times" -v rss="$rss" -v base="$base" \
        '{ printf "%s\t%.1f\t%.1f\t%.1f\t%s\n", name, ($2 + $3) * 1000 / n, $1 * 1000 / n, rss / 1024, base }' times >>rows
    sleep 6 # ext4 looks for inodes that were freed in the last five seconds
}

before=$(cut -d ' ' -f 1-3 /proc/loadavg)
ours=("$bin/applycfg" -t t -m m.json)
theirs=(/usr/bin/os-apply-config -t t -m m.json)
mkdir same
"${ours[@]}" -o same --state same.state 2>log
secrets=("$bin/applycfg" -t secret -m secret.json)
mkdir same-secret
"${secrets[@]}" -o same-secret --state same-secret.state 2>log
measure "fresh, copy loop" 10 - ./copyloop same fresh
measure "fresh, applycfg" 10 "fresh, copy loop" "${ours[@]}" -o fresh
measure "fresh, applycfg --state" 10 "fresh, copy loop" "${ours[@]}" -o fresh --state fresh.state
measure "fresh, --state, secrets" 10 "fresh, copy loop" "${secrets[@]}" -o fresh --state fresh.state
measure "fresh, os-apply-config" 5 "fresh, applycfg" "${theirs[@]}" -o fresh
measure "unchanged, applycfg" 20 "fresh, copy loop" "${ours[@]}" -o same
measure "unchanged, --state, secrets" 20 "fresh, copy loop" "${secrets[@]}" -o same-secret --state same-secret.state
measure "unchanged, os-apply-config" 5 "unchanged, applycfg" "${theirs[@]}" -o same
measure "--key, applycfg" 100 - "${ours[@]}" --key s7.k3 --type raw
measure "--key, os-apply-config" 10 "--key, applycfg" "${theirs[@]}" --key s7.k3 --type raw
after=$(cut -d ' ' -f 1-3 /proc/loadavg)

awk -F '\t' -v OFS='\t' '{ cpu[$1] = $2; print $1, $2, $3, $4, ($5 == "-" ? "-" : sprintf("%.2f x %s", $2 / cpu[$5], $5)) }' rows >table
if [ -n "$json" ]; then
    jq -R -s --arg before "$before" --arg after "$after" '
        {load_before: $before, load_after: $after, rows: [split("\n")[] | select(. != "") | split("\t")
            | {name: .[0], cpu_ms: (.[1] | tonumber), wall_ms: (.[2] | tonumber), rss_mib: (.[3] | tonumber), ratio: .[4]}]}' table
    exit
fi
{
    printf 'what\tCPU ms\twall ms\tMiB\tCPU\n'
    cat table
} | column -t -s "$(printf '\t')"
echo "load: $before before, $after after, on $(nproc) processors"
