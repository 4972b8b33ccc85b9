package qemu

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
)

// ownerEnv makes this test binary a process that has a machine of the image it
// names, and waits to be killed.
const ownerEnv = "GOLDSMITH_TEST_OWNER"

func owner(image string) {
	ctx := context.Background()
	m, err := New(ctx, ownedConfig(image))
	if err == nil {
		err = m.PowerOn(ctx)
	}
	fmt.Printf("PowerOn = %v\n", err)
	time.Sleep(time.Hour)
}

func ownedConfig(image string) MachineConfig {
	return MachineConfig{Name: "owned", Dir: filepath.Join(filepath.Dir(image), "m"), Disks: []Disk{{Image: image}},
		Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 64, Accelerator: testbed.TCG}
}

// TestOwnerDies: QEMU dies with a process that is killed, and another can have
// the machine's directory then.
func TestOwnerDies(t *testing.T) {
	testenv.Need(t, program, "qemu-img")
	img := image(t, testbedtest.Guest{Text: "hello"}.BIOSDisk())
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), ownerEnv+"="+img)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if running, _ := left("owned"); line != "PowerOn = <nil>\n" || len(running) != 1 {
		t.Errorf("%q, processes %v", line, running)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for range 1000 {
		if running, _ := left("owned"); len(running) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if running, err := left("owned"); err != nil || len(running) > 0 {
		t.Errorf("left: %v, %v", running, err)
	}
	m, err := New(t.Context(), ownedConfig(img))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if names, _ := os.ReadDir(m.cfg.Dir); len(names) > 0 {
		t.Errorf("left in the machine's directory: %v", names)
	}
}
