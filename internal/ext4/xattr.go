package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
)

const (
	xattrMagic  = 0xea020000
	xattrHeader = 32 // of a block of attributes
	xattrEntry  = 16

	inlineAttribute = "system.data"
)

// prefixes of attribute names by their number.
var prefixes = map[byte]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
	7: "system.", 8: "system.richacl",
}

// xattrs reads the attributes of an inode, of which b are the bytes: those in
// it, behind the extra fields, and those in a block of their own.
func (fs *FS) xattrs(b []byte, extra int64) (map[string]string, error) {
	out := map[string]string{}
	if at := 128 + extra; at+4 <= int64(len(b)) && le.Uint32(b[at:]) == xattrMagic {
		if err := readXattrs(out, b[at+4:], b[at+4:]); err != nil {
			return nil, err
		}
	}
	block := int64(le.Uint32(b[0x68:]))
	if fs.incompat&feat64bit != 0 {
		block |= int64(le.Uint16(b[0x76:])) << 32
	}
	if block != 0 {
		x, err := fs.readBlock(block)
		if err != nil {
			return nil, err
		}
		if le.Uint32(x) != xattrMagic {
			return nil, fmt.Errorf("block %d does not hold any", block)
		}
		if err := readXattrs(out, x[xattrHeader:], x); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// readXattrs reads the entries in b, whose values lie in values.
func readXattrs(into map[string]string, b, values []byte) error {
	found := map[string]string{}
	for len(b) >= 4 && le.Uint32(b) != 0 {
		n := int(b[0])
		if len(b) < xattrEntry+n {
			return errors.New("a name is cut off")
		}
		prefix, known := prefixes[b[1]]
		name := prefix + string(b[xattrEntry:xattrEntry+n])
		if !known {
			return fmt.Errorf("name %q is of the unknown kind %d", name, b[1])
		}
		if le.Uint32(b[4:]) != 0 {
			return fmt.Errorf("%s: values in inodes of their own are not supported", name)
		}
		at, size := int64(le.Uint16(b[2:])), int64(le.Uint32(b[8:]))
		if at+size > int64(len(values)) {
			return fmt.Errorf("%s: its value is outside of the block", name)
		}
		value := string(values[at : at+size])
		if b[1] == 2 || b[1] == 3 {
			var err error
			if value, err = acl(value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		found[name] = value
		b = b[min(len(b), (xattrEntry+n+3)&^3):]
	}
	maps.Copy(into, found)
	return nil
}

// acl turns an access control list from its form on the disk, version 1, into
// the one that programs see, version 2: on the disk, entries that are for
// nobody in particular are without a number.
func acl(s string) (string, error) {
	const user, group = 2, 8
	if len(s) < 4 || binary.LittleEndian.Uint32([]byte(s)) != 1 {
		return "", errors.New("not an access control list")
	}
	out := []byte{2, 0, 0, 0}
	for s = s[4:]; s != ""; {
		if len(s) < 4 {
			return "", errors.New("an entry is cut off")
		}
		tag := binary.LittleEndian.Uint16([]byte(s))
		out = append(out, s[:4]...)
		s = s[4:]
		if tag != user && tag != group {
			out = append(out, 0xff, 0xff, 0xff, 0xff)
			continue
		}
		if len(s) < 4 {
			return "", errors.New("an entry is cut off")
		}
		out = append(out, s[:4]...)
		s = s[4:]
	}
	return string(out), nil
}
