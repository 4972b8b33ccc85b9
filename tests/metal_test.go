package tests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/deploy"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
)

// metal are machines without a system, in a network namespace where imgpipe's
// server and the images are.
type metal struct {
	dir, layout string
	url         string // of the server, as machines see it
	server      *deploy.Server
	signals     chan string
	digest, key string // of the signed image
	instance    int
	dieAfter    atomic.Int64 // bytes of the image's disk, after which the source ends; 0 never
	served      atomic.Int64
	do          chan func() // is done in the namespace

	mu    sync.Mutex // guards lines
	lines []string
}

// newMetal builds the ramdisk and starts the server.
func newMetal(t *testing.T) *metal {
	t.Helper()
	testenv.Need(t, "qemu-system-x86_64", "ip")
	m := &metal{dir: t.TempDir(), server: deploy.NewServer(nil), signals: make(chan string, 10), do: make(chan func())}
	m.layout = filepath.Join(m.dir, "oci")
	build(t, m.dir, ramdisk, nil)
	listening := make(chan error)
	var l net.Listener
	go func() {
		// The thread is not given back: its namespace goes with it.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = exec.Command("ip", "link", "set", "lo", "up").Run()
		}
		if err == nil {
			l, err = net.Listen("tcp", ":0")
		}
		listening <- err
		for f := range m.do {
			f()
		}
	}()
	t.Cleanup(func() { close(m.do) })
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	m.url = "http://10.0.2.2:" + port
	web := &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	go func() { _ = web.Serve(l) }()
	t.Cleanup(func() { _ = web.Close() })
	return m
}

func (m *metal) images() string { return m.url + "/images" }

// serveImages are the layout's files, as far as the source lives.
func (m *metal) serveImages(w http.ResponseWriter, r *http.Request) {
	files := http.StripPrefix("/images/", http.FileServer(http.Dir(m.layout)))
	limit := m.dieAfter.Load()
	if limit == 0 {
		m.served.Store(0)
	} else if m.served.Load() > limit {
		http.Error(w, "the source ended", http.StatusServiceUnavailable)
		return
	}
	files.ServeHTTP(&dying{ResponseWriter: w, m: m, limit: limit}, r)
}

// dying is an answer that breaks off when the source ends.
type dying struct {
	http.ResponseWriter
	m     *metal
	limit int64
}

func (d *dying) Write(b []byte) (int, error) {
	if d.m.served.Add(int64(len(b))) > d.limit && d.limit > 0 {
		panic(http.ErrAbortHandler)
	}
	return d.ResponseWriter.Write(b)
}

// disk makes an empty disk.
func (m *metal) disk(t *testing.T, name string, size int64) string {
	t.Helper()
	path := filepath.Join(m.dir, name+".disk")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

func (m *metal) assign(t *testing.T, task deploy.Task) *deploy.Deployment {
	t.Helper()
	d, err := m.server.Assign("metal1", task, deploy.Options{Log: func(ls []deploy.Line) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, l := range ls {
			m.lines = append(m.lines, l.Text)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (m *metal) log() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.lines, "\n")
}

// vm is a machine that runs.
type vm struct {
	ctx   context.Context
	file  string // of its console
	ended chan error
	stop  func()
}

func (v *vm) console() string {
	text, _ := os.ReadFile(v.file)
	return string(text[max(0, len(text)-8000):])
}

// shows waits until the console has shown a text.
func (v *vm) shows(t *testing.T, what string) {
	t.Helper()
	for {
		text, _ := os.ReadFile(v.file)
		if bytes.Contains(text, []byte(what)) {
			return
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case err := <-v.ended:
			t.Fatalf("the machine ended without %q: %v\n%s", what, err, v.console())
		case <-v.ctx.Done():
			t.Fatalf("no %q: %v\n%s", what, context.Cause(v.ctx), v.console())
		}
	}
}

// moment is when the agent said something, in seconds after the kernel started.
func (v *vm) moment(what string) string {
	text, _ := os.ReadFile(v.file)
	found := regexp.MustCompile(`imgagent: +([0-9.]+) ` + what).FindSubmatch(text)
	if found == nil {
		return "?"
	}
	return string(found[1]) + " s"
}

// start starts the ramdisk.
func (m *metal) start(t *testing.T, d *deploy.Deployment, disks ...string) *vm {
	t.Helper()
	return m.qemu(t, disks, "-kernel", filepath.Join(m.dir, "ramdisk.vmlinuz"), "-initrd", filepath.Join(m.dir, "ramdisk.initrd"),
		"-append", "console=ttyS0 quiet "+deploy.Arguments(m.url, d.Token))
}

// boot starts what is on the disks.
func (m *metal) boot(t *testing.T, f testbed.Firmware, disks ...string) *vm {
	t.Helper()
	if f == testbed.BIOS {
		return m.qemu(t, disks)
	}
	code, vars, err := f.Files()
	if err != nil {
		testenv.Missing(t, err.Error())
	}
	return m.qemu(t, disks, "-drive", "if=pflash,format=raw,readonly=on,file="+code, "-drive", "if=pflash,format=raw,snapshot=on,file="+vars)
}

// machineTime bounds how long a machine runs.
const machineTime = 12 * time.Minute

func (m *metal) qemu(t *testing.T, disks []string, more ...string) *vm {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), machineTime, errMachineTime)
	args := []string{"-nodefaults", "-no-reboot", "-display", "none", "-machine", "q35", "-accel", testbed.Accelerator(ctx), "-cpu", "max",
		"-smp", "2", "-m", "1024", "-device", "virtio-rng-pci", "-serial", "stdio",
		"-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="}
	for i, d := range disks {
		name := strings.TrimSuffix(filepath.Base(d), ".disk")
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,discard=unmap,file=%s", i, d),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=%s", i, name))
	}
	v := &vm{ctx: ctx, file: filepath.Join(t.TempDir(), "console"), ended: make(chan error, 1)}
	out, err := os.Create(v.file)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, more...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = out, out
	started := make(chan error)
	m.do <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		v.ended <- cmd.Wait()
		_ = out.Close()
		close(gone)
	}()
	v.stop = func() {
		cancel()
		<-gone
	}
	t.Cleanup(v.stop)
	return v
}

// logged tells whether the server was told a line with all of the words.
func (m *metal) logged(words ...string) bool {
	for line := range strings.Lines(m.log()) {
		all := true
		for _, w := range words {
			all = all && bytes.Contains([]byte(line), []byte(w))
		}
		if all {
			return true
		}
	}
	return false
}
