#!/bin/bash
# The demo: two versions of an image go the whole way (ci/demo/whole.yaml): built,
# verified, tested on a virtual machine and on a server, upgraded to there from the
# version before, and let into staging; the last one enters production when a
# person who did not make it has approved that. After "make build", as root.
#
#   ci/demo.sh [--first]
#
# With --first only the first version goes: there is nothing to upgrade from then.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. ci/rack.sh
PATH=$PWD/bin:$PATH
key=.goldsmith/keys/release
rack_ramdisk
rack_start
rack_trust
versions="1 2"
[ "${1:-}" != --first ] || versions=1

for version in $versions; do
    echo
    echo "== version $version"
    imgpipe run --jobs 2 --evidence-key "$key.key" --set "version=$version" ci/demo/whole.yaml
done

echo
echo "== production wants an approval"
if imgpipe promote staging production; then
    # Only when this very image was promoted before.
    imgpipe channels
    exit 0
fi
imgpipe approve staging production --as release-manager --why "the demo's tests passed"
imgpipe promote staging production --key "$key.key" --why "the demo"
echo
imgpipe channels
imgpipe evidence verify production --key "$key.pub"
imgpipe history replay --all
imgpipe node ls
