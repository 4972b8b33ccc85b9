#!/bin/sh
# Runs the command of the command line as an ordinary user, who exists in this
# mount namespace only: user 12345 with the subordinate ids 200000 to 265535.
# SUBUID and SUBGID are other lines for /etc/subuid and /etc/subgid. With
# NAMESPACES, that is how many user namespaces there may be.
set -eu

if [ -z "${AS_USER_INSIDE:-}" ]; then
    AS_USER_INSIDE=1 exec unshare --mount sh "$0" "$@"
fi
unset AS_USER_INSIDE
etc=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$etc"
{
    cat /etc/passwd
    echo "builder:x:12345:12345:Builder:$PWD:/bin/sh"
} >"$etc/passwd"
{
    cat /etc/group
    echo "builder:x:12345:"
} >"$etc/group"
echo "${SUBUID-builder:200000:65536}" >"$etc/subuid"
echo "${SUBGID-builder:200000:65536}" >"$etc/subgid"
echo "root:0:65536" | tee -a "$etc/subuid" >>"$etc/subgid"
for name in passwd group subuid subgid; do
    [ -e "/etc/$name" ] || touch "/etc/$name"
    mount --bind "$etc/$name" "/etc/$name"
done
umount --lazy "$etc"
rmdir "$etc"
set -- setpriv --reuid=12345 --regid=12345 --groups=12345,4 env USER=builder LOGNAME=builder HOME="$PWD" "$@"
if [ -n "${NAMESPACES:-}" ]; then
    # The limit is that of a user namespace.
    # shellcheck disable=SC2016 # for the inner shell
    set -- unshare --user --map-users=0,0,65536 --map-groups=0,0,65536 --setuid=0 --setgid=0 \
        sh -c 'echo "$0" >/proc/sys/user/max_user_namespaces && exec "$@"' "$NAMESPACES" "$@"
fi
exec "$@"
