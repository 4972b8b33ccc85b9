package verity

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"goldsmith/internal/testenv"
)

// buffer is a file in memory.
type buffer []byte

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(*b)) {
		*b = append(*b, make([]byte, end-int64(len(*b)))...)
	}
	return copy((*b)[off:], p), nil
}

func content(blocks int) []byte {
	b := make([]byte, blocks*BlockSize)
	r := rand.NewChaCha8([32]byte{byte(blocks)})
	_, _ = r.Read(b)
	return b
}

var params = Params{Salt: bytes.Repeat([]byte{0x5a, 1}, 16),
	UUID: [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}}

func mustWrite(t testing.TB, data []byte, p Params) (Hash, []byte) {
	t.Helper()
	var tree buffer
	root, n, err := Write(&tree, bytesAt(data), int64(len(data)), p)
	if err != nil || n != int64(len(tree)) || n != Size(int64(len(data))) {
		t.Fatalf("wrote %d bytes, said %d, Size says %d; %v", len(tree), n, Size(int64(len(data))), err)
	}
	return root, tree
}

// veritysetup writes the same bytes, and finds no fault with ours.
func TestTool(t *testing.T) {
	testenv.Need(t, "veritysetup")
	dir := t.TempDir()
	data, theirs, ours := filepath.Join(dir, "data"), filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
	for _, c := range []struct {
		blocks int
		salt   []byte
	}{{1, params.Salt}, {2, params.Salt}, {128, params.Salt}, {129, params.Salt}, {127, nil}, {16384,
		params.Salt}, {16385, params.Salt[:5]}} {
		b := content(c.blocks)
		if err := os.WriteFile(data, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(theirs)
		root, tree := mustWrite(t, b, Params{Salt: c.salt, UUID: params.UUID})
		salt := "-"
		if c.salt != nil {
			salt = hex.EncodeToString(c.salt)
		}
		out, err := exec.Command("veritysetup", "format", "--salt", salt, "--uuid",
			"01020304-0506-0708-090a-0b0c0d0e0f10", data, theirs).CombinedOutput()
		if err != nil {
			t.Fatalf("veritysetup format: %v\n%s", err, out)
		}
		want, _ := os.ReadFile(theirs)
		if !bytes.Equal(tree, want) {
			t.Errorf("%d blocks: %d bytes are not veritysetup's %d", c.blocks, len(tree), len(want))
		}
		m := regexp.MustCompile(`Root hash:\s+([0-9a-f]{64})`).FindSubmatch(out)
		if m == nil || string(m[1]) != hex.EncodeToString(root[:]) {
			t.Errorf("%d blocks: root hash %x; veritysetup says\n%s", c.blocks, root, out)
		}
		if err := os.WriteFile(ours, tree, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("veritysetup", "verify", data, ours,
			hex.EncodeToString(root[:])).CombinedOutput(); err != nil {
			t.Errorf("%d blocks: veritysetup verify: %v\n%s", c.blocks, err, out)
		}
	}
}

func TestVerify(t *testing.T) {
	const blocks = 20000 // three levels: 157 + 2 + 1 blocks
	data := content(blocks)
	root, tree := mustWrite(t, data, params)
	for name, c := range map[string]struct {
		data, tree []int // bytes to change
		want       []Bad
	}{
		"sound": {},
		"first": {data: []int{0}, want: []Bad{{Block: 0}}},
		"three": {data: []int{len(data) - 1, 5 * BlockSize, 5*BlockSize + 7, 300 * BlockSize},
			want: []Bad{{Block: 5}, {Block: 300}, {Block: blocks - 1}}},
		"top":    {tree: []int{BlockSize}, data: []int{0}, want: []Bad{{true, 1}}},
		"middle": {tree: []int{3*BlockSize + 1}, want: []Bad{{true, 3}}},
		"leaf": {tree: []int{4*BlockSize + 9}, data: []int{3 * BlockSize, 128 * BlockSize},
			want: []Bad{{true, 4}, {Block: 128}}},
		"padding":    {tree: []int{len(tree) - 1}, want: []Bad{{true, int64(len(tree)/BlockSize) - 1}}},
		"uuid":       {tree: []int{20}}, // nothing depends on it
		"other salt": {tree: []int{90}, want: []Bad{{true, 1}}},
	} {
		d, tr := bytes.Clone(data), bytes.Clone(tree)
		for _, i := range c.data {
			d[i] ^= 0x10
		}
		for _, i := range c.tree {
			tr[i] ^= 0x10
		}
		got, err := Verify(bytesAt(d), bytesAt(tr), root)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	if bad, err := Verify(bytesAt(data[:len(data)-1]), bytesAt(tree), root); err == nil {
		t.Errorf("data cut off: %v", bad)
	}
	if bad, err := Verify(bytesAt(data), bytesAt(tree[:len(tree)-1]), root); err == nil {
		t.Errorf("tree cut off: %v", bad)
	}
	huge := bytes.Clone(tree)
	huge[76] = 15 // 2^35 blocks more
	if bad, err := Verify(bytesAt(data), bytesAt(huge), root); err == nil {
		t.Errorf("tree that claims to be huge: %v", bad)
	}
	if got := (Bad{Tree: true, Block: 3}).String() + ", " +
		(Bad{Block: 4}).String(); got != "hash tree block 3, data block 4" {
		t.Error(got)
	}
}

func TestRefusals(t *testing.T) {
	var b buffer
	for _, c := range []struct {
		size int64
		salt int
	}{{0, 0}, {-4096, 0}, {4095, 0}, {4097, 0}, {4096, 257}} {
		if _, _, err := Write(&b, bytesAt(content(2)), c.size, Params{Salt: make([]byte, c.salt)}); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	if _, _, err := Write(&b, bytesAt(content(2)), 3*BlockSize, params); err == nil ||
		!strings.Contains(err.Error(), "block 2") {
		t.Errorf("too little data: %v", err)
	}
}

func BenchmarkWrite(b *testing.B) {
	data := content(64 << 20 / BlockSize)
	b.SetBytes(int64(len(data)))
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	for b.Loop() {
		mustWrite(b, data, params)
	}
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	b.ReportMetric(float64(after.Utime.Nano()-before.Utime.Nano())/float64(b.N), "cpu-ns/op")
}
