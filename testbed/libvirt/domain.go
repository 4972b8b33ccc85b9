package libvirt

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"text/template"

	"goldsmith/testbed"
)

// namePrefix begins the libvirt name of every machine of ours.
const namePrefix = "goldsmith-"

// Names in a machine's directory.
const (
	diskName    = "disk%s.qcow2" // "" and then 1, 2, …
	nvramName   = "nvram.fd"
	consoleName = "console.log"
)

// ownFile is what Release removes of a machine's directory.
var ownFile = regexp.MustCompile(`^(disk[0-9]*\.qcow2|nvram\.fd)$`)

// domain is what the XML is made from.
type domain struct {
	Config
	Domain     string // libvirt's name
	Lock       string // the owner's lock file
	KVM        bool
	Code, Vars string // UEFI firmware; empty for BIOS
	UID, GID   int    // whom QEMU runs as
	All        []disk
}

// disk is a disk of the XML.
type disk struct {
	Disk
	Source string // the file, or the volume in the pool
	Type   string // what is in it, "raw" or "qcow2"
	Target string
	Own    bool // it holds what the machine writes; otherwise it is only read
	Order  int  // among what the machine starts from, 0 means that it does not
}

func (d domain) NVRAM() string      { return filepath.Join(d.Dir, nvramName) }
func (d domain) ConsoleLog() string { return filepath.Join(d.Dir, consoleName) }

// disks are the machine's: the first, the seed, the others.
func (c Config) disks(dom string) []disk {
	var all []disk
	add := func(d Disk, own bool) {
		x := disk{Disk: d, Own: own, Type: d.Format, Target: "vd" + string(rune('a'+len(all)))}
		if d.CD {
			x.Target = "sd" + string(rune('a'+len(all)))
		}
		number := ""
		if len(all) > 0 {
			number = strconv.Itoa(len(all))
		}
		switch {
		case c.Pool != "":
			x.Source = dom + "_" + x.Target
		case own:
			x.Source, x.Type = filepath.Join(c.Dir, fmt.Sprintf(diskName, number)), "qcow2"
		default:
			x.Source = d.Image
		}
		all = append(all, x)
	}
	add(Disk{Image: c.Image, Format: c.ImageFormat, Size: c.DiskSize, Serial: c.Serial}, true)
	if c.Seed != "" {
		add(Disk{Image: c.Seed, Format: "raw"}, false)
	}
	for _, d := range c.Disks {
		add(d, !d.CD)
	}
	order := 0
	for _, cd := range []bool{false, true} {
		for i := range all {
			if all[i].CD == cd && (all[i].Own || cd) {
				order++
				all[i].Order = order
			}
		}
	}
	return all
}

// ownerNamespace names the metadata by which Sweep finds the owner.
const ownerNamespace = "https://goldsmith.example/owner/1"

// A network card has a boot ROM only where the machine may start from it, and
// there is always a random number generator: a guest without one
// waits for a minute at its first boot. The console's log grows over power
// cycles; it begins empty because the directory does. QEMU runs as the user who
// defines the machine, whose files it needs; a system's libvirtd would have a
// user of its own, who cannot look into our directories.
var domainTemplate = template.Must(template.New("domain").Funcs(template.FuncMap{"x": escape}).Parse(
	`<domain type='{{if .KVM}}kvm{{else}}qemu{{end}}'>
<name>{{x .Domain}}</name>
<metadata><gs:owner xmlns:gs='` + ownerNamespace + `' lock='{{x .Lock}}' dir='{{x .Dir}}' pool='{{x .Pool}}'/></metadata>
<memory unit='MiB'>{{.MemoryMiB}}</memory>
<vcpu>{{.CPUs}}</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>{{if .Code}}
<loader readonly='yes' type='pflash'>{{x .Code}}</loader>
<nvram template='{{x .Vars}}'>{{x .NVRAM}}</nvram>{{end}}
</os>
<features><acpi/><apic/></features>
<cpu mode='maximum'/>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
{{range .All}}<disk type='{{if $.Pool}}volume{{else}}file{{end}}' device='{{if .CD}}cdrom{{else}}disk{{end}}'>
<driver name='qemu' type='{{x .Type}}'{{if .Own}} cache='unsafe' discard='unmap'{{end}}/>
<source {{if $.Pool}}pool='{{x $.Pool}}' volume{{else}}file{{end}}='{{x .Source}}'/>
<target dev='{{.Target}}' bus='{{if .CD}}sata{{else}}virtio{{end}}'/>{{if not .Own}}<readonly/>{{end}}
{{if .Serial}}<serial>{{x .Serial}}</serial>{{end}}{{if .Order}}<boot order='{{.Order}}'/>{{end}}</disk>
{{end}}{{range $i, $n := .NICs}}<interface type='network'><mac address='{{x .MAC}}'/><source network='{{x .Network}}'/>
<model type='virtio'/>{{if .Boot}}<boot order='{{$.NICOrder $i}}'/>{{else}}<rom enabled='no'/>{{end}}</interface>
{{end}}<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<serial type='pty'><log file='{{x .ConsoleLog}}' append='on'/><target port='0'/></serial>
<console type='pty'><target type='serial' port='0'/></console>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<memballoon model='none'/>
</devices>
<seclabel type='static' model='dac' relabel='yes'><label>+{{.UID}}:+{{.GID}}</label></seclabel>
</domain>
`))

