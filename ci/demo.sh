#!/bin/bash
# The demo: two versions of an image go the whole way (ci/demo/whole.yaml): built,
# verified, tested on a virtual machine and on a server, upgraded to there from the
# version before, and let into staging; the last one enters production when a
# person who did not make it has approved that. 'imgpipe serve' does the work, and
# serves the server's network. After "make build", as root.
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

# The server, which ends with the script.
url=http://127.0.0.1:18480
token=.goldsmith/demo.token
cat >.goldsmith/server.yaml <<END
apiVersion: goldsmith/v1
dir: .
listen: ${url#http://}
channels: ../ci/demo/whole.yaml
sources: [../ci/demo]
evidence-key: keys/release.key
worker: {slots: 2}
sites: [{network: rehearsal, ramdisk: ramdisk/ramdisk, namespace: rehearsal/netns, cmdline: console=ttyS0}]
END
imgpipe token revoke demo >/dev/null 2>&1 || true # of an earlier time
(umask 077 && imgpipe token add demo --role operator >$token)
imgpipe serve --config .goldsmith/server.yaml 2>.goldsmith/server.log &
rack_with=$!
for _ in $(seq 100); do
    ! imgpipe status --server $url --token $token >/dev/null 2>&1 || break
    sleep 0.1
done

versions="1 2"
[ "${1:-}" != --first ] || versions=1

for version in $versions; do
    echo
    echo "== version $version"
    imgpipe run --server $url --token $token --set "version=$version" "$PWD/ci/demo/whole.yaml"
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
