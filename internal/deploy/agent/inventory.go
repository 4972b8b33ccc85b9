package agent

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"goldsmith/internal/deploy"
)

// Inventory looks at what the kernel shows of the machine. What it does not
// show is empty.
func (a *Agent) Inventory() (*deploy.Inventory, error) {
	dmi := func(name string) string { return text(a.Sys, "class/dmi/id", name) }
	inv := &deploy.Inventory{
		Arch: runtime.GOARCH, Firmware: "bios", Vendor: dmi("sys_vendor"), Product: dmi("product_name"),
		Serial: dmi("product_serial"), UUID: strings.ToLower(dmi("product_uuid")), BootMAC: a.BootMAC,
		Disks: []deploy.Disk{}, NICs: []deploy.NIC{},
	}
	if _, err := os.Stat(filepath.Join(a.Sys, "firmware/efi")); err == nil {
		inv.Firmware = "uefi"
	}
	disks, err := os.ReadDir(filepath.Join(a.Sys, "block"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range disks {
		if isDisk(e.Name()) {
			inv.Disks = append(inv.Disks, a.disk(e.Name()))
		}
	}
	nics, err := os.ReadDir(filepath.Join(a.Sys, "class/net"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range nics {
		dir := filepath.Join(a.Sys, "class/net", e.Name())
		if _, err := os.Stat(filepath.Join(dir, "device")); err == nil {
			inv.NICs = append(inv.NICs, nic(dir))
		}
	}
	a.processors(inv)
	return inv, nil
}

// isDisk tells disks from what else are block devices: memory, loops, CDs,
// floppies, arrays, and the parts of an eMMC that only its firmware uses.
func isDisk(name string) bool {
	for _, prefix := range []string{"loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return !strings.HasPrefix(name, "mmcblk") || !strings.Contains(name, "boot") && !strings.Contains(name, "rpmb")
}

func (a *Agent) disk(name string) deploy.Disk {
	dir := filepath.Join(a.Sys, "block", name)
	serial := text(dir, "serial") // virtio
	if serial == "" {
		serial = text(dir, "device/serial") // NVMe
	}
	if page, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); serial == "" && err == nil && len(page) > 4 {
		serial = strings.TrimSpace(string(page[4:])) // SCSI: a header of four bytes
	}
	wwn := text(dir, "wwid") // NVMe
	if wwn == "" {
		wwn = text(dir, "device/wwid") // SCSI
	}
	// The kernel counts sizes in 512 bytes, whatever the disk's blocks are.
	return deploy.Disk{
		Path: filepath.Join(a.Dev, name), Size: number(dir, "size") * 512,
		Sector: int(number(dir, "queue/logical_block_size")), Model: text(dir, "device/model"), Serial: serial, WWN: wwn,
		Rotational: number(dir, "queue/rotational") == 1, Removable: number(dir, "removable") == 1,
		ReadOnly: number(dir, "ro") == 1,
	}
}

func nic(dir string) deploy.NIC {
	driver, _ := os.Readlink(filepath.Join(dir, "device/driver"))
	n := deploy.NIC{
		Name: filepath.Base(dir), MAC: text(dir, "address"), Link: text(dir, "carrier") == "1",
		Speed: max(0, int(number(dir, "speed"))),
	}
	if driver != "" {
		n.Driver = filepath.Base(driver)
	}
	return n
}

// processors reads what /proc has of processors and memory.
func (a *Agent) processors(inv *deploy.Inventory) {
	a.fields("cpuinfo", func(name, value string) {
		switch name {
		case "processor":
			inv.CPU.Count++
		case "model name":
			inv.CPU.Model = value
		}
	})
	a.fields("meminfo", func(name, value string) {
		if name == "MemTotal" {
			n, _ := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
			inv.Memory = n << 10
		}
	})
}

// fields reads lines of "name : value" in a file of /proc.
func (a *Agent) fields(file string, f func(name, value string)) {
	in, err := os.Open(filepath.Join(a.Proc, file))
	if err != nil {
		return
	}
	defer in.Close()
	for s := bufio.NewScanner(in); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok {
			f(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
}

// text is a small file's, without space around it; empty when there is none.
func text(path ...string) string {
	b, _ := os.ReadFile(filepath.Join(path...))
	return strings.ToValidUTF8(strings.TrimSpace(string(b)), "?")
}

// number is a file's; 0 when there is none.
func number(path ...string) int64 {
	n, _ := strconv.ParseInt(text(path...), 10, 64)
	return n
}
