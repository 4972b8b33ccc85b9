#!/bin/sh
# Fails when a build left a scratch directory, a mount, a loop device or a
# process, or any output in the directories of the command line: nothing but
# logs and reports may be there.
set -u

left() {
    ls -A cache/goldsmith/work 2>/dev/null
    for dir in "$@"; do
        find "$dir" -mindepth 1 -maxdepth 1 ! -name '*.build.log' ! -name '*.report.html' 2>/dev/null
    done
    grep -hsF -- "$PWD" /sys/block/loop*/loop/backing_file
    # shellcheck disable=SC2086 # a list of files
    grep -lsF -- "$PWD" $processes | grep -v "^/proc/$$/"
}
for _ in 1 2 3 4 5 6 7 8 9 10; do
    processes=$(echo /proc/[0-9]*/environ /proc/[0-9]*/mountinfo)
    found=$(left "$@")
    [ -z "$found" ] && exit 0
    sleep 0.2
done
echo "left behind: $found"
exit 1
