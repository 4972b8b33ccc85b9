package api

import (
	"errors"
	"net/http"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	"goldsmith/pipeline"
)

// Promotion asks for a move of a channel.
type Promotion struct {
	Image string `json:"image"` // digest, or a channel that holds it
	Why   string `json:"why"`
}

// Approval is what somebody says of an image.
type Approval struct {
	Image string `json:"image"`
	Why   string `json:"why,omitempty"`
}

// Stopping holds a channel or an image, or freezes a channel.
type Stopping struct {
	Why   string    `json:"why"`
	Until time.Time `json:"until,omitzero"` // zero: until it is ended
}

// Refusal is the answer about a move that the policy does not allow.
type Refusal struct {
	Problem
	Decision pipeline.Decision `json:"decision"`
}

func (s *Server) channelRoutes() []route {
	post := http.MethodPost
	return []route{
		{method: http.MethodGet, path: "/v1/channels", role: Viewer, summary: "what channels hold, and what the next image lacks", out: []promotion.State{}, serve: s.channels},
		{method: post, path: "/v1/channels/{channel}/promote", role: Operator, summary: "let an image into a channel if its policy allows it; 422 says what is missing", in: Promotion{}, out: promotion.Move{}, serve: s.promote},
		{method: post, path: "/v1/channels/{channel}/rollback", role: Operator, summary: "go back to what the channel held before, and stay there until it is released", in: Reason{}, out: promotion.Move{}, serve: s.rollback},
		{method: post, path: "/v1/channels/{channel}/approve", role: Approver, summary: "approve an image", in: Approval{}, out: Done{}, serve: s.approve},
		{method: post, path: "/v1/channels/{channel}/freeze", role: Operator, summary: "let nothing in", in: Stopping{}, out: Done{}, serve: s.freeze},
		{method: post, path: "/v1/channels/{channel}/thaw", role: Operator, summary: "end a freeze", in: Reason{}, out: Done{}, serve: s.thaw},
		{method: post, path: "/v1/holds/{subject}", role: Operator, summary: "hold a channel, or an image by its digest", in: Stopping{}, out: Done{}, serve: s.hold},
		{method: post, path: "/v1/holds/{subject}/release", role: Operator, summary: "end a hold", in: Reason{}, out: Done{}, serve: s.release},
	}
}

// policy is that of the channel which a request names.
func (s *Server) policy(r *http.Request) (*promotion.Policy, error) {
	all, err := s.policies()
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if p.Name == r.PathValue("channel") {
			return p, nil
		}
	}
	return nil, command.BadInput(errors.New("there is no such channel"), "/v1/channels lists them")
}

func (s *Server) policies() ([]*promotion.Policy, error) {
	if s.Book == nil || s.Policies == nil {
		return nil, command.BadInput(errors.New("this server has no channels"), "its setting channels names their file")
	}
	return s.Policies()
}

func (s *Server) channels(w http.ResponseWriter, r *http.Request) {
	all, err := s.policies()
	var states []promotion.State
	if err == nil {
		states, err = s.Book.Channels(r.Context(), all)
	}
	s.reply(w, states, err)
}

func (s *Server) promote(w http.ResponseWriter, r *http.Request) {
	var in Promotion
	var m *promotion.Move
	err := read(r, &in)
	if err == nil {
		var p *promotion.Policy
		if p, err = s.policy(r); err == nil {
			m, err = s.Book.Promote(r.Context(), p, in.Image, promotion.Word{Who: actor(r), Why: in.Why})
		}
	}
	s.moved(w, m, err)
}

func (s *Server) rollback(w http.ResponseWriter, r *http.Request) {
	var in Reason
	var m *promotion.Move
	err := read(r, &in)
	if err == nil {
		var p *promotion.Policy
		if p, err = s.policy(r); err == nil {
			m, err = s.Book.Rollback(r.Context(), p, promotion.Word{Who: actor(r), Why: in.Why})
		}
	}
	s.moved(w, m, err)
}

// moved answers about a move; what a policy does not allow is said as data.
func (s *Server) moved(w http.ResponseWriter, m *promotion.Move, err error) {
	if no, ok := errors.AsType[*pipeline.Refusal](err); ok {
		if rec, ok := w.(*recorder); ok {
			rec.said = err.Error()
		}
		answer(w, http.StatusUnprocessableEntity, Refusal{Problem{Error: command.Plain(err.Error()), Exit: command.StatusFailed}, no.Decision})
		return
	}
	s.reply(w, m, err)
}

func (s *Server) approve(w http.ResponseWriter, r *http.Request) {
	var in Approval
	err := read(r, &in)
	if err == nil {
		_, err = s.policy(r)
	}
	if err == nil {
		err = s.Book.Approve(r.Context(), in.Image, r.PathValue("channel"), promotion.Word{Who: actor(r), Why: in.Why})
	}
	s.reply(w, Done{true}, err)
}

func (s *Server) freeze(w http.ResponseWriter, r *http.Request) {
	var in Stopping
	err := read(r, &in)
	if err == nil {
		_, err = s.policy(r)
	}
	if err == nil {
		err = s.Book.Freeze(r.Context(), r.PathValue("channel"), in.Until, promotion.Word{Who: actor(r), Why: in.Why})
	}
	s.reply(w, Done{true}, err)
}

func (s *Server) thaw(w http.ResponseWriter, r *http.Request) {
	var in Reason
	err := read(r, &in)
	if err == nil {
		_, err = s.policy(r)
	}
	if err == nil {
		err = s.Book.Thaw(r.Context(), r.PathValue("channel"), promotion.Word{Who: actor(r), Why: in.Why})
	}
	s.reply(w, Done{true}, err)
}

func (s *Server) hold(w http.ResponseWriter, r *http.Request) {
	var in Stopping
	err := read(r, &in)
	if err == nil {
		_, err = s.policies()
	}
	if err == nil {
		err = s.Book.Hold(r.Context(), r.PathValue("subject"), in.Until, promotion.Word{Who: actor(r), Why: in.Why})
	}
	s.reply(w, Done{true}, err)
}

func (s *Server) release(w http.ResponseWriter, r *http.Request) {
	var in Reason
	err := read(r, &in)
	if err == nil {
		_, err = s.policies()
	}
	if err == nil {
		err = s.Book.Release(r.Context(), r.PathValue("subject"), promotion.Word{Who: actor(r), Why: in.Why})
	}
	s.reply(w, Done{true}, err)
}
