#!/bin/bash
# Makes Debian packages of what "make build" left in bin/:
#
#   goldsmith-machine   what works on machines that run images
#   goldsmith-imgbuild  imgbuild, the elements and templates
#   goldsmith-imgpipe   imgpipe, its units and its user
#
#   packaging/build.sh [DIRECTORY]      default: dist
#
# The same programs give the same bytes: times are the last commit's, or
# SOURCE_DATE_EPOCH's. VERSION replaces the version, which else is made of the
# last commit; COMPRESS is xz, or another method of dpkg-deb's.
set -eu -o pipefail
cd "$(dirname "$0")/.."

out=$(realpath -m "${1-dist}")
commit() { git log -1 --date=format:%Y%m%d --format="$1" 2>/dev/null || echo "$2"; }
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH-$(commit %ct 0)}
version=${VERSION-0.1~git$(commit %cd.%h 0)}
arch=$(dpkg --print-architecture)
maintainer=${MAINTAINER-goldsmith <goldsmith@goldsmith.invalid>}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$out"

# program PACKAGE NAME: the program beside the others, where they find each
# other, in the PATH with its manual page and completions.
program() {
    local root=$stage/$1 name=$2
    install -D -m 755 "bin/$name" "$root/usr/lib/goldsmith/bin/$name"
    mkdir -p "$root"/usr/bin "$root"/usr/share/{man/man1,bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
    ln -s "../lib/goldsmith/bin/$name" "$root/usr/bin/$name"
    "bin/$name" completion man | gzip -9n >"$root/usr/share/man/man1/$name.1.gz"
    "bin/$name" completion bash >"$root/usr/share/bash-completion/completions/$name"
    "bin/$name" completion zsh >"$root/usr/share/zsh/vendor-completions/_$name"
    "bin/$name" completion fish >"$root/usr/share/fish/vendor_completions.d/$name.fish"
}

# tree PACKAGE NAME: a directory of the repository, as git has it.
tree() {
    mkdir -p "$stage/$1/usr/lib/goldsmith"
    git ls-files -z -- "$2" | tar -c --null -T - -f - | tar -x -C "$stage/$1/usr/lib/goldsmith"
}

# package NAME SHORT LONG RELATIONS: what is staged, as NAME_VERSION_ARCH.deb.
package() {
    local name=$1 short=$2 long=$3 relations=$4 root=$stage/$1 f
    local doc=$root/usr/share/doc/$name
    install -D -m 644 packaging/copyright "$doc/copyright"
    for f in "$root"/usr/lib/goldsmith/bin/*; do
        [ -L "$f" ] || go version -m "$f"
    done | awk '$1 == "dep" || $1 == "=>" { print $2, $3 }' | sort -u >"$doc/modules.txt"
    printf 'goldsmith (%s) unstable; urgency=medium\n\n  * Built from commit %s.\n\n -- %s  %s\n' \
        "$version" "$(commit %H unknown)" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"
    install -d "$root/usr/share/lintian/overrides"
    sed "s/^[a-z]/$name: &/" packaging/overrides >"$root/usr/share/lintian/overrides/$name"
    mkdir "$root/DEBIAN"
    (cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    cat >"$root/DEBIAN/control" <<END
Package: $name
Source: goldsmith
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -k -s --apparent-size "$root" | cut -f 1)
Section: admin
Priority: optional
$relations
Description: $short
$long
END
    for f in postinst prerm postrm; do
        if [ -e "packaging/$name.$f" ]; then
            install -m 755 "packaging/$name.$f" "$root/DEBIAN/$f"
        fi
    done
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    # More threads would cut the archive at other places.
    dpkg-deb --root-owner-group "-Z${COMPRESS-xz}" --threads-max=1 --build "$root" "$out/${name}_${version}_$arch.deb"
}

for p in applycfg refreshcfg collectcfg imgupdate; do
    program goldsmith-machine $p
done
for p in imgtools imginit imgagent; do
    install -m 755 bin/$p "$stage/goldsmith-machine/usr/lib/goldsmith/bin/$p"
done
package goldsmith-machine "golden images: what works on machines that run them" \
    " Metadata from many sources becomes configuration: collectcfg gathers it,
 refreshcfg runs hooks, applycfg writes files. imgupdate brings a machine to
 another image and back. The programs stand in for os-collect-config,
 os-refresh-config and os-apply-config." \
    "Depends: ca-certificates"

program goldsmith-imgbuild imgbuild
for name in disk-image-create ramdisk-image-create diskimage-builder element-info; do
    ln -s imgbuild "$stage/goldsmith-imgbuild/usr/lib/goldsmith/bin/$name"
done
for d in elements templates glue; do
    tree goldsmith-imgbuild $d
done
package goldsmith-imgbuild "golden images: build them of elements" \
    " imgbuild makes bootable images of elements and templates, cached step by
 step, the same bytes every time: read-only root, dm-verity, two slots. It runs
 elements that were written for diskimage-builder." \
    "Depends: goldsmith-machine (= $version), ca-certificates, debian-archive-keyring, gpgv, squashfs-tools, uidmap, xz-utils
Recommends: qemu-system-x86, qemu-utils
Suggests: debootstrap, skopeo"

program goldsmith-imgpipe imgpipe
for u in imgpipe imgpipe-worker; do
    install -D -m 644 packaging/$u.service "$stage/goldsmith-imgpipe/lib/systemd/system/$u.service"
done
install -d "$stage/goldsmith-imgpipe/etc/goldsmith" "$stage/goldsmith-imgpipe/usr/share/goldsmith"
bin/imgpipe check --schema >"$stage/goldsmith-imgpipe/usr/share/goldsmith/pipeline.schema.json"
package goldsmith-imgpipe "golden images: build, test and promote them" \
    " imgpipe runs pipelines: an image is built, tested on virtual machines and
 on servers behind management controllers, and promoted with signed evidence.
 The package has units for its server and its workers." \
    "Depends: goldsmith-imgbuild (= $version), adduser, openssh-client
Recommends: dnsmasq-base, ipxe, libvirt-daemon, libvirt-daemon-driver-qemu, ovmf, qemu-system-x86, qemu-utils
Suggests: postgresql"
