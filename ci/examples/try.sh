#!/bin/bash
# What the examples do on each CI system, as far as that takes seconds: the same
# script, with the variables that the system sets.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
export IMGPIPE=$PWD/bin/imgpipe

commit=0123456789abcdef0123456789abcdef01234567
clean=(env -u GITHUB_SHA -u GITHUB_HEAD_REF -u GITHUB_REF_NAME -u GITHUB_ACTOR
    -u CI_COMMIT_SHA -u CI_COMMIT_REF_NAME -u GITLAB_USER_LOGIN)

echo "GitHub Actions"
"${clean[@]}" GITHUB_SHA=$commit GITHUB_HEAD_REF= GITHUB_REF_NAME=main GITHUB_ACTOR=ada ci/pipeline.sh --check ci/examples/pipeline.yaml
echo "GitLab CI"
"${clean[@]}" CI_COMMIT_SHA=$commit CI_COMMIT_REF_NAME=release/1 GITLAB_USER_LOGIN=ada ci/pipeline.sh --check ci/examples/pipeline.yaml
echo "Zuul"
"${clean[@]}" ZUUL_COMMIT=$commit ZUUL_BRANCH=main ZUUL_AUTHOR=ada ci/pipeline.sh --check ci/examples/pipeline.yaml

echo "a value that the file refuses"
status=0
"${clean[@]}" CI_COMMIT_SHA=$commit CI_COMMIT_REF_NAME="main; reboot" ci/pipeline.sh --check ci/examples/pipeline.yaml || status=$?
if [ "$status" -ne 2 ]; then
    echo "status $status; want 2" >&2
    exit 1
fi

echo "a run that fails: its status is the job's"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
status=0
GOLDSMITH_DIR=$scratch/state ci/pipeline.sh ci/examples/failing.yaml "$scratch/results" || status=$?
if [ "$status" -ne 1 ]; then
    echo "status $status; want 1" >&2
    exit 1
fi
