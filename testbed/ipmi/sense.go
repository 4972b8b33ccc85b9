package ipmi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/storage"
	"github.com/bougou/go-ipmi/pkg/types"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Bounds of what a BMC may tell us, and for how long.
const (
	maxSensors = 1024
	maxEvents  = 1 << 16 // record ids have 16 bits
	readLimit  = 2 * time.Minute
)

// Sensors implements testbed.Sensed. Those that are not there or switched off
// are left out.
func (m *Machine) Sensors(ctx context.Context) ([]testbed.Sensor, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	var list []testbed.Sensor
	err := m.do(ctx, "read sensors", func(ctx context.Context, c *client.Client) error {
		list = nil
		n := 0
		for r := range c.GetSensorsStream(ctx) {
			if r.Err != nil {
				if e, ok := types.IsResponseError(r.Err); ok && e.CompletionCode() == types.CodeRequestedDataNotPresent {
					return nil // no sensor at all
				}
				return r.Err
			}
			if n++; n > maxSensors {
				return fmt.Errorf("more than %d sensors", maxSensors)
			}
			if s := r.Ok; !s.NotPresent && !s.ScanningDisabled && s.ReadingAvailable {
				list = append(list, reading(s))
			}
		}
		return ctx.Err()
	})
	return list, err
}

// reading is a sensor in our words.
func reading(s *types.Sensor) testbed.Sensor {
	out := testbed.Sensor{Name: plain(s.Name)}
	if s.EventReadingType.IsThreshold() && s.SensorUnit.IsAnalog() {
		out.Value, out.Unit, out.State = s.Value, plain(s.SensorUnit.String()), thresholds[s.Threshold.ThresholdStatus]
	}
	if out.State == "" {
		out.State = plain(strings.Join(s.DiscreteActiveEventsString(), ", "))
	}
	return out
}

// thresholds are a threshold sensor's states in words.
var thresholds = map[types.SensorThresholdStatus]string{
	types.SensorThresholdStatus_OK:  "ok",
	types.SensorThresholdStatus_LNC: "lower non-critical",
	types.SensorThresholdStatus_LCR: "lower critical",
	types.SensorThresholdStatus_LNR: "lower non-recoverable",
	types.SensorThresholdStatus_UNC: "upper non-critical",
	types.SensorThresholdStatus_UCR: "upper critical",
	types.SensorThresholdStatus_UNR: "upper non-recoverable",
}

// plain is a BMC's text on one printable line.
func plain(s string) string {
	return strings.TrimSpace(command.Line(strings.ToValidUTF8(s, "?")))
}

// HardwareEvents implements testbed.EventLogged: the system event log (SEL).
func (m *Machine) HardwareEvents(ctx context.Context) ([]testbed.HardwareEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	var list []testbed.HardwareEvent
	err := m.do(ctx, "read the event log", func(ctx context.Context, c *client.Client) error {
		list = nil
		info, err := c.GetSELInfo(ctx)
		if err != nil || info.Entries == 0 {
			return err
		}
		const firstRecord, noMore = 0, 0xffff
		for id := uint16(firstRecord); id != noMore && len(list) < maxEvents; {
			r := &storage.GetSELEntryResponse{}
			err := c.Exchange(ctx, &storage.GetSELEntryRequest{RecordID: id, ReadBytes: 0xff}, r)
			if e, ok := types.IsResponseError(err); ok && e.CompletionCode() == types.CodeRequestedDataNotPresent {
				return nil // emptied meanwhile
			}
			if err != nil {
				return err
			}
			sel, err := types.ParseSEL(r.Data)
			if err != nil {
				return err
			}
			if list = append(list, event(sel)); r.NextRecordID == id {
				return fmt.Errorf("record %d follows itself", id)
			}
			id = r.NextRecordID
		}
		return nil
	})
	return list, err
}

// Times of the log before this count from when the BMC started (IPMI 2.0, 37).
const sinceStart = 0x20000000

// event is a record of the log in our words.
func event(sel *types.SEL) testbed.HardwareEvent {
	e := testbed.HardwareEvent{ID: int(sel.RecordID)}
	var at time.Time
	switch {
	case sel.Standard != nil:
		s := sel.Standard
		at = s.Timestamp
		e.What = fmt.Sprintf("%s %#02x: %s", s.SensorType, uint8(s.SensorNumber), s.EventString())
		if s.EventDir {
			e.What += " (gone)"
		}
	case sel.OEMTimestamped != nil:
		at = sel.OEMTimestamped.Timestamp
		e.What = fmt.Sprintf("manufacturer's %x", sel.OEMTimestamped.OEMDefined)
	case sel.OEMNonTimestamped != nil:
		e.What = fmt.Sprintf("manufacturer's %x", sel.OEMNonTimestamped.OEM)
	}
	e.What = plain(e.What)
	if u := at.Unix(); u > sinceStart && u < 1<<32-1 {
		e.Time = at.UTC()
	}
	return e
}

// eraseTries bounds how often we ask whether the log is empty, twice a second.
const eraseTries = 60

// ClearHardwareEvents implements testbed.EventLogged.
func (m *Machine) ClearHardwareEvents(ctx context.Context) error {
	const doing = "clear the event log"
	return m.do(ctx, doing, func(ctx context.Context, c *client.Client) error {
		r, err := c.ReserveSEL(ctx)
		if err != nil {
			return err
		}
		answer, err := c.ClearSEL(ctx, r.ReservationID)
		for range eraseTries {
			if err != nil || answer.ErasureProgressStatus&0x0f == 1 {
				return err
			}
			if !pause(ctx, busyPause) {
				return context.Cause(ctx)
			}
			answer = &storage.ClearSELResponse{}
			err = c.Exchange(ctx, &storage.ClearSELRequest{ReservationID: r.ReservationID, GetErasureStatusFlag: true}, answer)
		}
		return errors.New("the BMC is not done after 30 s")
	})
}
