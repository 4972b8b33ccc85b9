package vbmc

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"

	"goldsmith/testbed"
)

// eventLog is the system event log (IPMI 2.0, 31 and 32), which go-ipmi's
// server does not have.
type eventLog struct {
	mu          sync.Mutex // guards the fields below
	records     []record
	next        uint16 // number of the next record, less one
	reservation uint16
	full        bool
	added       time.Time
	erased      time.Time
}

// record is one entry as it is sent.
type record [16]byte

// maxRecords is how many entries there is room for.
const maxRecords = 512

// Sensor type and offsets of the events (IPMI 2.0, table 42-3).
const (
	acpiPower  = 0x22
	stateOn    = 0x00 // S0/G0, working
	stateOff   = 0x06 // S4/S5, soft off
	specific   = 0x6f // event type: sensor-specific
	fromBMC    = 0x20 // generator
	powerIndex = 0x10 // our number of that sensor
)

// power notes that the machine went on or off.
func (l *eventLog) power(p testbed.Power) {
	state := byte(stateOn)
	if p == testbed.Off {
		state = stateOff
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.records) >= maxRecords {
		l.full = true
		return
	}
	l.next++
	l.added = time.Now()
	var r record
	binary.LittleEndian.PutUint16(r[0:], l.next)
	r[2] = 0x02 // system event
	binary.LittleEndian.PutUint32(r[3:], uint32(l.added.Unix()))
	r[7], r[9], r[10], r[11], r[12], r[13], r[14], r[15] = fromBMC, 0x04, acpiPower, powerIndex, specific, state, 0xff, 0xff
	l.records = append(l.records, r)
}

// register adds the log's commands.
func (l *eventLog) register(r *handlers.Registry) {
	for c, f := range map[types.Command]func([]byte) ([]byte, types.CompletionCode){
		types.CommandGetSELInfo:  l.info,
		types.CommandReserveSEL:  l.reserve,
		types.CommandGetSELEntry: l.entry,
		types.CommandClearSEL:    l.clear,
		types.CommandGetSELTime:  l.clock,
	} {
		r.RegisterFunc(c, func(_ context.Context, _ *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			b, cc := f(data)
			return b, cc, nil
		})
	}
}

// seconds is a time as it is sent; a zero one is "unspecified".
func seconds(t time.Time) uint32 {
	if t.IsZero() {
		return 0xffffffff
	}
	return uint32(t.Unix())
}

func (l *eventLog) info([]byte) ([]byte, types.CompletionCode) {
	b := make([]byte, 14)
	b[0] = 0x51 // version 1.5, also of IPMI 2.0
	binary.LittleEndian.PutUint16(b[1:], uint16(len(l.records)))
	binary.LittleEndian.PutUint16(b[3:], uint16((maxRecords-len(l.records))*len(record{})))
	binary.LittleEndian.PutUint32(b[5:], seconds(l.added))
	binary.LittleEndian.PutUint32(b[9:], seconds(l.erased))
	if b[13] = 0x02; l.full { // can be reserved
		b[13] |= 0x80
	}
	return b, types.CodeOK
}

func (l *eventLog) reserve([]byte) ([]byte, types.CompletionCode) {
	if l.reservation++; l.reservation == 0 {
		l.reservation = 1
	}
	return binary.LittleEndian.AppendUint16(nil, l.reservation), types.CodeOK
}

func (l *eventLog) entry(data []byte) ([]byte, types.CompletionCode) {
	if len(data) < 6 {
		return nil, types.CodeRequestDataLengthInvalid
	}
	const first, last, all = 0, 0xffff, 0xff
	id, offset, n := binary.LittleEndian.Uint16(data[2:]), int(data[4]), int(data[5])
	for i, r := range l.records {
		if id != binary.LittleEndian.Uint16(r[:]) && (id != first || i != 0) && (id != last || i != len(l.records)-1) {
			continue
		}
		next := uint16(last)
		if i+1 < len(l.records) {
			next = binary.LittleEndian.Uint16(l.records[i+1][:])
		}
		if offset >= len(r) {
			return nil, types.CodeParameterOutOfRange
		}
		end := len(r)
		if n != all {
			end = min(end, offset+n)
		}
		return append(binary.LittleEndian.AppendUint16(nil, next), r[offset:end]...), types.CodeOK
	}
	return nil, types.CodeRequestedDataNotPresent
}

func (l *eventLog) clear(data []byte) ([]byte, types.CompletionCode) {
	if len(data) < 6 || string(data[2:5]) != "CLR" {
		return nil, types.CodeRequestDataFieldInvalid
	}
	if binary.LittleEndian.Uint16(data) != l.reservation {
		return nil, types.CodeReservationCanceled
	}
	const begin, erased = 0xaa, 0x01
	if data[5] == begin {
		l.records, l.full, l.erased = nil, false, time.Now()
	}
	return []byte{erased}, types.CodeOK
}

func (l *eventLog) clock([]byte) ([]byte, types.CompletionCode) {
	return binary.LittleEndian.AppendUint32(nil, seconds(time.Now())), types.CodeOK
}
