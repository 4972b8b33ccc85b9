#!/bin/bash
# What ci/bench*.sh begin with; they source it, in the tree's directory.

# fail STATUS TEXT... ends the script.
fail() {
    echo "${0##*/}: ${*:2}" >&2
    exit "$1"
}

# options ARGUMENT... sets json: 1 with --json, else nothing.
# shellcheck disable=SC2034 # whoever sources this uses it
options() {
    json=
    case ${1:-} in
        '') ;;
        --json) json=1 ;;
        *) fail 2 "'$1' is not known; there is --json" ;;
    esac
}

# needs PROGRAM... ends the script unless all of these can be run.
needs() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || fail 3 "$program is not there: make deps build"
    done
}

# scratch sets work: a new directory in BENCH_DIR, which goes when the script
# ends.
scratch() {
    work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/bench-XXXXXX")
    trap 'rm -rf "$work"' EXIT
}
