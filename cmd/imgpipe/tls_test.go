package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"goldsmith/internal/api"
	"goldsmith/internal/store"
	"goldsmith/pipeline"
)

// certificate makes one for 127.0.0.1 that signs itself, and returns the files of
// it and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	err = errors.Join(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// A server speaks TLS, and a client only to one whose certificate counts.
func TestTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t)
	dir := filepath.Join(t.TempDir(), "store")
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, slog.New(slog.DiscardHandler), &settings{Dir: dir, Listen: address, Cert: cert, Key: key})
	}()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	for range 100 {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	db, err := store.Open(t.Context(), filepath.Join(dir, "imgpipe.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	secret, err := api.NewAccess(db).Add(t.Context(), "eve", api.Viewer, 0, "test")
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(url, ca string) error {
		c, err := api.NewClient(url, token, ca)
		if err != nil {
			return err
		}
		var runs struct{ Runs []*pipeline.Run }
		return c.Call(t.Context(), http.MethodGet, "/v1/runs", nil, &runs, 10*time.Second)
	}
	if err := ask("https://"+address, cert); err != nil {
		t.Error(err)
	}
	if err := ask("https://"+address, ""); err == nil {
		t.Error("a certificate that nobody vouches for was taken")
	}
	if err := ask("http://"+address, ""); err == nil {
		t.Error("it was asked without TLS")
	}
	if _, err := api.NewClient("http://192.0.2.1:8480", token, ""); err == nil {
		t.Error("a token would go over a network without TLS")
	}
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := api.NewClient("https://"+address, token, cert); err == nil {
		t.Error("a token that others can read was taken")
	}
}
