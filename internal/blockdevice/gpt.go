package blockdevice

import (
	_ "embed"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// gptTypeList has a line for each type code of sgdisk 1.0.9 that does not mean
// a Linux file system, and for 8300, which does: the code in hexadecimal, and
// the GUID it stands for.
//
//go:embed gpttypes.txt
var gptTypeList string

const typeLinux = "0fc63daf-8483-4772-8e79-3d69d8477de4"

var guidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// gptType is the GUID that sgdisk takes a type for: a code such as EF00, or a
// GUID. A code that it does not know means a Linux file system; known is false
// then.
func gptType(s string) (guid string, known bool, err error) {
	s = strings.ToLower(s)
	if guidForm.MatchString(s) {
		return s, true, nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 16)
	if err != nil {
		return "", false, fmt.Errorf("type %q is neither a code such as 8300 nor a GUID", s)
	}
	code := fmt.Sprintf("%04x ", n)
	for l := range strings.Lines(gptTypeList) {
		if guid, ok := strings.CutPrefix(l, code); ok {
			return strings.TrimSpace(guid), true, nil
		}
	}
	return typeLinux, false, nil
}

// gptNameMax is how many UTF-16 units a partition's name has at most, and
// gptMax how many partitions a table has room for.
const (
	gptNameMax = 36
	gptMax     = 128
)

// writeGPT writes both copies of a table and the protective record.
func writeGPT(f *os.File, slots []slot, size int64, sector int, guid func(what string) string) error {
	t := &gpt.Table{GUID: guid("disk"), ProtectiveMBR: true, LogicalSectorSize: sector, PhysicalSectorSize: sector}
	for _, s := range slots {
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: s.number, Name: gptName(s.name), Type: gpt.Type(strings.ToUpper(s.kind)),
			GUID: guid("partition " + s.name), Start: uint64(s.start), End: uint64(s.start + s.length - 1),
			Size: uint64(s.length) * uint64(sector),
		})
	}
	return t.Write(f, size)
}
