#!/bin/bash
# Builds cosign, of which goldsmith's tests take a second opinion on signatures
# where it is installed: ci/cosign.sh DIRECTORY, then add that to PATH. It is a
# module of its own, and takes some five minutes of a processor.
set -eu -o pipefail
[ $# -eq 1 ] || {
    echo "usage: ci/cosign.sh DIRECTORY" >&2
    exit 2
}
mkdir -p "$1"
GOBIN=$(cd "$1" && pwd)
export GOBIN GOFLAGS=-mod=mod
[ -x "$GOBIN/cosign" ] || go install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
"$GOBIN/cosign" version
