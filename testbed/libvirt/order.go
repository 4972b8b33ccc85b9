package libvirt

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"goldsmith/testbed"
)

// bootable is a device of a domain that it may start from.
type bootable struct {
	Key   string // a disk's target or a card's hardware address
	Alias string // its name in a running QEMU; "" while it is off
	Kind  testbed.Device
	Order int // its place, 0 means none
}

// layout is what a domain's XML says about what it starts from.
type layout struct {
	Devices []bootable
	cuts    [][2]int64       // the elements that say so
	inserts map[string]int64 // where to say so of a device
}

// Firmware and devices of a domain's XML, as far as they concern us
// (https://libvirt.org/formatdomain.html).
type (
	bootElement struct {
		Dev   string `xml:"dev,attr"`
		Order int    `xml:"order,attr"`
	}
	deviceElement struct {
		Device string `xml:"device,attr"`
		Target struct {
			Dev string `xml:"dev,attr"`
		} `xml:"target"`
		MAC struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		ROM struct {
			Enabled string `xml:"enabled,attr"`
		} `xml:"rom"`
		Alias struct {
			Name string `xml:"name,attr"`
		} `xml:"alias"`
		ReadOnly *struct{}   `xml:"readonly"`
		Boot     bootElement `xml:"boot"`
	}
)

// readLayout reads a domain's XML. Devices without a place get one as libvirt
// gives it to them: by the kinds that <os> names, disks only otherwise.
func readLayout(desc string) (layout, error) {
	l := layout{inserts: map[string]int64{}}
	var kinds []testbed.Device // of <os>
	d := xml.NewDecoder(strings.NewReader(desc))
	var path []string
	for {
		start := d.InputOffset()
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return layout{}, fmt.Errorf("domain's XML: %w", err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			path = append(path, e.Name.Local)
			switch strings.Join(path, "/") {
			case "domain/os/boot":
				kinds = append(kinds, osKinds[attr(e, "dev")])
				if err := d.Skip(); err != nil {
					return layout{}, err
				}
				path = path[:2]
				l.cuts = append(l.cuts, [2]int64{start, d.InputOffset()})
			case "domain/devices/disk", "domain/devices/interface":
				if err := l.device(d, desc, e, start); err != nil {
					return layout{}, err
				}
				path = path[:2]
			}
		case xml.EndElement:
			path = path[:len(path)-1]
		}
	}
	l.fill(kinds)
	return l, nil
}

// osKinds are the words of <os><boot dev=”/>.
var osKinds = map[string]testbed.Device{"hd": testbed.FromDisk, "cdrom": testbed.FromCD, "network": testbed.FromNetwork}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// device notes one device, which begins at an offset of desc.
func (l *layout) device(d *xml.Decoder, desc string, e xml.StartElement, start int64) error {
	var x deviceElement
	if err := d.DecodeElement(&x, &e); err != nil {
		return fmt.Errorf("domain's XML: %w", err)
	}
	b := bootable{Key: cmp.Or(x.Target.Dev, x.MAC.Address), Alias: x.Alias.Name, Order: x.Boot.Order}
	switch {
	case e.Name.Local == "interface":
		if x.ROM.Enabled == "no" {
			return nil
		}
		b.Kind, b.Key = testbed.FromNetwork, x.MAC.Address
	case x.Device == "cdrom":
		b.Kind = testbed.FromCD
	case (x.Device == "disk" || x.Device == "") && x.ReadOnly == nil:
		b.Kind = testbed.FromDisk
	default:
		return nil
	}
	end := d.InputOffset()
	text := desc[start:end]
	at := strings.LastIndex(text, "</")
	if at < 0 || b.Key == "" {
		return nil // it has neither target nor address
	}
	l.Devices = append(l.Devices, b)
	l.inserts[b.Key] = start + int64(at)
	if i := strings.Index(text, "<boot "); i >= 0 {
		n := strings.Index(text[i:], ">")
		l.cuts = append(l.cuts, [2]int64{start + int64(i), start + int64(i+n+1)})
	}
	return nil
}

// fill gives places where no device has one.
func (l *layout) fill(kinds []testbed.Device) {
	if slices.ContainsFunc(l.Devices, func(b bootable) bool { return b.Order > 0 }) {
		return
	}
	if len(kinds) == 0 {
		kinds = []testbed.Device{testbed.FromDisk}
	}
	n := 0
	for _, kind := range kinds {
		for i, b := range l.Devices {
			if b.Kind == kind && b.Order == 0 {
				n++
				l.Devices[i].Order = n
			}
		}
	}
}

// has tells whether something of the kind is there.
func (l layout) has(kind testbed.Device) bool {
	return slices.ContainsFunc(l.Devices, func(b bootable) bool { return b.Kind == kind })
}

// orders gives every device its place where the kind is what is started from,
// in front of the plain order; "" is the plain order itself.
func orders(plain []bootable, kind testbed.Device) map[string]int {
	sorted := slices.Clone(plain)
	last := len(plain) + 1
	rank := func(b bootable) int {
		switch {
		case b.Kind == kind:
			return cmp.Or(b.Order, last) - 2*last
		default:
			return b.Order
		}
	}
	slices.SortStableFunc(sorted, func(a, b bootable) int { return cmp.Compare(rank(a), rank(b)) })
	places := map[string]int{}
	for _, b := range sorted {
		if b.Order > 0 || b.Kind == kind {
			places[b.Key] = len(places) + 1
		}
	}
	return places
}

// rewrite returns the XML with the places that are given, and no others.
func (l layout) rewrite(desc string, places map[string]int) string {
	type edit struct {
		from, to int64
		text     string
	}
	var edits []edit
	for _, c := range l.cuts {
		edits = append(edits, edit{c[0], c[1], ""})
	}
	for key, place := range places {
		if at, ok := l.inserts[key]; ok {
			edits = append(edits, edit{at, at, fmt.Sprintf("<boot order='%d'/>", place)})
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	var out strings.Builder
	done := int64(0)
	for _, e := range edits {
		out.WriteString(desc[done:e.from] + e.text)
		done = e.to
	}
	return out.String() + desc[done:]
}

// firmwareOf is what the domain starts with: UEFI where a loader in flash, or
// libvirt's choice of one, is named.
func firmwareOf(desc string) testbed.Firmware {
	var d struct {
		OS struct {
			Firmware string `xml:"firmware,attr"`
			Loader   struct {
				Type string `xml:"type,attr"`
			} `xml:"loader"`
		} `xml:"os"`
	}
	if xml.Unmarshal([]byte(desc), &d) == nil && (d.OS.Firmware == "efi" || d.OS.Loader.Type == "pflash") {
		return testbed.UEFI
	}
	return testbed.BIOS
}
