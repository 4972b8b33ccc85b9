package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
)

// diary notes on the state partition how boots went, for those who have to
// tell why an older version is running. The zero diary of a live system notes
// nothing.
//
// boot/attempts.jsonl has one JSON object a line, the last 64 of them; a boot
// has one for each stage that it reached. A boot whose last stage is "state"
// died in between: the root was damaged, or the kernel's watchdog struck.
// boot/failed.log has the kernel's log of the last boot that imginit gave up.
type diary struct {
	disk   *rootDisk // nil until there is one
	hash   string
	bootID string
	last   string // stage that was noted last
}

// Stages of a boot.
const (
	stageState    = "state"          // the state partition is mounted
	stageRepaired = "state-repaired" // it was damaged; what e2fsck could save is there
	stageLost     = "state-lost"     // it has a new file system
	stageSwitch   = "switch-root"    // imginit's work is done
	stageFailed   = "failed"         // imginit gave up
)

// attempt is one line.
type attempt struct {
	RootHash string // "roothash"
	BootID   string // "boot_id": /proc/sys/kernel/random/boot_id
	Stage    string // "stage"
	Error    string // "error": why it failed, or what became of the state; left out when empty
}

const (
	maxAttempts = 64
	maxDiary    = 256 << 10 // bytes; what is longer was not written here
	maxError    = 2 << 10
)

// begin says what is booted.
func (d *diary) begin(disk *rootDisk, hash rootHash) {
	d.disk, d.hash = disk, hex.EncodeToString(hash[:])
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	d.bootID = strings.TrimSpace(string(id))
}

// mount mounts the state partition if it has a file system that can be mounted.
// A second call does nothing.
func (d *diary) mount() error {
	if isMounted(stateRoot) {
		return nil
	}
	dev, err := d.disk.named("state")
	if err != nil {
		return err
	}
	if empty, err := noSuperblock(dev); err != nil || empty {
		return errors.Join(err, fmt.Errorf("%s: no ext4 file system yet", dev))
	}
	if err := os.MkdirAll(stateRoot, 0o700); err != nil {
		return err
	}
	return unix.Mount(dev, stateRoot, "ext4", 0, "")
}

// begun mounts the state partition early and notes that this boot began, unless
// the file system is to be repaired first.
func (d *diary) begun(c *console) {
	dev, err := d.disk.named("state")
	if err != nil {
		return
	}
	if noted, err := hasErrors(dev); err == nil && !noted && d.mount() == nil {
		d.note(c, stageState)
	}
}

// isMounted tells whether something is mounted on dir.
func isMounted(dir string) bool {
	var in, above unix.Stat_t
	return unix.Stat(dir, &in) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && in.Dev != above.Dev
}

// note notes a stage once.
func (d *diary) note(c *console, stage string) {
	if d.last != stage {
		d.write(c, stage, "")
	}
}

// write notes a stage, and a word about it. That it cannot is no reason not to
// boot.
func (d *diary) write(c *console, stage, text string) {
	if d.disk == nil {
		return
	}
	d.last = stage
	err := keepAttempt(stateRoot, attempt{RootHash: d.hash, BootID: d.bootID, Stage: stage, Error: text})
	if err != nil {
		c.say("not noted on the state partition: %v", err)
	}
}

// failed notes why imginit gave up.
func (d *diary) failed(cause error) error {
	if d.disk == nil {
		return nil // nothing to note it on
	}
	if err := d.mount(); err != nil {
		return err
	}
	text := cause.Error()
	text = strings.ToValidUTF8(text[:min(len(text), maxError)], "?")
	err := keepAttempt(stateRoot, attempt{RootHash: d.hash, BootID: d.bootID, Stage: stageFailed, Error: text})
	log := make([]byte, maxDiary)
	n, _ := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, log)
	return errors.Join(err, atomicfile.Write(stateRoot+"/boot/failed.log", log[:max(n, 0)], 0o600))
}

// keepAttempt adds a line to the diary below the state partition's directory.
func keepAttempt(state string, a attempt) error {
	dir := filepath.Join(state, "boot")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := filepath.Join(dir, "attempts.jsonl")
	old, err := readBounded(name)
	if err != nil {
		return err
	}
	line := object("roothash", a.RootHash, "boot_id", a.BootID, "stage", a.Stage, "error", a.Error)
	lines := bytes.SplitAfter(old, []byte("\n"))
	lines = append(lines[:len(lines)-1], []byte(line)) // the last one is not whole
	lines = lines[max(0, len(lines)-maxAttempts):]
	return atomicfile.Write(name, bytes.Join(lines, nil), 0o600)
}

// readBounded reads a file, of one that is too long the beginning; a missing one
// is empty.
func readBounded(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDiary))
}

// booted is /run/goldsmith/boot.json: what runs, for those who change it.
type booted struct {
	RootHash string // "root_hash"
	Slot     string // "slot": "a" or "b"
	Disk     string // "disk": device file
	Firmware string // "firmware": "uefi" or "bios"
	State    string // "state": what became of a damaged state partition, for people; left out when it was sound
	From     string // "from": "network" when the kernel came over it; left out when it came from the disk
}

// noteBooted writes it.
func noteBooted(d *rootDisk, hash rootHash, state string, args cmdline) error {
	b := booted{
		RootHash: hex.EncodeToString(hash[:]), Slot: strings.TrimPrefix(d.part.Name, "root-"),
		Disk: "/dev/" + d.name, Firmware: "bios", State: state, From: args.Get("goldsmith.from"),
	}
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		b.Firmware = "uefi"
	}
	text := object("root_hash", b.RootHash, "slot", b.Slot, "disk", b.Disk, "firmware", b.Firmware,
		"state", b.State, "from", b.From)
	if err := os.MkdirAll("/run/goldsmith", 0o755); err != nil {
		return err
	}
	return os.WriteFile("/run/goldsmith/boot.json", []byte(text), 0o644)
}

// object is a JSON object of texts on a line of its own, without the empty
// ones. encoding/json would make the initramfs a fifth larger.
func object(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		b.WriteString(map[bool]string{true: "{", false: ","}[b.Len() == 0])
		b.WriteString(quote(pairs[i]) + ":" + quote(pairs[i+1]))
	}
	return b.String() + "}\n"
}

// quote is a JSON string (RFC 8259, section 7).
func quote(s string) string {
	b := []byte{'"'}
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			b = fmt.Appendf(b, "\\u%04x", r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return string(append(b, '"'))
}
