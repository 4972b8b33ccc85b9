package vbmc

import (
	"context"
	"errors"
	"slices"

	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"
)

// sensor is one that we made up. Values are raw; M and exponent make units of
// them: value = raw * m * 10^exp.
type sensor struct {
	name     string
	kind     types.SensorType
	unit     types.SensorUnitType
	entity   types.EntityID
	m        int16
	exp      int8
	on, off  byte // what it reads while the machine is on, and off
	critical byte // upper threshold
}

// table are the sensors, numbered from 1.
var table = []sensor{
	{name: "Inlet Temp", kind: types.SensorTypeTemperature, unit: types.SensorUnitType_DegreesC, entity: 0x37, m: 1, on: 23, off: 21, critical: 45},
	{name: "CPU Temp", kind: types.SensorTypeTemperature, unit: types.SensorUnitType_DegreesC, entity: 0x03, m: 1, on: 48, off: 22, critical: 95},
	{name: "Fan 1", kind: types.SensorTypeFan, unit: types.SensorUnitType_RPM, entity: 0x1d, m: 100, on: 45, off: 0, critical: 200},
	{name: "12V", kind: types.SensorTypeVoltage, unit: types.SensorUnitType_Volts, entity: 0x14, m: 6, exp: -2, on: 201, off: 0, critical: 220},
}

// store holds the sensors' data records. It implements hal.StorageHAL and
// hal.SDRStore, and cannot be written.
type store struct{ records [][]byte }

var errReadOnly = errors.New("read-only")

// sensors makes a record of each (IPMI 2.0, 43.1).
func sensors() *store {
	s := &store{}
	for i, x := range table {
		full := &types.SDRFull{
			GeneratorID: fromBMC, SensorNumber: types.SensorNumber(i + 1),
			SensorEntityID: x.entity, SensorEntityInstance: 1,
			SensorInitialization: types.SensorInitialization{SensorScanningEnabled: true, InitScanning: true},
			SensorCapabilities:   types.SensorCapabilities{AutoRearm: true, ThresholdAccess: types.SensorThresholdAccess_Readable},
			SensorType:           x.kind, SensorEventReadingType: types.EventReadingTypeThreshold,
			SensorUnit:          types.SensorUnit{BaseUnit: x.unit},
			ReadingFactors:      types.ReadingFactors{M: x.m, R_Exp: x.exp},
			SensorMaxReadingRaw: 0xff, UCR_Raw: x.critical,
			IDStringTypeLength: types.TypeLength(0xc0 | len(x.name)), IDStringBytes: []byte(x.name),
		}
		full.Mask.Threshold.UCR.Readable = true
		s.records = append(s.records, full.Pack(uint16(i+1)))
	}
	return s
}

// FRU implements hal.StorageHAL.
func (s *store) FRU() hal.FRUStore { return nil }

// SDR implements hal.StorageHAL.
func (s *store) SDR() hal.SDRStore { return s }

// Read implements hal.SDRStore.
func (s *store) Read(_ context.Context, id uint16) ([]byte, error) {
	if id == 0 || int(id) > len(s.records) {
		return nil, hal.ErrNotFound
	}
	return slices.Clone(s.records[id-1]), nil
}

// Write implements hal.SDRStore.
func (s *store) Write(context.Context, uint16, []byte) error { return errReadOnly }

// Delete implements hal.SDRStore.
func (s *store) Delete(context.Context, uint16) error { return errReadOnly }

// RecordIDs implements hal.SDRStore.
func (s *store) RecordIDs(context.Context) ([]uint16, error) {
	var ids []uint16
	for i := range s.records {
		ids = append(ids, uint16(i+1))
	}
	return ids, nil
}

// registerSensors adds the commands that read sensors (IPMI 2.0, 35).
func registerSensors(r *handlers.Registry, c *chassis) {
	for cmd, f := range map[types.Command]func(context.Context, sensor) []byte{
		types.CommandGetSensorReading: func(ctx context.Context, s sensor) []byte {
			raw := s.off
			if on, err := c.PowerState(ctx); err == nil && on {
				raw = s.on
			}
			return []byte{raw, 0x40, 0xc0} // scanned; no threshold crossed
		},
		types.CommandGetSensorThresholds: func(_ context.Context, s sensor) []byte {
			return []byte{0x10, 0, 0, 0, 0, s.critical, 0} // only upper critical
		},
		types.CommandGetSensorHysteresis:  func(context.Context, sensor) []byte { return []byte{0, 0} },
		types.CommandGetSensorEventStatus: func(context.Context, sensor) []byte { return []byte{0x40, 0, 0, 0, 0} },
		types.CommandGetSensorEventEnable: func(context.Context, sensor) []byte { return []byte{0x40, 0, 0, 0, 0} },
	} {
		r.RegisterFunc(cmd, func(ctx context.Context, _ *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
			if len(data) < 1 {
				return nil, types.CodeRequestDataLengthInvalid, nil
			}
			if n := int(data[0]); n >= 1 && n <= len(table) {
				return f(ctx, table[n-1]), types.CodeOK, nil
			}
			return nil, types.CodeRequestedDataNotPresent, nil
		})
	}
}
