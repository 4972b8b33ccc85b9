package step

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// signal is what a machine reports when it has configured itself: the body of
// an OpenStack Heat wait condition (docs/formats.md).
type signal struct {
	Status   string // SUCCESS or FAILURE
	Reason   string
	UniqueID string `json:"UniqueId"`
	Data     string
}

// maxSignal bounds a signal's body, in bytes.
const maxSignal = 64 << 10

// receiver waits for one machine's completion signal. The token that the
// machine must show is made for it and worthless once the receiver is closed.
type receiver struct {
	URL   string // where the machine posts to
	Token string

	instance string
	server   *http.Server
	got      chan signal
	once     sync.Once
}

// receive starts a receiver for the machine with that instance id.
func receive(l net.Listener, instance string) *receiver {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // it never fails: crypto/rand
	r := &receiver{
		URL:      fmt.Sprintf("http://%s/v1/signal/%s", l.Addr(), instance),
		Token:    base64.RawURLEncoding.EncodeToString(secret[:]),
		instance: instance, got: make(chan signal, 1),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/signal/{instance}", r.handle)
	r.server = &http.Server{Handler: mux, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second}
	go r.server.Serve(l) //nolint:errcheck // it ends with ErrServerClosed by close
	return r
}

func (r *receiver) handle(w http.ResponseWriter, req *http.Request) {
	token, bearer := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if !bearer || req.PathValue("instance") != r.instance || subtle.ConstantTimeCompare([]byte(token), []byte(r.Token)) != 1 {
		http.Error(w, "this token is not for this machine", http.StatusForbidden)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxSignal))
	if err != nil {
		http.Error(w, "the signal is too large", http.StatusRequestEntityTooLarge)
		return
	}
	var s signal
	if err := json.Unmarshal(body, &s); err != nil || s.Status != "SUCCESS" && s.Status != "FAILURE" {
		http.Error(w, "expected a JSON object whose Status is SUCCESS or FAILURE", http.StatusBadRequest)
		return
	}
	if s.UniqueID != r.instance {
		http.Error(w, "UniqueId is not this machine's instance id", http.StatusBadRequest)
		return
	}
	r.once.Do(func() { r.got <- s })
	fmt.Fprintln(w, "ok")
}

// wait returns the machine's first signal.
func (r *receiver) wait(ctx context.Context) (signal, error) {
	select {
	case s := <-r.got:
		return s, nil
	case <-ctx.Done():
		return signal{}, context.Cause(ctx)
	}
}

// close ends the receiver; the token is worth nothing afterwards.
func (r *receiver) close() { _ = r.server.Close() }
