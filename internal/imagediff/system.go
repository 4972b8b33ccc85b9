package imagediff

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"goldsmith/internal/dpkg"
	"goldsmith/internal/filelist"
	"goldsmith/internal/tree"
)

// partitions are the sizes of a disk's parts, in words. Their GUIDs are of
// their content and differ whenever that does.
func (m *Image) partitions() string {
	var out []string
	for _, p := range m.Partitions {
		out = append(out, fmt.Sprintf("%d %s %d", p.Number, p.Name, p.Size))
	}
	return strings.Join(out, ", ")
}

// commandLine is the kernel's, in which the disk's own partitions are called
// by their names: their GUIDs are digests, and differ whenever anything does. A
// root hash is the GUIDs of root and hash tree, without dashes.
func (m *Image) commandLine() string {
	line := m.Cmdline
	for _, p := range m.Partitions {
		if p.GUID != "" && p.Name != "" {
			line = strings.ReplaceAll(line, p.GUID, "<"+p.Name+">")
			line = strings.ReplaceAll(line, strings.ReplaceAll(p.GUID, "-", ""), "<"+p.Name+">")
		}
	}
	return line
}

// UnitChange is a systemd unit that differs.
type UnitChange struct {
	Name string `json:"name"`
	// Change is added, removed, enabled, disabled, masked, unmasked; changed
	// is any other change of its file, its drop-ins or what asks for it.
	Change []string `json:"change"`
}

// unit is one of systemd's units in one image (systemd.unit(5)).
type unit struct {
	files  map[string]string // the file and its drop-ins: path → digest or link
	links  map[string]bool   // of other units, and aliases
	masked bool
}

func (u *unit) exists() bool { return u != nil && (len(u.files) > 0 || u.masked) }

func (u *unit) enabled() bool { return u != nil && len(u.links) > 0 && !u.masked }

// unitTypes are the endings of units.
var unitTypes = []string{
	".service", ".socket", ".timer", ".target", ".mount", ".automount", ".path", ".slice", ".scope", ".swap", ".device",
}

func isUnit(name string) bool { return slices.Contains(unitTypes, path.Ext(name)) }

// systemUnits are the units of the system's manager, by name. /lib is /usr/lib.
func systemUnits(files []filelist.File) map[string]*unit {
	out := map[string]*unit{}
	at := func(name string) *unit {
		if out[name] == nil {
			out[name] = &unit{files: map[string]string{}, links: map[string]bool{}}
		}
		return out[name]
	}
	for _, f := range files {
		place := tree.Clean(f.Path)
		if f.Type == "dir" || !unitFile.MatchString(place) {
			continue
		}
		dir, name := path.Split(place)
		switch parent := path.Base(dir); path.Ext(parent) {
		case ".wants", ".requires", ".upholds":
			if isUnit(name) {
				at(name).links[parent] = true
			}
		case ".d":
			if owner := strings.TrimSuffix(parent, ".d"); isUnit(owner) {
				at(owner).files[parent+"/"+name] = f.SHA256 + f.Target
			}
		default:
			if !isUnit(name) {
				continue
			}
			switch target := path.Base(f.Target); {
			case f.Type != "symlink":
				if f.Size == 0 {
					at(name).masked = true
				}
				at(name).files[name+" "+path.Dir(place)] = f.SHA256
			case f.Target == "/dev/null":
				at(name).masked = true
			case target == name:
				at(name).files[name+" "+path.Dir(place)] = f.Target
			case strings.HasPrefix(place, "etc/"): // an alias, which enabling makes
				at(target).links["alias "+name] = true
			default:
				at(name).files[name+" "+path.Dir(place)] = f.Target
			}
		}
	}
	return out
}

func units(a, b *Image) []UnitChange {
	was, is := systemUnits(a.Files), systemUnits(b.Files)
	all := maps.Clone(was)
	maps.Copy(all, is)
	var out []UnitChange
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if c := was[name].change(is[name]); c != nil {
			out = append(out, UnitChange{name, c})
		}
	}
	return out
}

