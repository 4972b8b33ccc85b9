#!/bin/bash
# Rehearses servers on this host: QEMU machines behind management controllers,
# in a network namespace of their own, get an image by PXE, are tested by imgpipe,
# are upgraded to the next image under load, and go back. After "make build", as
# root.
#
#   ci/demo-metal.sh [--deploy]
#
# With --deploy one server gets an image and is tested, and that is all.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. ci/rack.sh
rack_ramdisk
rack_start
rack_trust
bin/imgpipe run ci/demo-metal/deploy.yaml
[ "${1:-}" = --deploy ] || bin/imgpipe run ci/demo-metal/upgrade.yaml
bin/imgpipe node ls
