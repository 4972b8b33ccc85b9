package testbed

import (
	"context"
	"io"
	"time"
)

// Device is what a machine starts from.
type Device string

// The devices. The empty Device is the machine's own order.
const (
	FromDisk    Device = "disk"
	FromNetwork Device = "network" // PXE, or HTTP boot under UEFI
	FromCD      Device = "cd"
	FromSetup   Device = "setup" // the firmware's setup
)

// Boot is what a machine is told to start from.
type Boot struct {
	Device Device
	// Once means the next start only; otherwise every start until told
	// otherwise.
	Once bool
	// Firmware is how to start where a machine can do both; "" leaves it to
	// the machine.
	Firmware Firmware
}

// BootSelector is a machine that can be told what to start from.
type BootSelector interface {
	// SetBoot is told while the machine is off or on; it counts from the next
	// start. What a machine cannot keep, such as a choice for good, is a
	// Fault of kind Unsupported, and nothing is changed then.
	SetBoot(ctx context.Context, b Boot) error
	// BootOrder returns what is set, the zero Boot when nothing is. A choice for
	// one start is gone when that start has happened. A machine that cannot
	// tell returns a Fault of kind Unsupported.
	BootOrder(ctx context.Context) (Boot, error)
}

// Resetter is a machine that can be reset without its power being cut.
type Resetter interface {
	// Reset starts a running machine anew, without asking its operating
	// system. On a machine that is off it is an error.
	Reset(ctx context.Context) error
}

// Serial is a machine at whose serial console one can type.
type Serial interface {
	// OpenSerial connects to the serial port. Reading gives what is printed
	// from now on; what Console records is not less for it. A driver that can
	// serve one only returns a Fault of kind Stolen to the second.
	OpenSerial(ctx context.Context) (io.ReadWriteCloser, error)
}

// Sensor is one reading of a machine's hardware.
type Sensor struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"` // such as "degrees C", "RPM", "volts"; "" for discrete ones
	State string  `json:"state"`          // the controller's word for it: "ok", "upper critical", …
}

// Sensed is a machine whose hardware can be asked how it is.
type Sensed interface {
	Sensors(ctx context.Context) ([]Sensor, error)
}

// HardwareEvent is an entry of a machine's system event log.
type HardwareEvent struct {
	ID   int       `json:"id"`   // the record's number in the log
	Time time.Time `json:"time"` // by the controller's clock, UTC; zero when it has none
	What string    `json:"what"` // in words
}

// EventLogged is a machine that keeps a log of what happened to its hardware.
type EventLogged interface {
	// HardwareEvents returns the log, oldest first.
	HardwareEvents(ctx context.Context) ([]HardwareEvent, error)
	ClearHardwareEvents(ctx context.Context) error
}
