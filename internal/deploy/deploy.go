// Package deploy is how a machine that has nothing yet is told what to do with
// its disks: the words that its agent (cmd/imgagent) and imgpipe exchange, the
// agent's [Client], and the [Server].
//
// The agent always asks; nothing connects to it. It has a token of 256 bits that
// whoever started the machine put on its kernel command line, and that stands for
// one machine and one start of it: the [Deployment]. Requests are HTTP, bodies
// JSON, below the server's address:
//
//	GET  v1/task?after=ID   the next task; waits up to [MaxPoll] for one
//	POST v1/inventory       what the machine has
//	POST v1/events          how a task goes
//	POST v1/log             what the agent says, numbered from its first line
//	POST v1/result          how a task ended; once
//
// Answers other than 200 are a [Refusal]: 400 for what cannot be read, 401 for an
// unknown token, 409 for what comes twice, too late or out of order, 410 for a
// token that counts no more, 413 for too large a body.
// docs/deploy.md has all of it.
package deploy

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
)

// Paths of the calls, below the server's address.
const (
	pathTask      = "/v1/task"
	pathInventory = "/v1/inventory"
	pathEvents    = "/v1/events"
	pathLog       = "/v1/log"
	pathResult    = "/v1/result"
)

// MaxPoll is how long the server waits with its answer for a task to come.
const MaxPoll = 25 * time.Second

// Limits of what one request may hold; what is more is refused.
const (
	MaxBody   = 1 << 20 // bytes
	MaxLine   = 4 << 10 // bytes of a line of the log; longer ones are cut by the client
	MaxLines  = 1000    // lines of the log
	MaxEvents = 100
	MaxError  = 8 << 10 // bytes of a result's error
)

// Event is how a step of a task goes.
type Event struct {
	Task  string    `json:"task"`
	Step  string    `json:"step"` // NN-name, such as 50-write
	State string    `json:"state"`
	Done  int64     `json:"done,omitempty"`  // bytes, with Progress
	Total int64     `json:"total,omitempty"` // bytes, with Progress
	Time  time.Time `json:"time"`            // by the machine's clock, which may be wrong
	Error string    `json:"error,omitempty"` // with Failed
}

// States of a step.
const (
	Begin    = "begin"
	Progress = "progress"
	End      = "end"
	Failed   = "failed"
)

// Line is one line of the agent's log.
type Line struct {
	Uptime float64 `json:"uptime"` // seconds since the kernel started
	Text   string  `json:"text"`   // without its end
}

// lines is the body of a call that brings lines of the log. The first line of a
// boot has the number 0.
type lines struct {
	Boot  string `json:"boot"`  // which start of the machine, as the kernel calls it
	First int64  `json:"first"` // number of the first line
	Lines []Line `json:"lines"`
}

// progress answers it: the number of the line that comes next.
type progress struct {
	Next int64 `json:"next"`
}

// Result is how a task ended.
type Result struct {
	Task  string `json:"task"`
	Step  string `json:"step,omitempty"`  // where it failed; empty when it did not
	Error string `json:"error,omitempty"` // why; empty when it did not
	Fault Fault  `json:"fault,omitempty"` // whose fault that is; empty: the machine's, or nobody knows
	Disk  string `json:"disk,omitempty"`  // device file that an image was written to
	// Seconds each step took, by its name.
	Seconds map[string]float64 `json:"seconds,omitempty"`
}

// Fault says whose fault a failed task is.
type Fault string

// ImageFault is the image's, or of where it comes from: the machine can be used.
const ImageFault Fault = "image"

// OK tells whether the task did what it should.
func (r *Result) OK() bool { return r.Error == "" && r.Step == "" }

// Refusal is the server's answer to a call that it does not accept. Asking again does
// not help.
type Refusal struct {
	Status int    `json:"-"`
	Text   string `json:"error"`
	Next   int64  `json:"next,omitempty"` // of the log: the line that is wanted
}

func (r *Refusal) Error() string { return fmt.Sprintf("%s (%d)", r.Text, r.Status) }

// Token stands for one machine and one start of it.
type Token string

// Sum is what is kept of a token: its SHA-256.
type Sum [sha256.Size]byte

// NewToken makes a token of 256 random bits.
func NewToken() Token {
	var b [32]byte
	_, _ = rand.Read(b[:]) // it never fails
	return Token(base64.RawURLEncoding.EncodeToString(b[:]))
}

// Sum is what to find a token by, without keeping it.
func (t Token) Sum() Sum { return sha256.Sum256([]byte(t)) }

// Arguments are what an agent's kernel command line needs: where its server is
// and the token. Whoever reads them can speak for the machine.
func Arguments(server string, t Token) string {
	return ArgServer + "=" + server + " " + ArgToken + "=" + string(t)
}

// Names of kernel arguments.
const (
	ArgServer = "goldsmith.agent"
	ArgToken  = "goldsmith.token"
)
