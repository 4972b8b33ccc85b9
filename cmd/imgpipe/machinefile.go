package main

import (
	"path/filepath"

	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/qemu"
)

// machineFile describes a QEMU machine: docs/formats.md, "Machine file".
type machineFile struct {
	APIVersion  string           `yaml:"apiVersion"`
	Name        string           `yaml:"name"`
	Dir         string           `yaml:"dir"`
	Firmware    testbed.Firmware `yaml:"firmware"`
	CPUs        int              `yaml:"cpus"`
	MemoryMiB   int              `yaml:"memoryMiB"`
	Accelerator string           `yaml:"accelerator"`
	Disks       []struct {
		Image    string `yaml:"image"`
		Format   string `yaml:"format"`
		Size     int64  `yaml:"size"`
		File     string `yaml:"file"`
		Serial   string `yaml:"serial"`
		ReadOnly bool   `yaml:"readOnly"`
		CD       bool   `yaml:"cd"`
	} `yaml:"disks"`
	NICs []struct {
		MAC    string `yaml:"mac"`
		Boot   bool   `yaml:"boot"`
		Tap    string `yaml:"tap"`
		SSH    bool   `yaml:"ssh"`
		Uplink bool   `yaml:"uplink"`
	} `yaml:"nics"`
}

// loadMachine reads a machine file. Paths in it are relative to it.
func loadMachine(path string) (qemu.MachineConfig, error) {
	var f machineFile
	y, err := yamlfile.Read(path, &f)
	if err != nil {
		return qemu.MachineConfig{}, err
	}
	if f.APIVersion != pipeline.APIVersion {
		return qemu.MachineConfig{}, y.Errorf([]any{"apiVersion"}, "apiVersion %q: this program reads %q", f.APIVersion, pipeline.APIVersion)
	}
	at := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(filepath.Dir(path), p)
	}
	c := qemu.MachineConfig{Name: f.Name, Dir: at(f.Dir), Firmware: f.Firmware, CPUs: f.CPUs, MemoryMiB: f.MemoryMiB, Accelerator: f.Accelerator}
	for _, d := range f.Disks {
		c.Disks = append(c.Disks, qemu.Disk{Image: at(d.Image), Format: d.Format, Size: d.Size, File: at(d.File),
			Serial: d.Serial, ReadOnly: d.ReadOnly, CD: d.CD})
	}
	for _, n := range f.NICs {
		c.NICs = append(c.NICs, qemu.NIC{MAC: n.MAC, Boot: n.Boot, Tap: n.Tap, SSH: n.SSH, Uplink: n.Uplink})
	}
	return c, nil
}
