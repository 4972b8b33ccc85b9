package release

import (
	"reflect"
	"strings"
	"testing"
)

func example() *Release {
	h := strings.Repeat("ab", 32)
	return &Release{
		Format: Format, Name: "demo", Version: "2", Arch: "amd64", Disk: Disk{Size: 1 << 30, SHA256: h},
		Root: &Root{Offset: 1 << 20, Size: 8192, RootHash: h, Salt: "00ff",
			UUID: "01234567-89ab-cdef-0123-456789abcdef"},
		UKI: &UKI{ID: "demo_2", Offset: 512, Size: 100, SHA256: h},
	}
}

func TestRoundTrip(t *testing.T) {
	disk := example()
	disk.Root, disk.UKI = nil, nil
	for _, r := range []*Release{example(), disk} {
		text, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(text)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("Parse(%s) = %+v, %v", text, got, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, spoil := range map[string]func(r *Release){
		"format":         func(r *Release) { r.Format = "goldsmith.release/2" },
		"name":           func(r *Release) { r.Name = "../demo" },
		"version":        func(r *Release) { r.Version = "2+3" },
		"arch":           func(r *Release) { r.Arch = "" },
		"disk":           func(r *Release) { r.Disk.SHA256 = "ab" },
		"only one":       func(r *Release) { r.UKI = nil },
		"root of":        func(r *Release) { r.Root.Size = 4095 },
		"root of 8192":   func(r *Release) { r.Root.Offset = 1<<30 - 4096 },
		"root of 4096":   func(r *Release) { r.Root.Offset, r.Root.Size = 1<<62, 4096 },
		"root_hash":      func(r *Release) { r.Root.RootHash = strings.Repeat("AB", 32) },
		"salt":           func(r *Release) { r.Root.Salt = "0" },
		"uuid":           func(r *Release) { r.Root.UUID = "x" },
		`uki of "other"`: func(r *Release) { r.UKI.ID = "other" },
		"uki of 0":       func(r *Release) { r.UKI.Size = 0 },
	} {
		r := example()
		spoil(r)
		if _, err := r.Encode(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good, _ := example().Encode()
	for _, text := range []string{"", "{}", string(good) + "{}",
		strings.Replace(string(good), `"arch"`, `"more":1,"arch"`, 1), strings.Repeat(" ", MaxSize) + string(good)} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("Parse(%.40q) took it", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	good, _ := example().Encode()
	f.Add(good)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Parse(text)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Parse(again); err != nil || !reflect.DeepEqual(back, r) {
			t.Fatalf("%s: %v", again, err)
		}
	})
}
