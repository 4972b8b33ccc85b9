package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"regexp"
	"slices"

	"goldsmith/internal/command"
	"goldsmith/internal/size"
	"goldsmith/internal/store"
	"goldsmith/internal/yamlfile"
	"goldsmith/testbed"
)

// APIVersion is the inventory file's apiVersion.
const APIVersion = "goldsmith/v1"

// File is an inventory file (docs/formats.md).
type File struct {
	APIVersion string `yaml:"apiVersion"`
	// Cap is how many tasks may run at once on all nodes; 0 means DefaultCap.
	Cap      int
	Networks []NetworkSpec
	Nodes    []Spec

	yaml *yamlfile.File
}

// DefaultCap bounds the tasks that run at once.
const DefaultCap = 10

// NetworkSpec is a network that nodes are in.
type NetworkSpec struct {
	Name string
	// IPv4 is the network, First and Last the addresses that nodes are given.
	IPv4        string `yaml:"ipv4"`
	First, Last string
	// IPv6 is a /48 or /64, or empty: then one of RFC 4193 is made, once.
	IPv6 string `yaml:"ipv6"`
	// Interface and Server are imgpipe's network device there, and its address.
	// Empty: nothing is served in this network.
	Interface string
	Server    string
}

// Bytes is a size in bytes; in the file it may have a unit.
type Bytes = size.Bytes

// Spec is a node as it is declared. Sizes are in bytes in JSON; the file may
// have units.
type Spec struct {
	Name    string   `json:"name"`
	Arch    string   `json:"arch,omitempty"` // as Debian calls it; empty means amd64
	CPUs    int      `yaml:"cpus" json:"cpus,omitempty"`
	Memory  Bytes    `json:"memory,omitempty"`
	Disks   []Bytes  `json:"disks,omitempty"`
	Tags    []string `json:"tags,omitempty"`
	Network string   `json:"network,omitempty"` // one of the file's; empty means the first
	// MACs are the hardware addresses of its network cards, the one that it
	// starts from first.
	MACs     []string         `yaml:"macs" json:"macs,omitempty"`
	Firmware testbed.Firmware `json:"firmware,omitempty"` // empty means UEFI
	// Boot is "local", from its disk, or "network", the kernel of the image
	// that it is assigned from the network at every start; empty means local.
	Boot     string  `json:"boot,omitempty"`
	BMC      BMC     `yaml:"bmc" json:"bmc"`
	Storage  Storage `json:"storage"`
	Recovery []Rule  `json:"recovery,omitempty"` // nil means DefaultPolicy
}

// BMC is how a node's power is held.
type BMC struct {
	Driver  string `json:"driver"`            // ipmi
	Address string `json:"address,omitempty"` // host or host:port; IPMI's port is 623
	User    string `json:"user,omitempty"`
	// PasswordFile holds the password, its first line; the password itself is
	// never kept. Relative to the inventory file.
	PasswordFile string `yaml:"password-file" json:"password_file,omitempty"`
	// QuirksFile says what this controller does otherwise than its vendor's
	// others (testbed/ipmi, ParseQuirks); empty means nothing. Relative to the
	// inventory file.
	QuirksFile string `yaml:"quirks-file" json:"quirks_file,omitempty"`
}

// Storage is what a node's disks are to be made into.
type Storage struct {
	Level string `json:"level,omitempty"` // single or raid1; empty means single
	Disks int    `json:"disks,omitempty"` // at least so many; 0 means what the level needs
	Size  Bytes  `json:"size,omitempty"`  // of each disk, at least
	Hints Hints  `json:"hints,omitzero"`  // which disks may be taken
}

// Hints choose disks: all that are given must be true of one (internal/deploy,
// Hints). The zero value takes any.
type Hints struct {
	Serial     string `json:"serial,omitempty"`
	WWN        string `yaml:"wwn" json:"wwn,omitempty"`
	Model      string `json:"model,omitempty"` // a part of it
	Rotational *bool  `json:"rotational,omitempty"`
	Size       Bytes  `json:"size,omitempty"` // exactly
}

// The ways to start.
const (
	BootLocal   = "local"
	BootNetwork = "network"
)

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Load reads and checks an inventory file. Errors name the file and the line.
func Load(file string) (*File, error) {
	f := &File{}
	y, err := yamlfile.Read(file, f)
	if err != nil {
		return nil, err
	}
	f.yaml = y
	return f, f.check(filepath.Dir(file))
}

func (f *File) check(dir string) error {
	if f.APIVersion != APIVersion {
		return f.yaml.Errorf([]any{"apiVersion"}, "apiVersion %q: this program reads %q", f.APIVersion, APIVersion)
	}
	if f.Cap < 0 {
		return f.yaml.Errorf([]any{"cap"}, "cap %d: expected a number of tasks", f.Cap)
	}
	networks := map[string]bool{}
	for i, n := range f.Networks {
		if _, err := n.parse(); err != nil {
			return f.yaml.Errorf([]any{"networks", i}, "network %s: %v", n.Name, err)
		}
		if networks[n.Name] {
			return f.yaml.Errorf([]any{"networks", i, "name"}, "network %s: there are two", n.Name)
		}
		networks[n.Name] = true
	}
	names, macs := map[string]bool{}, map[string]string{}
	for i := range f.Nodes {
		s := &f.Nodes[i]
		bad := func(key, format string, args ...any) error {
			return f.yaml.Errorf([]any{"nodes", i, key}, "node %s: %s", s.Name, fmt.Sprintf(format, args...))
		}
		if names[s.Name] {
			return bad("name", "there are two")
		}
		names[s.Name] = true
		if s.Network == "" && len(f.Networks) > 0 {
			s.Network = f.Networks[0].Name
		}
		if !networks[s.Network] {
			return bad("network", "network %q is not in the file", s.Network)
		}
		for _, p := range []*string{&s.BMC.PasswordFile, &s.BMC.QuirksFile} {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(dir, *p)
			}
		}
		if key, err := s.normalise(); err != nil {
			return bad(key, "%v", err)
		}
		for _, m := range s.MACs {
			if other, taken := macs[m]; taken {
				return bad("macs", "%s is also node %s's", m, other)
			}
			macs[m] = s.Name
		}
	}
	return nil
}

