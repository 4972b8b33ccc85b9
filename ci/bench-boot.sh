#!/bin/bash
# Measures boots, emulated, with nothing else in the machine:
#
#  - from the kernel's first line to systemd's, with imginit (root checked by
#    dm-verity, state partition mounted) and with the initramfs that
#    initramfs-tools makes for the same image (root alone, unchecked);
#  - from power on to configured, of an image of ours with collectcfg and its
#    health checks, and of a Debian image with cloud-init, made of
#    diskimage-builder's elements and the packages of Debian's own cloud images:
#    the first boot of a disk that is larger than the image, and the second. Both
#    get a host name, an address and a key to log in with.
#
# Each several times, in turns. CPU seconds are QEMU's, user and system: time on
# the clock depends on what else runs. After "make build", as root, with QEMU
# and a mirror of Debian that can be reached.
#
#   ci/bench-boot.sh [--json]
#
# BENCH_DIR is where to work (8 GB), a temporary directory by default;
# BENCH_TIMES is how often each is booted, 3 by default.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. ci/bench/begin.sh

options "$@"
needs bin/imgbuild jq mcopy mkfs.vfat qemu-img qemu-system-x86_64
[ "$(id -u)" -eq 0 ] || fail 3 "needs root, as initramfs-tools runs in the image's tree"
times=${BENCH_TIMES:-3}
scratch
qemu=
trap '[ -z "$qemu" ] || kill "$qemu"; rm -rf "$work"' EXIT
export TMPDIR=$work

# log NAME COMMAND... runs a command whose output is of interest when it fails.
log() {
    local name=$1
    shift
    echo "bench-boot.sh: $name" >&2
    if ! "$@" >"$work/log" 2>&1; then
        tail -n 20 "$work/log" >&2
        fail 1 "$name: failed; its last lines are above"
    fi
}

# others takes the image's kernel with imginit's initramfs, and has
# initramfs-tools make the other one, in the image's tree.
others() {
    local start
    start=$(jq '.disk.partitions[] | select(.name == "esp") | .start' "$work/ours/boot.manifest.json")
    mcopy -i "$work/ours/boot.raw@@$start" ::/bios/boot_1/linux ::/bios/boot_1/initrd "$work/"
    mkdir "$work/tree"
    tar -C "$work/tree" -xf "$work/ours/boot.tar"
    echo erofs >>"$work/tree/etc/initramfs-tools/modules"
    mount --bind /proc "$work/tree/proc"
    mount --bind /dev "$work/tree/dev"
    local kernel=("$work"/tree/usr/lib/modules/*)
    chroot "$work/tree" mkinitramfs -o /initrd.tools "${kernel[0]##*/}"
    mv "$work/tree/initrd.tools" "$work/"
    umount "$work/tree/proc" "$work/tree/dev"
    rm -r "$work/tree" "$work/ours/boot.tar"
}

