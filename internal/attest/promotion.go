package attest

import "time"

// Promotion is the predicate of a channel that was moved to an image.
type Promotion struct {
	Channel   string     `json:"channel"`
	From      string     `json:"from,omitempty"`     // the channel that it was in before
	Previous  string     `json:"previous,omitempty"` // digest of what the channel held
	Kind      string     `json:"kind"`               // promote or rollback
	Who       string     `json:"who"`
	Why       string     `json:"why"`
	At        time.Time  `json:"at"`
	Policy    string     `json:"policy"`              // "sha256:…" of the channel's policy
	Evidence  []string   `json:"evidence,omitempty"`  // digests of what is attached to the image and counted
	Approvals []Approval `json:"approvals,omitempty"` // that counted
}

// Approval is one person's word.
type Approval struct {
	Who string    `json:"who"`
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at"`
}
