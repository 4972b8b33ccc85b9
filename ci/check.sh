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
mapfile -t scripts < <(git ls-files -z -- elements ci .ci tests | xargs -0 grep -lE '^#!/bin/(ba)?sh' 2>/dev/null)
if [ ${#scripts[@]} -gt 0 ]; then
    go tool shfmt -i 4 -ci -d "${scripts[@]}" || fail=1
    shellcheck "${scripts[@]}" || fail=1
fi
exit $fail
