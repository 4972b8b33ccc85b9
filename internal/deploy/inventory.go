package deploy

// Inventory is what a machine has, as its agent sees it.
type Inventory struct {
	Arch     string `json:"arch"`     // in Debian's words, such as amd64
	Firmware string `json:"firmware"` // uefi or bios
	Vendor   string `json:"vendor"`   // by DMI, as the next two; empty where it says nothing
	Product  string `json:"product"`
	Serial   string `json:"serial"`
	UUID     string `json:"uuid"` // by DMI; in lower case
	CPU      CPU    `json:"cpu"`
	Memory   int64  `json:"memory"` // bytes that the kernel has
	Disks    []Disk `json:"disks"`  // by name
	NICs     []NIC  `json:"nics"`   // by name
	BootMAC  string `json:"boot_mac,omitempty"`
}

// CPU is a machine's processors.
type CPU struct {
	Model string `json:"model"`
	Count int    `json:"count"` // as the kernel counts them
}

// Disk is a disk that an image can be written to.
type Disk struct {
	Path       string `json:"path"`   // device file
	Size       int64  `json:"size"`   // bytes
	Sector     int    `json:"sector"` // bytes of a logical block
	Model      string `json:"model"`
	Serial     string `json:"serial"`
	WWN        string `json:"wwn,omitempty"` // as the kernel says it, such as naa.5000c500a1b2c3d4; empty where it does not
	Rotational bool   `json:"rotational"`
	Removable  bool   `json:"removable,omitempty"`
	ReadOnly   bool   `json:"read_only,omitempty"`
}

// NIC is a network card.
type NIC struct {
	Name   string `json:"name"`
	MAC    string `json:"mac"`
	Link   bool   `json:"link"`
	Speed  int    `json:"speed"` // Mbit/s; 0 when it does not say
	Driver string `json:"driver"`
}
