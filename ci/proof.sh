#!/bin/bash
# Compares ours with the originals over all cases, not the sample of
# continuous integration, and writes the table in docs/compatibility.md. As
# root, after "make build"; a quarter of an hour on two processors.
#
#   ci/proof.sh [PACKAGE...]
#
# With names of packages (element hook lint pkginstall blockdevice dibargs
# pkgmap svcmap yaml11 imgtools applycfg refreshcfg template tests) only these are compared; the rows of the
# others stay.
set -eu -o pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
export CI=true # what is missing is a failure

# compare PREFIX "PACKAGE..." FLAG... tests those of the packages that are wanted.
packages="element hook lint pkginstall blockdevice dibargs pkgmap svcmap yaml11 imgtools applycfg refreshcfg template tests"
for name in "$@"; do
    if [[ " $packages " != *" $name "* ]]; then
        echo "proof.sh: no comparison is called '$name'; there are: $packages" >&2
        exit 2
    fi
done
only=" $* "
compare() {
    local prefix=$1 names=$2 list=()
    shift 2
    for name in $names; do
        if [ "$only" = "  " ] || [[ $only == *" $name "* ]]; then
            list+=("./$prefix$name")
        fi
    done
    if [ ${#list[@]} -gt 0 ]; then
        GOLDSMITH_PROOF=$rows "$GO" test -count 1 -timeout 4h "${list[@]}" "$@"
    fi
}

compare internal/ "element hook lint pkginstall" -run 'Oracle|Grammar' -exhaustive
compare internal/ "blockdevice dibargs pkgmap svcmap yaml11" -run 'Oracle|Merge|Getopt'
compare cmd/ imgtools -run Originals
compare internal/ template -run Oracle -exhaustive
compare cmd/ "applycfg refreshcfg" -run Oracle -exhaustive
compare "" tests -core -run EnvironmentIsTheOriginals
"$GO" test -count 1 . -run ProofTable -proof "$rows"
