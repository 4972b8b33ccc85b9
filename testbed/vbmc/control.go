package vbmc

import (
	"encoding/json"
	"net/http"

	"goldsmith/testbed"
)

// State is what a BMC is asked over its control socket: docs/formats.md,
// "Control socket of imgpipe vbmc".
type State struct {
	Machine string  `json:"machine"`
	Addr    string  `json:"addr"`  // that it listens on
	Power   string  `json:"power"` // the machine's, whatever the BMC says: "on", "off" or "unknown"
	Faults  []Fault `json:"faults"`
}

// maxRequest bounds a request's body, in bytes.
const maxRequest = 4096

// Handler answers "GET /" with the State, and "PUT /faults", whose body is a
// JSON list of faults, by setting these and no others. A name that is no fault
// is status 400, with a line that says so.
func (b *BMC) Handler() http.Handler {
	mux := http.NewServeMux()
	state := func(w http.ResponseWriter, r *http.Request) {
		p, err := b.cfg.Machine.Power(r.Context())
		if err != nil {
			p = testbed.Unknown
		}
		s := State{b.cfg.Machine.Name(), b.Addr(), p.String(), b.Faults()}
		if s.Faults == nil {
			s.Faults = []Fault{}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s)
	}
	mux.HandleFunc("GET /{$}", state)
	mux.HandleFunc("PUT /faults", func(w http.ResponseWriter, r *http.Request) {
		var list []Fault
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&list); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := b.SetFaults(list...); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		state(w, r)
	})
	return mux
}