func (u *unit) change(now *unit) []string {
	var out []string
	add := func(was, is bool, gone, came string) {
		if was && !is {
			out = append(out, gone)
		} else if is && !was {
			out = append(out, came)
		}
	}
	add(u.exists(), now.exists(), "removed", "added")
	masked := now != nil && now.masked
	if !masked { // which says more than that it is not enabled
		add(u.enabled(), now.enabled(), "disabled", "enabled")
	}
	add(u != nil && u.masked, masked, "unmasked", "masked")
	if out == nil && u != nil && now != nil && (!maps.Equal(u.files, now.files) || !maps.Equal(u.links, now.links)) {
		out = []string{"changed"}
	}
	return out
}

// PowerChange is a file that gives whoever runs it more rights, or did: its
// set-uid and set-gid bits and capabilities in words, empty where there are
// none.
type PowerChange struct {
	Path string `json:"path"`
	A    string `json:"a"`
	B    string `json:"b"`
	// Content says that the file itself is another one.
	Content bool `json:"content,omitempty"`
}

func powers(a, b *Image) []PowerChange {
	type power struct{ what, sum string }
	list := func(files []filelist.File) map[string]power {
		out := map[string]power{}
		for _, f := range files {
			if what := powerOf(&f); what != "" {
				out[f.Path] = power{what, f.SHA256}
			}
		}
		return out
	}
	was, is := list(a.Files), list(b.Files)
	all := maps.Clone(was)
	maps.Copy(all, is)
	var out []PowerChange
	for _, p := range slices.Sorted(maps.Keys(all)) {
		x, y := was[p], is[p]
		if x != y {
			out = append(out, PowerChange{p, x.what, y.what, x.sum != "" && y.sum != "" && x.sum != y.sum})
		}
	}
	return out
}

// powerOf says what rights a file gives: "set-uid 0", "cap_net_raw".
func powerOf(f *filelist.File) string {
	if f.Type != "file" {
		return ""
	}
	var out []string
	if special := f.Mode[0]; len(f.Mode) == 4 && special&^'0' != 0 {
		if (special-'0')&4 != 0 {
			out = append(out, fmt.Sprintf("set-uid %d", f.UID))
		}
		if (special-'0')&2 != 0 {
			out = append(out, fmt.Sprintf("set-gid %d", f.GID))
		}
	}
	if c, ok := f.Xattrs["security.capability"]; ok {
		out = append(out, capabilities(c))
	}
	return strings.Join(out, ", ")
}

// capabilityNames by number (linux/capability.h).
var capabilityNames = strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap
	linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot
	sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write
	audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf
	checkpoint_restore`)

// capabilities names the permitted ones of struct vfs_cap_data.
func capabilities(b []byte) string {
	if len(b) < 12 {
		return fmt.Sprintf("capabilities %x", b)
	}
	permitted := uint64(binary.LittleEndian.Uint32(b[4:]))
	if len(b) >= 20 {
		permitted |= uint64(binary.LittleEndian.Uint32(b[12:])) << 32
	}
	var out []string
	for i := range 64 {
		if permitted&(1<<i) == 0 {
			continue
		}
		if i < len(capabilityNames) {
			out = append(out, "cap_"+capabilityNames[i])
		} else {
			out = append(out, fmt.Sprintf("cap_%d", i))
		}
	}
	return cmp.Or(strings.Join(out, " "), "no capabilities")
}

// kernelConfig compares the configurations of the newest kernels that have one.
func kernelConfig(a, b *Image) []Field {
	was, is := parseConfig(a.config()), parseConfig(b.config())
	if len(was) == 0 || len(is) == 0 {
		return nil
	}
	all := maps.Clone(was)
	maps.Copy(all, is)
	var out []Field
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x, y := cmp.Or(was[name], "n"), cmp.Or(is[name], "n")
		if x != y {
			out = append(out, Field{name, x, y})
		}
	}
	return out
}

func (m *Image) config() []byte {
	best, content := "", []byte(nil)
	for p, text := range m.text {
		if c := configFile.FindStringSubmatch(tree.Clean(p)); c != nil {
			if v := cmp.Or(c[2], c[3]); content == nil || dpkg.CompareVersions(v, best) > 0 {
				best, content = v, text
			}
		}
	}
	return content
}

// parseConfig reads the options that are set.
func parseConfig(text []byte) map[string]string {
	out := map[string]string{}
	for line := range bytes.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(string(line)), "=")
		if ok && strings.HasPrefix(name, "CONFIG_") {
			out[name] = value
		}
	}
	return out
}
