package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
)

// helperEnv makes this test binary a program that runs the image it names on
// its terminal.
const helperEnv = "GOLDSMITH_TEST_IMAGE"

func TestMain(m *testing.M) {
	if img := os.Getenv(helperEnv); img != "" {
		err := Run(context.Background(), Config{Image: img, Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 64, Accelerator: testbed.TCG})
		fmt.Printf("Run = %v\n", err) // stops us when the terminal is not ours again
		var line string
		_, err = fmt.Scanln(&line) // needs a terminal that is not raw
		fmt.Printf("read %q, %v\n", line, err)
		os.Exit(0)
	}
	if img := os.Getenv(ownerEnv); img != "" {
		owner(img)
	}
	goleak.VerifyTestMain(m)
}

// openTerminal returns both ends of a pseudo terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

// TestTerminal runs a machine on a terminal, ends it by the keys that QEMU
// takes, and uses the terminal afterwards.
func TestTerminal(t *testing.T) {
	img := image(t, testbedtest.Guest{Text: "on the terminal"}.BIOSDisk())
	master, slave := openTerminal(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+img)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	text := make(chan string)
	go func() {
		defer close(text)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			text <- string(b[:n])
		}
	}()
	defer func() {
		go func() {
			for range text {
			}
		}()
	}()
	var all strings.Builder
	expect := func(want string) {
		t.Helper()
		limit := time.After(30 * time.Second)
		for !strings.Contains(all.String(), want) {
			select {
			case s := <-text:
				all.WriteString(s)
			case <-limit:
				t.Fatalf("no %q on the terminal: %q", want, all.String())
			}
		}
	}
	expect("on the terminal")
	fmt.Fprint(master, "\x03") // an interrupt goes to the machine, not to us
	fmt.Fprint(master, "\x01x")
	expect("Run = <nil>")
	fmt.Fprint(master, "typed\n")
	expect(`read "typed", <nil>`)
}