# seed makes the disk by which both learn who they are.
seed() {
    local key='ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f bench'
    mkdir -p "$work/seed/goldsmith"
    jq -n --arg key "$key" '{"local-hostname": "bench", "ssh-authorized-keys": [$key]}' >"$work/seed/goldsmith/metadata.json"
    printf 'instance-id: bench\nlocal-hostname: bench\n' >"$work/seed/meta-data"
    cat >"$work/seed/user-data" <<END
#cloud-config
users: [{name: root, ssh_authorized_keys: ["$key"]}]
disable_root: false
write_files:
  - path: /var/lib/cloud/scripts/per-boot/bench-ready
    permissions: "0755"
    content: |
      #!/bin/sh
      echo bench-is-ready >/dev/console
      systemd-run --quiet --on-active=15 systemctl poweroff
END
    truncate -s 4M "$work/seed.img"
    mkfs.vfat -n CIDATA "$work/seed.img"
    mcopy -s -i "$work/seed.img" "$work"/seed/* ::/
}

# power DISK ARGUMENTS... starts a machine. It has one processor: of two, one
# spins while the host does not run the other, and that would count.
power() {
    local disk=$1
    shift
    rm -f "$work/console"
    began=$(date +%s.%N)
    qemu-system-x86_64 -nodefaults -no-user-config -display none -M q35 -accel tcg,thread=multi -cpu max -smp 1 -m 1024 \
        -serial "file:$work/console" -device virtio-rng-pci -drive "if=virtio,format=qcow2,file=$disk" \
        -drive "if=virtio,format=raw,readonly=on,file=$work/seed.img" -nic user,model=virtio-net-pci,restrict=on \
        "$@" 2>"$work/qemu.log" &
    qemu=$!
}

# line PATTERN waits for a line of the console, and prints it after the seconds
# on the clock and of QEMU's CPU time that passed since power on.
line() {
    local pattern=$1 found now stat
    while ! found=$(grep -a -m 1 -E "$pattern" "$work/console" 2>/dev/null); do
        if ! kill -0 "$qemu" 2>/dev/null || [ "$(($(date +%s) - ${began%.*}))" -gt 900 ]; then
            tail -n 20 "$work/console" "$work/qemu.log" >&2
            fail 1 "not seen on the console: $pattern"
        fi
        sleep 0.1
    done
    now=$(date +%s.%N)
    stat=$(sed 's/.*) //' "/proc/$qemu/stat")
    awk -v a="$began" -v b="$now" -v stat="$stat" -v line="$found" -v hz="$(getconf CLK_TCK)" 'BEGIN {
        split(stat, s, " ")
        print b - a, (s[12] + s[13]) / hz, line }'
}

# off ends the machine. With a word after it, it ends by itself, in good order.
off() {
    local i=0
    while [ -n "${1:-}" ] && kill -0 "$qemu" 2>/dev/null; do
        i=$((i + 1))
        [ "$i" -le 600 ] || fail 1 "the machine does not turn itself off"
        sleep 1
    done
    kill "$qemu" 2>/dev/null || true
    wait "$qemu" 2>/dev/null || true
    qemu=
}

# kernel NAME DISK INITRD CMDLINE adds a row: CPU seconds and seconds on the
# clock from the kernel's first line to systemd's, and what the kernel's own
# clock said in that.
kernel() {
    local a b
    echo "bench-boot.sh: $1" >&2
    power "$2" -snapshot -kernel "$work/linux" -initrd "$3" -append "$4"
    a=$(line 'Linux version')
    b=$(line '\] systemd\[1\]: systemd [0-9]+')
    off
    awk -v name="$1" -v a="$a" -v b="$b" 'BEGIN {
        split(a, x, " "); split(b, y, " ")
        match(b, /\[ *[0-9.]+\]/)
        printf "%s\t%.1f\t%.1f\t%.1f\n", name, y[2] - x[2], y[1] - x[1], substr(b, RSTART + 1, RLENGTH - 2) }' >>"$work/rows"
}

# configured NAME DISK adds a row: the same, from power on to configured. The
# first boot of a disk comes to its end, so that there can be a second one.
configured() {
    local a
    echo "bench-boot.sh: $1" >&2
    power "$2"
    a=$(line bench-is-ready)
    case $1 in
        first*) off itself ;;
        *) off ;;
    esac
    awk -v name="$1" -v a="$a" 'BEGIN { split(a, x, " "); printf "%s\t%.1f\t%.1f\t-\n", name, x[2], x[1] }' >>"$work/rows"
}

log "building our image" bin/imgbuild build --elements-path ci/bench/elements -o "$work/ours" ci/bench/boot.yaml
export -f others
export work
log "making the other initramfs" unshare --mount bash -eu -o pipefail -c others
# What Debian's own cloud images of bookworm are made of: the classes SYSTEM_BOOT
# and CLOUD of its debian-cloud-images, config_space/bookworm/package_config,
# without what is only for people who log in, and systemd-resolved, which has no
# name server while the boot loader is installed.
stock=sudo,libpam-systemd,libnss-myhostname,netplan.io,polkitd,unattended-upgrades,apparmor,zstd,iptables
stock+=,systemd-timesyncd,openssh-server,cloud-initramfs-growroot
log "building Debian with cloud-init" env DIB_RELEASE=bookworm DIB_NO_TIMESTAMP=1 DIB_GRUB_TIMEOUT=0 \
    DIB_BOOTLOADER_DEFAULT_CMDLINE='nofb nomodeset gfxpayload=text quiet' DIB_CLOUD_INIT_DATASOURCES=NoCloud \
    bin/disk-image-create -x -o "$work/theirs" -t raw -p "$stock" \
    debian-minimal vm block-device-mbr cloud-init cloud-init-datasources
log "making the seed" seed

# disk NAME IMAGE makes a disk of an image, 6 GB large.
disk() {
    rm -f "$work/$1.qcow2"
    qemu-img create -q -f qcow2 -b "$2" -F raw "$work/$1.qcow2" 6G
}

# Where systemd's first line can be seen. Without a root hash the other one has
# less to do.
verity=$(jq -r .disk.boot.cmdline "$work/ours/boot.manifest.json" | sed 's/quiet loglevel=4/loglevel=7 printk.devkmsg=on/')
read -ra words <<<"$verity"
plain="${words[*]/roothash=*/} rootfstype=erofs"

