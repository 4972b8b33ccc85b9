package command

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
)

// Relay turns the events that another program prints with --json into progress
// of this one's, and returns the error that it reports, if any. It reads r to
// its end.
func (p *Progress) Relay(r io.Reader) (said error) {
	steps := map[string]*Step{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e Event
		if json.Unmarshal(s.Bytes(), &e) != nil {
			continue
		}
		switch st := steps[e.Step]; {
		case e.Event == "error":
			said = &Error{Status: e.Exit, Err: errors.New(e.Detail), Hint: e.Hint}
		case e.Event == "start":
			p.meter.counted(Count{Total: e.Total, Done: e.Done})
			steps[e.Step] = p.Start(e.Step)
		case e.Event == "part" && st != nil:
			st.Part(int64(e.Percent), 100)
		case e.Event != "done" || st == nil:
		default:
			delete(steps, e.Step)
			st.relay(e)
		}
	}
	for _, st := range steps { // the program died in the middle of them
		st.Done(errors.New("not ended"), "")
	}
	_, _ = io.Copy(io.Discard, r)
	return said
}

func (s *Step) relay(e Event) {
	switch e.Status {
	case "cached":
		s.Cached(e.Detail)
	case "failed":
		s.Done(errors.New(e.Detail), e.Detail)
	default:
		s.Done(nil, "")
	}
}
