package ipmi

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestTable: every entry says what it may, and is laid over what counts for
// all.
func TestTable(t *testing.T) {
	t.Parallel()
	for _, v := range vendors() {
		product := uint16(0)
		if v.Product != nil {
			product = *v.Product
		}
		q := known(v.Manufacturer, product)
		if key, err := q.check(); err != nil || v.Name == "" {
			t.Errorf("%s: %s: %v", v.Name, key, err)
		}
		text, err := yamlOf(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseQuirks(v.Name, text); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	if q := known(10876, 1); q.UEFIDisk != 9 || q.Settle != 2*time.Second || !cmp.Equal(q.CipherSuites, []int{17, 3}) {
		t.Errorf("Supermicro: %+v", q)
	}
	if q := known(4753, 1); q.DeviceOnly {
		t.Error("an entry for one product counts for another")
	}
}

func TestParseQuirks(t *testing.T) {
	t.Parallel()
	adjust, err := ParseQuirks("q", []byte("cipher_suites: [3]\nsettle: 5s\nno_persistent: true\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := known(10876, 0)
	want.CipherSuites, want.Settle, want.NoPersistent = []int{3}, 5*time.Second, true
	got := known(10876, 0)
	if adjust(&got); !cmp.Equal(got, want) {
		t.Errorf("adjusted: %s", cmp.Diff(want, got))
	}
	for text, says := range map[string]string{
		"setle: 1s":           `q:1: unknown field "setle"`,
		"\noff_wait: -1s":     "q:2: off_wait: -1s: expected more than 0",
		"on_wait: 9999h":      "at most 1h",
		"cipher_suites: []":   "cipher_suites: empty",
		"cipher_suites: [17,": "q:1",
		"uefi_disk: 16":       "expected 0 to 15",
		"settle: soon":        "q:1: ",
	} {
		if _, err := ParseQuirks("q", []byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; want %q", text, err, says)
		}
	}
}
