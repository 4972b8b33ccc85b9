#!/bin/bash
# Everything that can be said about the tree without running it: formatting,
# vet, static analysis, shell scripts.
set -eu -o pipefail
cd "$(dirname "$0")/.."

fail=0
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
    echo "gofmt: $unformatted"
    fail=1
fi
go mod tidy -diff || fail=1
go vet ./... || fail=1
go tool staticcheck ./... || fail=1

# Shell scripts are found by their first line, not by their name.
files=$(git ls-files -- elements ci .ci packaging tests cmd)
scripts=()
while IFS= read -r f; do
    if [ -f "$f" ] && [ ! -L "$f" ] && head -n 1 "$f" | grep -qE '^#!/bin/(ba)?sh'; then
        scripts+=("$f")
    fi
done <<<"$files"
if [ ${#scripts[@]} -eq 0 ]; then
    echo "check: found no shell scripts, which cannot be"
    fail=1
else
    go tool shfmt -i 4 -ci -d "${scripts[@]}" || fail=1
    shellcheck "${scripts[@]}" || fail=1
fi
exit $fail