// normalise fills in what is left out and checks the rest; with an error comes
// the key that it is about.
func (s *Spec) normalise() (key string, err error) {
	if !nameRE.MatchString(s.Name) {
		return "name", fmt.Errorf("a name is a host name: lower case letters, digits and '-'")
	}
	if s.Arch == "" {
		s.Arch = "amd64"
	}
	for i, m := range s.MACs {
		hw, err := net.ParseMAC(m)
		if err != nil || len(hw) != 6 {
			return "macs", fmt.Errorf("%q is not a hardware address such as 52:54:00:12:34:56", m)
		}
		s.MACs[i] = hw.String()
	}
	if s.Boot == "" {
		s.Boot = BootLocal
	}
	if s.Firmware == "" {
		s.Firmware = testbed.UEFI
	}
	if s.Storage.Level == "" {
		s.Storage.Level = "single"
	}
	switch {
	case len(s.MACs) == 0:
		return "macs", fmt.Errorf("macs is missing: without the hardware address of its card a node cannot be told from others")
	case s.Boot != BootLocal && s.Boot != BootNetwork:
		return "boot", fmt.Errorf("boot %q: expected %s or %s", s.Boot, BootLocal, BootNetwork)
	case s.Firmware != testbed.UEFI && s.Firmware != testbed.BIOS:
		return "firmware", fmt.Errorf("firmware %q: expected uefi or bios", s.Firmware)
	case s.BMC.Driver != "ipmi":
		return "bmc", fmt.Errorf("bmc.driver %q: expected ipmi", s.BMC.Driver)
	case s.BMC.Address == "" || s.BMC.User == "" || s.BMC.PasswordFile == "":
		return "bmc", fmt.Errorf("bmc needs address, user and password-file")
	case s.Storage.Level != "single" && s.Storage.Level != "raid1":
		return "storage", fmt.Errorf("storage.level %q: expected single or raid1", s.Storage.Level)
	}
	for i, r := range s.Recovery {
		if err := r.check(); err != nil {
			return "recovery", fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return "", nil
}

// Apply makes the inventory hold what the file declares. Nodes that a file
// declared earlier and this one does not have are removed, unless somebody has
// them: then nothing is changed. Discovered nodes stay.
func (v *Inventory) Apply(ctx context.Context, f *File, who string) error {
	return v.db.Tx(ctx, func(tx *store.Tx) error {
		old, err := selectNodes(ctx, tx, "")
		if err != nil {
			return err
		}
		have := map[string]*Node{}
		for _, n := range old {
			have[n.Name] = n
		}
		for _, s := range f.Nodes {
			if err := v.put(ctx, tx, have[s.Name], s, true, who); err != nil {
				return err
			}
			delete(have, s.Name)
		}
		for _, name := range slices.Sorted(maps.Keys(have)) {
			if n := have[name]; n.Declared || f.declares(n.Spec.MACs) {
				if err := v.remove(ctx, tx, n, who); err != nil {
					return err
				}
			}
		}
		return v.setNetworks(ctx, tx, f)
	})
}

// declares tells whether one of the cards belongs to a node of the file.
func (f *File) declares(macs []string) bool {
	return slices.ContainsFunc(f.Nodes, func(s Spec) bool {
		return slices.ContainsFunc(s.MACs, func(m string) bool { return slices.Contains(macs, m) })
	})
}

// remove forgets a node that nobody has; what happened to it is kept.
func (v *Inventory) remove(ctx context.Context, tx *store.Tx, n *Node, who string) error {
	if n.Lease != nil {
		return command.Busy(fmt.Errorf("node %s: %s has it", n.Name, n.Lease.Holder), "wait for it, or end its lease with 'imgpipe node release'")
	}
	if err := tx.One(ctx, "DELETE FROM node WHERE name = ?", n.Name); err != nil {
		return err
	}
	return v.event(ctx, tx, n.Name, "operator", who, "removed")
}

func (v *Inventory) put(ctx context.Context, tx *store.Tx, old *Node, s Spec, declared bool, who string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if old == nil {
		_, err := tx.Exec(ctx, "INSERT INTO node (name, spec, declared, state, since) VALUES (?, ?, ?, ?, ?)",
			s.Name, string(text), declared, Discovered, store.Millis(v.now()))
		if err != nil {
			return err
		}
		return v.event(ctx, tx, s.Name, "operator", who, "added")
	}
	before, err := json.Marshal(old.Spec)
	if err != nil || string(before) == string(text) && old.Declared == declared {
		return err
	}
	if err := tx.One(ctx, "UPDATE node SET spec = ?, declared = ? WHERE name = ?", string(text), declared, s.Name); err != nil {
		return err
	}
	return v.event(ctx, tx, s.Name, "operator", who, "declared anew")
}
