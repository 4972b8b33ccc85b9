package update

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/verity"
)

// inspectTime is how long a slot is looked at for the reason why it failed: the
// unit that does has five minutes for all.
var inspectTime = 3 * time.Minute

// diagnose says why an image on trial did not prove itself, by what can still
// be seen: its bytes, how far it came, and what the boot loader counted.
func (m *Machine) diagnose(ctx context.Context, r *Record, d *slotDisk, e *esp) string {
	t, s := r.Trial, r.Slots[r.Trial.Slot]
	var parts []string
	limited, stop := context.WithTimeout(ctx, inspectTime)
	defer stop()
	if damage := m.inspect(limited, d, t.Slot, s); damage != "" {
		parts = append(parts, damage)
	}
	if damage := e.inspect(s); damage != "" {
		parts = append(parts, damage)
	}
	last, starts := m.attempts(s.RootHash)
	switch {
	case last.Stage == "failed":
		parts = append(parts, fmt.Sprintf("its imginit reported: %s", last.Error))
	case len(t.Boots) > 0 && t.Runs > 0:
		parts = append(parts, fmt.Sprintf("it came up %d times and configuration runs failed, "+
			"then the machine restarted before it had proved itself", len(t.Boots)))
	case len(t.Boots) > 0:
		parts = append(parts, fmt.Sprintf("it came up %d times and did not prove itself before the machine restarted: "+
			"a hang, a panic or a power cut", len(t.Boots)))
	case starts > 0:
		parts = append(parts, fmt.Sprintf("its root was mounted %d times, and its system did not come up: "+
			"a panic, a hang or a power cut", starts))
	default:
		parts = append(parts, "its kernel or initramfs did not come up far enough to leave a word")
	}
	if c := e.counted(s.ID()); c != "" {
		parts = append(parts, c)
	}
	return strings.Join(parts, "; ")
}

// attempt is a line of imginit's attempts.jsonl (docs/boot.md).
type attempt struct {
	RootHash string `json:"roothash"`
	BootID   string `json:"boot_id"`
	Stage    string `json:"stage"`
	Error    string `json:"error"`
}

const maxAttempts = 1 << 20

// attempts returns the last thing that imginit wrote about starts with that
// root, and how many starts there were.
func (m *Machine) attempts(rootHash string) (last attempt, starts int) {
	f, err := os.Open(filepath.Join(m.state(), "attempts.jsonl"))
	if err != nil {
		return last, 0
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, maxAttempts))
	seen := map[string]bool{}
	for line := range bytes.Lines(text) {
		var a attempt
		if json.Unmarshal(line, &a) == nil && a.RootHash == rootHash {
			last, seen[a.BootID] = a, true
		}
	}
	return last, len(seen)
}

// inspect compares a slot's root and tree with the root hash, and names what is
// damaged; "" is nothing.
func (m *Machine) inspect(ctx context.Context, d *slotDisk, name string, s *Slot) string {
	raw, err := hex.DecodeString(s.RootHash)
	if err != nil || len(raw) != len(verity.Hash{}) {
		return fmt.Sprintf("slot %s: root hash %q", name, s.RootHash)
	}
	root, err := d.open("root-"+name, os.O_RDONLY)
	if err != nil {
		return err.Error()
	}
	defer root.Close()
	tree, err := d.open("verity-"+name, os.O_RDONLY)
	if err != nil {
		return err.Error()
	}
	defer tree.Close()
	bad, err := verity.Verify(readUntil{ctx, root}, tree, verity.Hash(raw))
	switch {
	case ctx.Err() != nil:
		return fmt.Sprintf("slot %s was not looked at to its end", name)
	case err != nil:
		return fmt.Sprintf("partitions root-%s and verity-%s: %v", name, name, err)
	case len(bad) == 1:
		return fmt.Sprintf("slot %s is damaged: %s", name, bad[0])
	case len(bad) > 1:
		return fmt.Sprintf("slot %s is damaged: %s and %d more", name, bad[0], len(bad)-1)
	}
	return ""
}

// readUntil is a reader that ends with its context.
type readUntil struct {
	ctx context.Context
	io.ReaderAt
}

func (r readUntil) ReadAt(b []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.ReaderAt.ReadAt(b, off)
}

// inspect compares the kernel image's file with its digest, and the files for
// GRUB with it.
func (e *esp) inspect(s *Slot) string {
	if damage := e.inspectImage(s); damage != "" {
		return damage
	}
	return e.inspectBIOS(s, false)
}

// unstartable says why a version's root could not be started by this firmware;
// "" is nothing. Unlike inspect it takes a boot.cfg that another imgupdate wrote.
// What GRUB needs is compared with the kernel image.
func (e *esp) unstartable(s *Slot, firmware string) string {
	damage := cmp.Or(e.inspectImage(s), e.wrongRoot(s))
	if damage != "" || firmware == "uefi" {
		return damage
	}
	return e.inspectBIOS(s, true)
}

func (e *esp) inspectImage(s *Slot) string {
	found, err := e.find(s.ID())
	if err != nil || len(found) == 0 {
		return "its kernel image is not on the EFI partition"
	}
	name := e.path(bootentry.Dir, found[0].File())
	f, err := os.Open(name)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Sprintf("its kernel image cannot be read: %v", err)
	}
	if s.UKI != "" && hex.EncodeToString(h.Sum(nil)) != s.UKI {
		return "its kernel image on the EFI partition is damaged"
	}
	return ""
}

// counted is what the boot loaders' counters say.
func (e *esp) counted(id string) string {
	if found, err := e.find(id); err == nil && len(found) > 0 && found[0].Counted {
		if found[0].Done > 0 {
			return fmt.Sprintf("systemd-boot started it %d times, %d were left", found[0].Done, found[0].Left)
		}
	}
	if env, err := e.env(); err == nil && env[bootentry.EnvTry] == id {
		if left, err := strconv.Atoi(env[bootentry.EnvLeft]); err == nil && left < bootentry.Tries {
			return fmt.Sprintf("GRUB started it %d times, %d were left", bootentry.Tries-left, left)
		}
	}
	return ""
}
