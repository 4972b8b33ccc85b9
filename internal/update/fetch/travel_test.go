package fetch

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Images that ci/bench-update.sh measures an update between.
var (
	oldImage = flag.String("old", "", "what runs: oci:DIRECTORY@DIGEST")
	newImage = flag.String("new", "", "what it is updated to: oci:DIRECTORY@DIGEST")
	parts    = flag.String("parts", "", "write the parts of both to this directory")
)

// TestTravel prints how many bytes travel when a machine with one image is
// updated to another: everything that is fetched, from the manifest on.
func TestTravel(t *testing.T) {
	if *oldImage == "" {
		t.Skip("no images named; ci/bench-update.sh does")
	}
	before := partsOf(t, *oldImage, "old", nil)
	dir, digest, _ := strings.Cut(strings.TrimPrefix(*newImage, "oci:"), "@")
	site := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer site.Close()
	seeds := make([]Seed, len(before))
	for i, f := range before {
		fi, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		seeds[i] = Seed{f, fi.Size()}
	}
	after := partsOf(t, site.URL+"@"+digest, "new", seeds)
	for i, f := range partsOf(t, *newImage, "whole", nil) {
		if err := same(f, after[i]); err != nil {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
}

// partsOf writes the parts of an image and prints where they came from.
func partsOf(t *testing.T, ref, name string, seeds []Seed) (out []*os.File) {
	t.Helper()
	im, err := Open(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if _, err := im.Envelopes(t.Context()); err != nil {
		t.Fatal(err)
	}
	for part, suffix := range []string{".root", ".uki"} {
		f, err := os.Create(filepath.Join(*parts, name+suffix))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		st, err := im.Write(t.Context(), Part(part), f, Options{Seeds: seeds})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s%s\t%+v\n", name, suffix, st)
		out = append(out, f)
	}
	fmt.Printf("%s fetched\t%d\tof\t%d\n", name, im.Fetched(), im.disk.Size)
	return out
}

// same compares two files from their starts.
func same(a, b *os.File) error {
	r, s := bufio.NewReaderSize(io.NewSectionReader(a, 0, 1<<40),
		1<<20), bufio.NewReaderSize(io.NewSectionReader(b, 0, 1<<40), 1<<20)
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(r, x)
		m, _ := io.ReadFull(s, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return errors.New("the parts differ")
		}
		if err != nil {
			return nil
		}
	}
}
