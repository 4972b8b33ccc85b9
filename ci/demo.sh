#!/bin/bash
# The demo: a pipeline brings an image to staging; it enters production when a
# person who did not make it has approved that.
set -eu -o pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/bin:$PATH
keys=.goldsmith/keys
if [ ! -e "$keys/release.key" ]; then
    mkdir -p "$keys"
    imgbuild keys release "$keys"
fi

imgpipe run --evidence-key "$keys/release.key" ci/demo/pipeline.yaml

echo
echo "== production wants an approval"
if imgpipe promote staging production; then
    # Only when this very image was promoted before.
    imgpipe channels
    exit 0
fi
imgpipe approve staging production --as release-manager --why "the demo's tests passed"
imgpipe promote staging production --key "$keys/release.key" --why "the demo"
echo
imgpipe channels
imgpipe evidence ls production --key "$keys/release.pub"
imgpipe history replay --all
