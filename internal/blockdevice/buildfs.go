package blockdevice

import (
	"cmp"
	"regexp"
	"strings"
)

func (b *builder) mkfs(e *entry) error {
	f := &filesystem{line: e.at("type")}
	var err error
	if f.base, err = b.need(e, "base"); err != nil {
		return err
	}
	n, err := b.add(e, f, f.base)
	if err != nil {
		return err
	}
	f.name = n.name
	inherit := Params{}
	if f.name == "mkfs_root" {
		inherit = b.plan.params
		inherit.RootFSType = cmp.Or(inherit.RootFSType, "ext4")
	}
	if f.kind, err = b.str(e, "type"); err != nil {
		return err
	}
	if f.kind = cmp.Or(f.kind, inherit.RootFSType); !fsType.MatchString(f.kind) {
		return b.bad(e.at("type"), "mkfs %s: needs a type, such as ext4", f.name)
	}
	opts, err := b.str(e, "opts")
	if err != nil {
		return err
	}
	f.opts = strings.Fields(cmp.Or(opts, inherit.RootFSOpts))
	if err := b.uuid(e, f); err != nil {
		return err
	}
	return b.label(e, f, inherit)
}

// uuidForm is a UUID as RFC 4122 writes it, and volumeID a FAT's as blkid(8)
// does.
var (
	uuidForm = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	volumeID = regexp.MustCompile(`^[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}$`)
)

func (b *builder) uuid(e *entry, f *filesystem) error {
	var err error
	if f.uuid, err = b.str(e, "uuid"); err != nil {
		return err
	}
	switch {
	case f.uuid == "":
		f.uuid = b.plan.guid("file system " + f.name)
	case uuidForm.MatchString(f.uuid), f.isFAT() && volumeID.MatchString(f.uuid):
	default:
		want := "8-4-4-4-12 hexadecimal digits"
		if f.isFAT() {
			want = "4-4 or " + want
		}
		return b.bad(e.at("uuid"), "mkfs %s: uuid %q: want %s", f.name, f.uuid, want)
	}
	return nil
}

var fsType = regexp.MustCompile(`^[a-z0-9][a-z0-9._+-]*$`)

// labelMax is the longest label of a file system, in bytes.
var labelMax = map[string]int{"ext2": 16, "ext3": 16, "ext4": 16, "swap": 16, "xfs": 12, "vfat": 11, "fat": 11}

func (b *builder) label(e *entry, f *filesystem, inherit Params) error {
	var err error
	if f.label, err = b.str(e, "label"); err != nil {
		return err
	}
	if f.label == "" && inherit.RootFSType != "" {
		f.label = inherit.RootLabel
		if f.label == "" {
			f.label = "cloudimg-rootfs"
			if f.kind == "xfs" {
				f.label = "img-rootfs" // the other is too long
			}
		}
	}
	f.label = cmp.Or(f.label, f.name)
	if f.isFAT() {
		f.label = strings.ToUpper(f.label)
	}
	if m, ok := labelMax[f.kind]; ok && len(f.label) > m {
		return b.bad(e.at("label"), "mkfs %s: label %q has %d bytes, %s takes %d",
			f.name, f.label, len(f.label), f.kind, m)
	}
	if b.labels[f.label] {
		return b.bad(e.at("label"), "mkfs %s: label %q is used more than once", f.name, f.label)
	}
	b.labels[f.label] = true
	return nil
}
