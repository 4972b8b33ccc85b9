#!/bin/bash
# Installs what goldsmith needs on Debian or Ubuntu and is not there yet:
# what builds and boots images, and what the tests compare with.
# It may be run again at any time; when nothing is missing it does nothing.
set -eu -o pipefail

packages=(
    # building images
    ca-certificates debian-archive-keyring gpgv squashfs-tools uidmap xz-utils
    # virtual machines
    dnsmasq-base iproute2 ipmitool libvirt-clients libvirt-daemon
    libvirt-daemon-config-network libvirt-daemon-driver-qemu
    openipmi openssh-client ovmf qemu-guest-agent qemu-system-x86 qemu-utils
    # machines that start from the network
    ipxe ipxe-qemu
    # disks of the block-device kind: what makes them, in a machine with a
    # kernel that has 9P; and what diskimage-builder's elements call
    debootstrap e2fsprogs linux-image-amd64 lvm2 tar xfsprogs
    # smoke tests
    jq redis-tools
    # the database of more than one machine
    postgresql
    # what tests run with: the race detector needs a C compiler
    gcc libc6-dev libcap2-bin procps time
    # Debian packages, and what is said of them
    lintian man-db
    # what tests hold our formats against
    busybox-static bzip2 cpio cryptsetup-bin dosfstools efitools erofs-utils fdisk gdisk gpg gpg-agent
    grub-common grub-pc-bin mtools sbsigntool shellcheck skopeo
    xorriso zstd
    # what deployments of Heat are handed to
    ansible-core jq
    # what hooks see another time with, in a second build
    libfaketime
    # the programs that ours replace, for comparison
    python3-os-apply-config python3-os-collect-config python3-os-refresh-config
    casync mmdebstrap python3-diskimage-builder sudo
)

missing=()
for p in "${packages[@]}"; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" != installed ]; then
        missing+=("$p")
    fi
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "install-deps: nothing is missing"
    exit 0
fi
echo "install-deps: installing ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
    echo "install-deps: needs root to install packages" >&2
    exit 3
fi
# A package that brings a daemon must not start it on a build machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