func escape(s string) (string, error) {
	var b bytes.Buffer
	err := xml.EscapeText(&b, []byte(s))
	return b.String(), err
}

func (d domain) xml() (string, error) {
	var b bytes.Buffer
	err := domainTemplate.Execute(&b, d)
	return b.String(), err
}

// ownership is what a domain's XML says of its owner.
type ownership struct {
	Lock string `xml:"lock,attr"`
	Dir  string `xml:"dir,attr"`
	Pool string `xml:"pool,attr"` // where its volumes are; "" means that it has none
}

// ownerOf reads the owner out of a domain's XML. ok is false when the domain
// has none: it is not ours.
func ownerOf(desc string) (o ownership, ok bool) {
	var d struct {
		Metadata struct {
			Owner ownership `xml:"https://goldsmith.example/owner/1 owner"`
		} `xml:"metadata"`
	}
	if err := xml.Unmarshal([]byte(desc), &d); err != nil {
		return ownership{}, false
	}
	o = d.Metadata.Owner
	return o, o.Lock != "" && o.Dir != ""
}

// Config describes a machine. Name, Dir and Image must be set.
type Config struct {
	// Name is unique on the libvirtd: letters, digits, dots and dashes. The
	// machine's libvirt name has "goldsmith-" in front.
	Name string
	// Dir holds the machine's own files: what it writes to its disk, its UEFI
	// variables, its console's text. It is made when it is missing. Release
	// removes the machine's files, but the console's text, and no others.
	Dir string
	// Image is the disk that the machine starts with. It is only read, and
	// must not change while the machine exists.
	Image       string
	ImageFormat string // "raw" or "qcow2"; "" means raw
	// DiskSize in bytes makes the disk larger than the image; 0 means the
	// image's size.
	DiskSize int64
	// Seed is a raw disk that tells the machine who it is, read-only; "" means
	// none.
	Seed      string
	Firmware  testbed.Firmware // "" means UEFI
	CPUs      int              // 0 means 2
	MemoryMiB int              // 0 means 1024
	// Accelerator is testbed.KVM or testbed.TCG; "" means what
	// testbed.Accelerator says.
	Accelerator string
	// Network is the libvirt network; "" means the host's: that of the bed, or
	// "default".
	Network string
	// Serial is the first disk's serial number, by which it is found in
	// /dev/disk/by-id; "" means none.
	Serial string
	// Disks are more disks.
	Disks []Disk
	// NICs are the machine's network cards; none means one, in Network, from
	// which the machine does not start.
	NICs []NIC
	// Isolated machines have no network card; NICs must be empty.
	Isolated bool
	// Pool is a libvirt storage pool that the images are copied to over the
	// API, and from which the machine works. "" means that QEMU reads the files
	// themselves, and writes to Dir.
	Pool string
}

// Disk is one more disk of a machine.
type Disk struct {
	Image  string // what it begins as, only read; "" means an empty disk of Size
	Format string // "raw" or "qcow2"; "" means raw
	Size   int64  // in bytes; 0 means the image's
	Serial string // as Config.Serial
	CD     bool   // a CD-ROM of Image
}

// NIC is one of a machine's network cards.
type NIC struct {
	Network string // the libvirt network; "" means Config.Network
	MAC     string // "" means one of ours
	Boot    bool   // the machine may start from it
}

// NICOrder is the i-th card's place among what the machine starts from.
func (d domain) NICOrder(i int) int {
	order := 1
	for _, k := range d.All {
		order = max(order, k.Order+1)
	}
	for _, n := range d.NICs[:i] {
		if n.Boot {
			order++
		}
	}
	return order
}

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" || c.Dir == "" || c.Image == "" {
		return c, fmt.Errorf("machine %q: name, directory and image must be given", c.Name)
	}
	for _, r := range c.Name {
		if !(r == '-' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') {
			return c, fmt.Errorf("machine %q: a name has letters, digits, dots and dashes only", c.Name)
		}
	}
	c.Disks = append([]Disk(nil), c.Disks...)
	paths := []*string{&c.Dir, &c.Image, &c.Seed}
	for i := range c.Disks {
		d := &c.Disks[i]
		if d.Image == "" && (d.CD || d.Size <= 0) {
			return c, fmt.Errorf("machine %q: disk %d: neither image nor size", c.Name, i)
		}
		d.Format = cmp.Or(d.Format, "raw")
		paths = append(paths, &d.Image)
	}
	switch {
	case c.Isolated && len(c.NICs) > 0:
		return c, fmt.Errorf("machine %q: network cards of a machine that is to have none", c.Name)
	case len(c.NICs) == 0 && !c.Isolated:
		c.NICs = []NIC{{}}
	}
	c.NICs = append([]NIC(nil), c.NICs...)
	for i := range c.NICs {
		c.NICs[i].Network = cmp.Or(c.NICs[i].Network, c.Network)
	}
	for _, p := range paths {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, err
		}
		*p = abs
	}
	c.ImageFormat = cmp.Or(c.ImageFormat, "raw")
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 1024
	}
	return c, nil
}
