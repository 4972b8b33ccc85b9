# The disk brings an initramfs of its own.
export INITRD=No
