package ipmi

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/yamlfile"
)

// Quirks is how one BMC differs from the specification, and how long it may
// take. Durations are written as "1m30s".
type Quirks struct {
	// CipherSuites are tried in this order: 3, 8, 12 and 17 are possible. The
	// others leave something unsigned or unencrypted.
	CipherSuites []int `yaml:"cipher_suites"`
	// RequestWait is how long one request, sent again each second, may go
	// unanswered.
	RequestWait time.Duration `yaml:"request_wait"`
	// Settle is the pause between the two times that a BMC must say off.
	Settle time.Duration `yaml:"settle"`
	// OnWait and OffWait are how long the BMC may take until it says so.
	OnWait  time.Duration `yaml:"on_wait"`
	OffWait time.Duration `yaml:"off_wait"`

	NoPersistent bool `yaml:"no_persistent"` // boot devices hold for one start only
	NoUEFI       bool `yaml:"no_uefi"`       // the UEFI flag is dropped
	Unreadable   bool `yaml:"unreadable"`    // boot flags can be set but not read
	DeviceOnly   bool `yaml:"device_only"`   // of the boot flags, only the device is read back
	// KeepBootFlags tells the BMC not to drop boot flags after a minute. A BMC
	// that does not know this is not asked twice.
	KeepBootFlags bool `yaml:"keep_boot_flags"`
	// UEFIDisk is the boot device number for a disk under UEFI; 0 means 2, the
	// specification's.
	UEFIDisk int `yaml:"uefi_disk"`

	NoShutdown bool `yaml:"no_shutdown"` // the power button cannot be pressed
	// SOLEnable switches serial over LAN on before it is used.
	SOLEnable bool `yaml:"sol_enable"`
	// SOLPause is how long a console that somebody took is left to them; it
	// doubles each time, up to sixteenfold.
	SOLPause time.Duration `yaml:"sol_pause"`
}

// signed are the cipher suites with signatures and AES (IPMI 2.0, table 22-20).
var signed = []int{3, 8, 12, 17}

//go:embed quirks.yaml
var quirksYAML []byte

// vendor is an entry of quirks.yaml.
type vendor struct {
	Name         string
	Manufacturer uint32
	Product      *uint16
	Quirks       yaml.Node
}

// vendors is the table. It is part of the program, so it is right.
var vendors = sync.OnceValue(func() []vendor {
	var v []vendor
	if err := yaml.Unmarshal(quirksYAML, &v); err != nil {
		panic(err)
	}
	return v
})

// known is what the table says of a BMC.
func known(manufacturer uint32, product uint16) Quirks {
	var q Quirks
	for i, v := range vendors() {
		if i == 0 || v.Manufacturer == manufacturer && (v.Product == nil || *v.Product == product) {
			if err := v.Quirks.Decode(&q); err != nil {
				panic(err)
			}
		}
	}
	return q
}

// defaults is what the table says of every BMC.
func defaults() Quirks { return known(0, 0) }

// ParseQuirks reads a YAML mapping with some of the keys of [Quirks], for
// Config.Adjust: the keys that are there replace what the table says. Errors
// are bad input and name path, where the text is from.
func ParseQuirks(path string, text []byte) (func(*Quirks), error) {
	q := defaults()
	f, err := yamlfile.Parse(path, text, &q)
	if err != nil {
		return nil, err
	}
	if key, err := q.check(); err != nil {
		return nil, f.Errorf([]any{key}, "%s: %v", key, err)
	}
	return func(q *Quirks) { _ = yaml.Unmarshal(text, q) }, nil
}

// longest bounds every wait of a quirk: nothing that is told to wait longer is
// meant so.
const longest = time.Hour

// check names the first key that has no possible value.
func (q *Quirks) check() (key string, err error) {
	if len(q.CipherSuites) == 0 {
		return "cipher_suites", errors.New("empty")
	}
	for _, s := range q.CipherSuites {
		if !slices.Contains(signed, s) {
			return "cipher_suites", fmt.Errorf("%d: expected one of %v", s, signed)
		}
	}
	for _, x := range []struct {
		key string
		d   time.Duration
	}{{"request_wait", q.RequestWait}, {"settle", q.Settle}, {"on_wait", q.OnWait}, {"off_wait", q.OffWait}, {"sol_pause", q.SOLPause}} {
		if x.d <= 0 || x.d > longest {
			return x.key, fmt.Errorf("%v: expected more than 0 and at most %v", x.d, longest)
		}
	}
	if q.UEFIDisk < 0 || q.UEFIDisk > 15 {
		return "uefi_disk", fmt.Errorf("%d: expected 0 to 15", q.UEFIDisk)
	}
	return "", nil
}
