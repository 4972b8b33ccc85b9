package libvirt

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"path/filepath"
	"text/template"

	"goldsmith/testbed"
)

// namePrefix begins the libvirt name of every machine of ours.
const namePrefix = "goldsmith-"

// Names in a machine's directory.
const (
	diskName    = "disk.qcow2"
	nvramName   = "nvram.fd"
	consoleName = "console.log"
)

// domain is what the XML is made from.
type domain struct {
	Config
	Domain     string // libvirt's name
	Lock       string // the owner's lock file
	KVM        bool
	MAC        string
	Code, Vars string // UEFI firmware; empty for BIOS
	UID, GID   int    // whom QEMU runs as
}

func (d domain) File(name string) string { return filepath.Join(d.Dir, name) }
func (d domain) Disk() string            { return d.File(diskName) }
func (d domain) NVRAM() string           { return d.File(nvramName) }
func (d domain) ConsoleLog() string      { return d.File(consoleName) }

// ownerNamespace names the metadata by which Sweep finds the owner.
const ownerNamespace = "https://goldsmith.example/owner/1"

// The network card has no boot ROM, because nothing here boots from the
// network, and there is always a random number generator: a guest without one
// waits for a minute at its first boot. The console's log grows over power
// cycles; it begins empty because the directory does. QEMU runs as the user who
// defines the machine, whose files it needs; a system's libvirtd would have a
// user of its own, who cannot look into our directories.
var domainTemplate = template.Must(template.New("domain").Funcs(template.FuncMap{"x": escape}).Parse(
	`<domain type='{{if .KVM}}kvm{{else}}qemu{{end}}'>
<name>{{x .Domain}}</name>
<metadata><gs:owner xmlns:gs='` + ownerNamespace + `' lock='{{x .Lock}}' dir='{{x .Dir}}'/></metadata>
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
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='unsafe' discard='unmap'/>
<source file='{{x .Disk}}'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>{{if .Seed}}
<disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{{x .Seed}}'/><target dev='vdb' bus='virtio'/><readonly/></disk>{{end}}
<interface type='network'><mac address='{{x .MAC}}'/><source network='{{x .Network}}'/>
<model type='virtio'/><rom enabled='no'/></interface>
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

// ownerOf reads the owner out of a domain's XML. ok is false when the domain
// has none: it is not ours.
func ownerOf(desc string) (lock, dir string, ok bool) {
	var d struct {
		Metadata struct {
			Owner struct {
				Lock string `xml:"lock,attr"`
				Dir  string `xml:"dir,attr"`
			} `xml:"https://goldsmith.example/owner/1 owner"`
		} `xml:"metadata"`
	}
	if err := xml.Unmarshal([]byte(desc), &d); err != nil {
		return "", "", false
	}
	o := d.Metadata.Owner
	return o.Lock, o.Dir, o.Lock != "" && o.Dir != ""
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
	for _, p := range []*string{&c.Dir, &c.Image, &c.Seed} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, err
		}
		*p = abs
	}
	if c.ImageFormat == "" {
		c.ImageFormat = "raw"
	}
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 1024
	}
	return c, nil
}
