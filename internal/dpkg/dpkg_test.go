package dpkg

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInstalled(t *testing.T) {
	const status = `Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13.dfsg-1
Description: compression
 Version: not this one

Package: gone
Status: deinstall ok config-files
Version: 1

Package: bash
Version: 5.2
Architecture: amd64
Status: hold ok installed`
	got, err := Installed(strings.NewReader(status))
	want := []Package{{"bash", "5.2", "amd64"}, {"zlib1g", "1:1.2.13.dfsg-1", "amd64"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("Installed (-want +got): %v\n%s", err, d)
	}
	// As JSON, none is a list too.
	if got, err := Installed(strings.NewReader("")); got == nil || len(got) > 0 || err != nil {
		t.Errorf("Installed of an empty database = %#v, %v; want an empty list", got, err)
	}
	if _, err := Installed(strings.NewReader(strings.Repeat("x", maxLine+1))); err == nil {
		t.Error("an endless line is no error")
	}
}