before=$(cut -d ' ' -f 1-3 /proc/loadavg)
for _ in $(seq "$times"); do
    disk ours "$work/ours/boot.raw"
    disk theirs "$work/theirs.raw"
    kernel "kernel to systemd: initramfs-tools" "$work/ours.qcow2" "$work/initrd.tools" "$plain"
    kernel "kernel to systemd: imginit, first boot" "$work/ours.qcow2" "$work/initrd" "$verity"
    configured "first boot: Debian with cloud-init" "$work/theirs.qcow2"
    configured "first boot: ours" "$work/ours.qcow2"
    kernel "kernel to systemd: imginit, second boot" "$work/ours.qcow2" "$work/initrd" "$verity"
    configured "second boot: Debian with cloud-init" "$work/theirs.qcow2"
    configured "second boot: ours" "$work/ours.qcow2"
done
after=$(cut -d ' ' -f 1-3 /proc/loadavg)

# The row in the middle of each, and its ratio to the other's.
sort -t "$(printf '\t')" -k 1,1 -k 2,2n "$work/rows" | awk -F '\t' -v OFS='\t' '
    { n[$1]++; row[$1, n[$1]] = $2 OFS $3 OFS $4; cpu[$1, n[$1]] = $2 }
    END { for (name in n) { m = int((n[name] + 1) / 2); print name, row[name, m], cpu[name, 1] " to " cpu[name, n[name]] } }' |
    sort | awk -F '\t' -v OFS='\t' '
    { kind = $1; sub(/:.*/, "", kind); rows[NR] = $0; kinds[NR] = kind; cpu[NR] = $2
      if ($1 ~ /initramfs-tools|cloud-init/) base[kind] = $2 }
    END { for (i = 1; i <= NR; i++) print rows[i], sprintf("%.2f", cpu[i] / base[kinds[i]]) }' >"$work/table"
if [ -n "$json" ]; then
    jq -R -s --arg before "$before" --arg after "$after" '
        {load_before: $before, load_after: $after, rows: [split("\n")[] | select(. != "") | split("\t")
            | {name: .[0], cpu_s: (.[1] | tonumber), wall_s: (.[2] | tonumber), kernel_clock_s: (.[3] | tonumber? // null),
               cpu_s_all: .[4], ratio: (.[5] | tonumber)}]}' "$work/table"
    exit
fi
{
    printf 'what\tCPU s\twall s\tkernel clock s\tCPU s of all\tratio\n'
    cat "$work/table"
} | column -t -s "$(printf '\t')"
echo "load: $before before, $after after, on $(nproc) processors; of $times each, the one in the middle by CPU seconds"
