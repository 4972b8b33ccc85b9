#!/bin/sh
# Makes elements/tiny, the smallest operating system that hooks can run in.
set -eu

mkdir -p elements/tiny/root.d elements/tiny/install.d
echo operating-system >elements/tiny/element-provides
cat >elements/tiny/root.d/10-tiny <<'HOOK'
#!/bin/sh
set -eu
mkdir -p "$TARGET_ROOT/bin" "$TARGET_ROOT/etc" "$TARGET_ROOT/tmp" "$TARGET_ROOT/var/log"
cp /bin/busybox "$TARGET_ROOT/bin/busybox"
for name in sh ls cat echo sleep touch id mount; do
    ln -s busybox "$TARGET_ROOT/bin/$name"
done
echo build-host >"$TARGET_ROOT/etc/hostname"
echo noise >"$TARGET_ROOT/var/log/boot"
HOOK
cat >elements/tiny/install.d/50-hello <<'HOOK'
#!/bin/sh
set -eu
echo "hello from $0"
id -u
echo "built for $ARCH" >/etc/motd
HOOK
chmod +x elements/tiny/*/*
