package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/fat"
	"goldsmith/internal/tree"
)

// Machines find their metadata on a seed disk, on a config drive, and at an
// EC2-style service, with cloud-init and without it, on a read-only root. What
// says so is their completion signal: it comes when every phase succeeded, to
// where the metadata told, with the instance's name.
func TestMetadataReachesMachines(t *testing.T) {
	need(t, false)
	for _, image := range []string{"plain", "cloud-init"} {
		dir := t.TempDir()
		build := program{[]string{"imgbuild", "build", "-o", dir, "testdata/configure/" + image + ".yaml"},
			[]string{elements(t)}}
		if status, _ := build.run(t); status != 0 {
			t.Fatalf("%s: status %d", image, status)
		}
		disks, err := filepath.Glob(filepath.Join(dir, "*.raw"))
		if err != nil || len(disks) != 1 {
			t.Fatalf("%v, %v", disks, err)
		}
		for _, source := range []string{"seed", "drive", "service"} {
			t.Run(image+"/"+source, func(t *testing.T) {
				c := cloud{t: t, withCloudInit: image == "cloud-init", instance: "i-" + source}
				seed := ""
				switch source {
				case "seed":
					seed = c.seed()
				case "drive":
					seed = c.drive()
				case "service":
					c.serves = true
				}
				c.boot(disks[0], seed)
			})
		}
	}
}

// serviceAddress is where EC2 has its metadata service, and a machine of this
// test the host.
const serviceAddress = "169.254.169.254"

// cloud is what a machine finds around it.
type cloud struct {
	t             *testing.T
	withCloudInit bool
	instance      string
	serves        bool   // metadata, not only signals
	images        string // a layout of images, at /images/

	mu      sync.Mutex
	signals []string
	asked   []string // what it was asked for
}

// keys are the metadata that goldsmith's programs understand.
func (c *cloud) keys() map[string]string {
	return map[string]string{"completion-signal": "http://" + serviceAddress + "/signal",
		"completion-token": "token of " + c.instance}
}

// userData hands the keys over the way that cloud-init has for files.
func (c *cloud) userData() string {
	keys, err := json.Marshal(c.keys())
	if err != nil {
		c.t.Fatal(err)
	}
	return "#cloud-config\nwrite_files:\n  - path: /var/lib/os-collect-config/local-data/keys\n    permissions: '0600'\n    content: '" + string(keys) + "'\n"
}

func (c *cloud) seed() string {
	files := map[string]string{"meta-data": "instance-id: " + c.instance + "\nlocal-hostname: a-host\n"}
	if c.withCloudInit {
		files["user-data"] = c.userData()
	} else {
		keys, err := json.Marshal(c.keys())
		if err != nil {
			c.t.Fatal(err)
		}
		files["goldsmith/metadata.json"] = string(keys)
	}
	return c.volume("CIDATA", files)
}

func (c *cloud) drive() string {
	doc := map[string]string{"uuid": c.instance, "hostname": "a-host"}
	files := map[string]string{}
	if c.withCloudInit {
		files["openstack/latest/user_data"] = c.userData()
	} else {
		for k, v := range c.keys() {
			doc[k] = v
		}
	}
	text, err := json.Marshal(doc)
	if err != nil {
		c.t.Fatal(err)
	}
	files["openstack/latest/meta_data.json"] = string(text)
	return c.volume("config-2", files)
}

func (c *cloud) volume(label string, files map[string]string) string {
	t := tree.New()
	for name, text := range files {
		t.AddFile(name, 0o644, []byte(text))
	}
	path := filepath.Join(c.t.TempDir(), "volume")
	f, err := os.Create(path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := fat.Write(f, t, fat.Options{Label: label}); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// ServeHTTP is the service.
func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.images != "" && strings.HasPrefix(r.URL.Path, "/images/") {
		http.StripPrefix("/images", http.FileServer(http.Dir(c.images))).ServeHTTP(w, r)
		return
	}
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r.Method+" "+r.URL.Path)
	if r.URL.Path == "/signal" {
		c.signals = append(c.signals, r.Header.Get("Authorization")+" "+string(body))
		return
	}
	if !c.serves {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" {
		fmt.Fprint(w, "a-token")
		return
	}
	// cloud-init asks for a token on Amazon's machines only.
	if !c.withCloudInit && r.Header.Get("X-aws-ec2-metadata-token") != "a-token" {
		http.Error(w, "no token", http.StatusUnauthorized)
		return
	}
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/") // without the version
	leaves := map[string]string{"meta-data/instance-id": c.instance, "meta-data/local-hostname": "a-host"}
	if c.withCloudInit {
		leaves["user-data"] = c.userData()
	} else {
		for k, v := range c.keys() {
			leaves["meta-data/"+k] = v
		}
	}
	if text, ok := leaves[path]; ok {
		fmt.Fprint(w, text)
		return
	}
	var names []string
	for leaf := range leaves {
		if name, ok := strings.CutPrefix(leaf, strings.TrimSuffix(path, "/")+"/"); ok {
			names = append(names, name)
		}
	}
	if names == nil {
		http.NotFound(w, r)
		return
	}
	fmt.Fprint(w, strings.Join(names, "\n"))
}

// boot starts a machine in a network of its own, in which the host has the
// service's address, and waits for the signal.
func (c *cloud) boot(image, seed string) {
	console := filepath.Join(c.t.TempDir(), "console")
	args := []string{"imgbuild", "run", "--network", image}
	if seed != "" {
		args = []string{"imgbuild", "run", "--network", "--seed", seed, image}
	}
	cmd, _ := program{args, nil}.command(c.t)
	failed := make(chan error, 1)
	stop := make(chan struct{})
	go func() { failed <- c.run(cmd, console, stop) }()
	want := `Bearer token of ` + c.instance + ` {"Status":"SUCCESS"`
	deadline := time.After(6 * time.Minute)
	for {
		c.mu.Lock()
		got := strings.Join(c.signals, "\n")
		c.mu.Unlock()
		if got != "" {
			if !strings.HasPrefix(got, want) || !strings.Contains(got, `"UniqueId":"`+c.instance+`"`) {
				c.t.Errorf("signal %s; want %s", got, want)
			}
			break
		}
		select {
		case err := <-failed:
			c.t.Fatalf("%v\n%s", err, c.console(console))
		case <-deadline:
			c.t.Errorf("no signal; asked for %q\n%s", c.asked, c.console(console))
		case <-time.After(200 * time.Millisecond):
			continue
		}
		break
	}
	close(stop)
	if err := <-failed; err != nil {
		c.t.Error(err)
	}
}

func (c *cloud) console(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-8000):])
}

// run is a thread of its own: its network namespace goes with it.
func (c *cloud) run(cmd *exec.Cmd, console string, stop chan struct{}) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	for _, args := range [][]string{{"ip", "link", "set", "lo", "up"},
		{"ip", "address", "add", serviceAddress + "/32", "dev", "lo"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	listener, err := net.Listen("tcp", serviceAddress+":80")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: c}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	out, err := os.Create(console)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("the machine ended: %w", err)
	case <-stop:
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-ended
	return nil
}
