#!/bin/bash
# Runs a pipeline from a CI job: checks the file, gives it what the CI system
# knows, and collects the results where CI systems look for them.
#
#   ci/pipeline.sh [--check] PIPELINE.yaml [RESULTS]
#
# Of commit, branch and author the file is told those that it declares as
# inputs. RESULTS (default: results) gets the JUnit files of all attempts. The
# exit status is imgpipe's: 0 passed, 1 failed, 2 the file is wrong, 3
# something is missing, 4 busy. With --check nothing is run.
#
# With GOLDSMITH_SERVER, a URL, that server runs it, of the file that it has at
# the same path; GOLDSMITH_TOKEN_FILE names the file with the token for it. When
# the CI system ends the job, the run is cancelled.
set -eu -o pipefail

only=run
if [ "${1-}" = --check ]; then
    only=check
    shift
fi
file=${1:?"usage: ci/pipeline.sh [--check] PIPELINE.yaml [RESULTS]"}
results=${2-results}
dir=${GOLDSMITH_DIR-.goldsmith}
imgpipe=${IMGPIPE-imgpipe}

# What GitHub Actions, GitLab CI and Zuul (ci/examples/zuul) call it; git's
# word otherwise.
git() { command git -C "$(dirname "$file")" "$@" 2>/dev/null || true; }
declare -A known=(
    [commit]=${GITHUB_SHA-${CI_COMMIT_SHA-${ZUUL_COMMIT-$(git rev-parse HEAD)}}}
    [branch]=${GITHUB_HEAD_REF:-${GITHUB_REF_NAME-${CI_COMMIT_REF_NAME-${ZUUL_BRANCH-$(git branch --show-current)}}}}
    [author]=${GITHUB_ACTOR-${GITLAB_USER_LOGIN-${ZUUL_AUTHOR-$(git log -1 --format=%ae)}}}
)

declared=$("$imgpipe" check --json "$file" 2>/dev/null || true)
set=()
for name in commit branch author; do
    if [ -n "${known[$name]}" ] && jq -e --arg n "$name" '.declares // {} | has($n)' <<<"$declared" >/dev/null; then
        set+=(--set "$name=${known[$name]}")
    fi
done

"$imgpipe" check "${set[@]}" "$file"
if [ "$only" = check ]; then
    exit 0
fi

# Who wrote it never approves it, declared as an input or not.
author=()
if [ -n "${known[author]}" ]; then
    author=(--author "${known[author]}")
fi

where=(--dir "$dir")
if [ -n "${GOLDSMITH_SERVER-}" ]; then
    where=(--server "$GOLDSMITH_SERVER" --token "${GOLDSMITH_TOKEN_FILE:?names the file with the token for the server}")
fi

mkdir -p "$results"
exec "$imgpipe" run "${where[@]}" --results "$results" "${author[@]}" "${set[@]}" "$file"
