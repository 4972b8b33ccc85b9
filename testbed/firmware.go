package testbed

import (
	"errors"
	"fmt"
	"os"

	"goldsmith/internal/command"
)

// Firmware is what a virtual machine starts with.
type Firmware string

// Firmwares. The empty Firmware means UEFI.
const (
	UEFI Firmware = "uefi" // OVMF without Secure Boot
	BIOS Firmware = "bios" // SeaBIOS
)

// Files returns the read-only code of the firmware and the template of its
// variables; both are empty for BIOS, which QEMU brings along.
func (f Firmware) Files() (code, vars string, err error) {
	switch f {
	case BIOS:
		return "", "", nil
	case UEFI, "":
	default:
		return "", "", command.Usage(fmt.Sprintf("firmware %q: unknown", string(f)), "use uefi or bios")
	}
	for _, p := range [...][2]string{
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},         // Debian, Ubuntu
		{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},     // Fedora
		{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"}, // Arch
	} {
		_, cerr := os.Stat(p[0])
		_, verr := os.Stat(p[1])
		if cerr == nil && verr == nil {
			return p[0], p[1], nil
		}
	}
	return "", "", command.Missing(errors.New("uefi firmware: OVMF is not installed"), "install ovmf (ci/install-deps.sh does)")
}
