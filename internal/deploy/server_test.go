package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const digest = "sha256:0011aabb11112222333344445555666677778888999900001111222233334444"

func inspect() Task { return Task{Kind: Inspect} }

// bed is a server and what it told.
type bed struct {
	*Server
	url    string
	mu     sync.Mutex
	lines  []string
	events []Event
}

func newBed(t *testing.T) *bed {
	b := &bed{Server: NewServer(nil)}
	b.poll = 20 * time.Millisecond
	web := httptest.NewServer(b)
	t.Cleanup(web.Close)
	b.url = web.URL
	return b
}

func (b *bed) assign(t *testing.T, node string, task Task) (*Deployment, *Client) {
	t.Helper()
	d, err := b.Assign(node, task, Options{
		Log: func(ls []Line) {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, l := range ls {
				b.lines = append(b.lines, l.Text)
			}
		},
		Event: func(e Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d, b.client(t, d.Token)
}

func (b *bed) client(t *testing.T, token Token) *Client {
	c, err := NewClient(b.url, token)
	if err != nil {
		t.Fatal(err)
	}
	c.pause = time.Millisecond
	return c
}

func refused(t *testing.T, what string, err error, status int) {
	t.Helper()
	no, ok := errors.AsType[*Refusal](err)
	if !ok || no.Status != status {
		t.Errorf("%s: %v; want a refusal with %d", what, err, status)
	}
}

// A machine is inspected, gets a second task, and is told to wait then.
func TestStory(t *testing.T) {
	b := newBed(t)
	d, c := b.assign(t, "node1", inspect())
	ctx := t.Context()
	task, err := c.Task(ctx, "")
	if err != nil || task.Kind != Inspect || task.ID != "1" {
		t.Fatalf("%+v, %v", task, err)
	}
	if again, err := c.Task(ctx, ""); err != nil || again.ID != "1" {
		t.Errorf("an agent that starts anew gets %+v, %v", again, err)
	}
	inv := &Inventory{Arch: "amd64", Disks: []Disk{{Path: "/dev/vda", Size: 1 << 30, Sector: 512}}}
	if err := c.Inventory(ctx, inv); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Inventory(ctx); err != nil || !cmp.Equal(got, inv) {
		t.Errorf("inventory %+v, %v", got, err)
	}
	if err := d.Next(Task{Kind: Clean}); err == nil || !strings.Contains(err.Error(), "has not ended") {
		t.Errorf("a second task while one runs: %v", err)
	}
	r := &Result{Task: "1", Seconds: map[string]float64{"10-inventory": 0.5}}
	if err := c.Result(ctx, r); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Wait(ctx); err != nil || !cmp.Equal(got, r) || !got.OK() {
		t.Errorf("result %+v, %v", got, err)
	}
	if task, err := c.Task(ctx, "1"); err != nil || task.Kind != Wait {
		t.Errorf("after the last task: %+v, %v", task, err)
	}
	if err := d.Next(Task{Kind: Clean}); err != nil {
		t.Fatal(err)
	}
	if task, err := c.Task(ctx, "1"); err != nil || task.Kind != Clean || task.ID != "2" {
		t.Errorf("second task: %+v, %v", task, err)
	}
}

// Whoever waits for a task gets it as soon as it is there.
func TestLongPoll(t *testing.T) {
	b := newBed(t)
	b.poll = time.Hour
	d, c := b.assign(t, "node1", inspect())
	if err := c.Result(t.Context(), &Result{Task: "1"}); err != nil {
		t.Fatal(err)
	}
	got := make(chan *Task)
	go func() {
		task, _ := c.Task(t.Context(), "1")
		got <- task
	}()
	if err := d.Next(Task{Kind: Clean}); err != nil {
		t.Fatal(err)
	}
	if task := <-got; task == nil || task.Kind != Clean {
		t.Errorf("got %+v", task)
	}
}

func TestRefusals(t *testing.T) {
	b := newBed(t)
	ctx := t.Context()
	d1, c1 := b.assign(t, "node1", inspect())
	_, c2 := b.assign(t, "node2", inspect())
	_, err := b.client(t, NewToken()).Task(ctx, "")
	refused(t, "unknown token", err, http.StatusUnauthorized)
	refused(t, "unknown task", c1.Result(ctx, &Result{Task: "7"}), http.StatusConflict)
	big := &Inventory{CPU: CPU{Model: strings.Repeat("x", MaxBody)}}
	refused(t, "large body", c1.Inventory(ctx, big), http.StatusRequestEntityTooLarge)
	refused(t, "long error", c1.Result(ctx, &Result{Task: "1", Error: strings.Repeat("x", MaxError+1)}), http.StatusBadRequest)
	for name, body := range map[string]any{
		"no boot": lines{}, "long line": lines{Boot: "a", Lines: []Line{{Text: strings.Repeat("x", MaxLine+1)}}},
		"many lines": lines{Boot: "a", Lines: make([]Line, MaxLines+1)}, "negative": lines{Boot: "a", First: -1},
		"not an object": 7,
	} {
		refused(t, name, c1.call(ctx, http.MethodPost, pathLog, body, nil), http.StatusBadRequest)
	}
	for name, e := range map[string]Event{"state": {Step: "1-a", State: "x"}, "step": {State: Begin},
		"bytes": {Step: "1-a", State: Progress, Done: -1}} {
		err := c1.call(ctx, http.MethodPost, pathEvents, numbered{Boot: "a", Events: []Event{e}}, nil)
		refused(t, name, err, http.StatusBadRequest)
	}
	gap := lines{Boot: "a", First: 5, Lines: []Line{{Text: "x"}}}
	refused(t, "gap", c1.call(ctx, http.MethodPost, pathLog, gap, nil), http.StatusConflict)
	if err := c1.Result(ctx, &Result{Task: "1"}); err != nil {
		t.Fatal(err)
	}
	refused(t, "replayed result", c1.Result(ctx, &Result{Task: "1", Error: "x"}), http.StatusConflict)
	if r, err := d1.Wait(ctx); err != nil || !r.OK() {
		t.Errorf("after the replay: %+v, %v", r, err)
	}
	// A machine that is given another purpose cannot speak for itself any more.
	d3, c3 := b.assign(t, "node2", inspect())
	refused(t, "late result", c2.Result(ctx, &Result{Task: "1"}), http.StatusGone)
	_, err = c2.Task(ctx, "")
	refused(t, "late question", err, http.StatusGone)
	if _, err := c3.Task(ctx, ""); err != nil {
		t.Errorf("the new deployment: %v", err)
	}
	if err := errors.Join(d3.Close(), d3.Close()); err != nil {
		t.Error(err)
	}
	if _, err := d3.Wait(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("wait for a closed deployment: %v", err)
	}
}

// A deployment that is closed wakes those who wait for it.
func TestCloseWakes(t *testing.T) {
	b := newBed(t)
	b.poll = time.Hour
	d, c := b.assign(t, "node1", inspect())
	ended := make(chan error, 2)
	go func() { _, err := d.Wait(t.Context()); ended <- err }()
	go func() { _, err := c.Task(t.Context(), "1"); ended <- err }()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a wait for a closed deployment ends well")
		}
	}
}

func TestTaskCheck(t *testing.T) {
	good := func() *Task {
		return &Task{Kind: Deploy, Image: &Image{Source: "http://[fd00::1]:80/oci", Digest: digest},
			Seed: &Seed{InstanceID: "i", Hostname: "h", Metadata: json.RawMessage(`{"a":1}`)}}
	}
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Task){
		"kind": func(k *Task) { k.Kind = "dance" }, "finish": func(k *Task) { k.Finish = "x" },
		"needs an image": func(k *Task) { k.Image = nil }, "source": func(k *Task) { k.Image.Source = "a@b" },
		"no such directory": func(k *Task) { k.Image.Source = "oci:/srv" }, "digest": func(k *Task) { k.Image.Digest = "x" },
		"level": func(k *Task) { k.Storage.Level = "../x" }, "disks": func(k *Task) { k.Storage.Disks = -1 },
		"host name": func(k *Task) { k.Seed.Hostname = "" }, "no JSON": func(k *Task) { k.Seed.Metadata = []byte("{") },
		"trusted keys": func(k *Task) { k.Image.Keys = make([]string, MaxKeys+1) },
		"neither":      func(k *Task) { k.Kind = Clean },
	} {
		k := good()
		change(k)
		if err := k.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	b := newBed(t)
	for _, k := range []Task{{Kind: Wait}, {Kind: Inspect, ID: "4"}, {}} {
		if _, err := b.Assign("node1", k, Options{}); err == nil {
			t.Errorf("%+v was assigned", k)
		}
	}
}

func TestChoose(t *testing.T) {
	no := false
	disks := []Disk{
		{Path: "/dev/sda", Size: 4 << 40, Serial: "A", WWN: "naa.5000C500A1B2C3D4", Model: "Big Disk", Rotational: true},
		{Path: "/dev/sdb", Size: 1 << 40, Serial: "B", Model: "SSD 1"}, {Path: "/dev/sdc", Size: 1 << 40, Serial: "C", Model: "SSD 1"},
		{Path: "/dev/sdd", Size: 1 << 30, Removable: true}, {Path: "/dev/sde", Size: 1 << 30, ReadOnly: true}, {Path: "/dev/sdf"},
	}
	for _, c := range []struct {
		s    Storage
		want string
	}{
		{Storage{}, "/dev/sdb"}, {Storage{Level: LevelRAID1}, "/dev/sdb /dev/sdc"}, {Storage{Disks: 3}, "/dev/sdb /dev/sdc /dev/sda"},
		{Storage{Size: 2 << 40}, "/dev/sda"}, {Storage{Hints: Hints{Serial: "C"}}, "/dev/sdc"},
		{Storage{Hints: Hints{Model: "Big"}}, "/dev/sda"}, {Storage{Hints: Hints{Rotational: &no}}, "/dev/sdb"},
		{Storage{Hints: Hints{WWN: "0x5000c500a1b2c3d4"}}, "/dev/sda"}, {Storage{Hints: Hints{WWN: "naa.5000c500a1b2c3d4", Size: 4 << 40}}, "/dev/sda"},
		{Storage{Hints: Hints{WWN: "5000c500a1b2c3d5", Size: 4 << 40}}, `0 disks fit, 1 are needed; /dev/sda: its WWN is "naa.5000C500A1B2C3D4"; `},
		{Storage{Hints: Hints{Size: 5 << 40}}, "/dev/sda: it has 4398046511104 bytes, exactly 5497558138880 are wanted; "},
		{Storage{Size: 9 << 40}, "0 disks fit, 1 are needed; /dev/sda: it has 4398046511104 bytes, 9895604649984 are wanted; "},
		{Storage{Disks: 4}, "3 disks fit, 4 are needed; /dev/sdd: it is removable; /dev/sde: it is read-only; /dev/sdf: it has no medium"},
		{Storage{Hints: Hints{Serial: "X"}}, `/dev/sda: its serial number is "A"`},
	} {
		got, err := c.s.Choose(disks)
		text := fmt.Sprint(err)
		if err == nil {
			var names []string
			for _, d := range got {
				names = append(names, d.Path)
			}
			if text = strings.Join(names, " "); text != c.want {
				t.Errorf("%+v: %s; want %s", c.s, text, c.want)
			}
		} else if !strings.Contains(text, c.want) {
			t.Errorf("%+v: %s; want %s", c.s, text, c.want)
		}
	}
}

// Bodies of whatever kind are refused or kept, and the server stays.
func FuzzBodies(f *testing.F) {
	for _, s := range []string{`{}`, `{"boot":"a","first":0,"lines":[{"uptime":1,"text":"x"}]}`,
		`{"boot":"a","events":[{"task":"1","step":"50-write","state":"progress","done":1}]}`, `{"task":"1"}`} {
		f.Add(s)
	}
	s := NewServer(nil)
	d, err := s.Assign("node1", inspect(), Options{Log: func([]Line) {}, Event: func(Event) {}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{pathInventory, pathEvents, pathLog, pathResult} {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, path, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+string(d.Token))
			s.ServeHTTP(w, r)
			if w.Code >= 500 || strings.Contains(w.Body.String(), string(d.Token)) {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	})
}
