package main

import (
	"strings"
	"testing"

	"goldsmith/internal/earlyboot"
)

func TestBootMAC(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "01-52-54-00-AB-cd-ef": "52:54:00:ab:cd:ef", "52:54:00:ab:cd:ef": "52:54:00:ab:cd:ef",
	} {
		if got, err := bootMAC(text); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"eth0", "01-52-54", "20-52-54-00-ab-cd-ef"} {
		if got, err := bootMAC(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestStaticAddress(t *testing.T) {
	read := func(text string) (*static, error) { return staticAddress(earlyboot.ParseCmdline(text)) }
	if s, err := read("quiet"); s != nil || err != nil {
		t.Errorf("none: %+v, %v", s, err)
	}
	s, err := read("goldsmith.address=fd00::5/64 goldsmith.gateway=fd00::1 goldsmith.dns=fd00::1,10.0.0.1")
	if err != nil || s.address.String() != "fd00::5/64" || s.gateway.String() != "fd00::1" || strings.Join(s.dns, " ") != "fd00::1 10.0.0.1" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, text := range []string{"goldsmith.address=10.0.0.5", "goldsmith.address=10.0.0.5/24 goldsmith.gateway=x",
		"goldsmith.address=10.0.0.5/24 goldsmith.dns=10.0.0.1,x"} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), "is no address") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
