package rootfs

import (
	"fmt"
	"testing"
)

func TestParseSudo(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"id", "-u"}, "{false  [] [id -u]}"},
		{[]string{"-nE", "-H", "--", "id"}, "{true  [] [id]}"},
		{[]string{"--preserve-env=A,B", "A=1", "B=/x", "env", "C=2"}, "{true  [A=1 B=/x] [env C=2]}"},
		{[]string{"-u", "www-data", "id"}, "{false www-data [] [id]}"},
		{[]string{"--user=www-data", "id"}, "{false www-data [] [id]}"},
		{[]string{"/opt/a=b"}, "{false  [] [/opt/a=b]}"},
		{[]string{"-v"}, "{false  [] []}"},
		{nil, "{false  [] []}"},
		{[]string{"-i", "id"}, "-i: not known to this stand-in; the real sudo does not work in a build without root"},
		{[]string{"-u"}, "-u: needs a user"},
	} {
		c, err := parseSudo(tt.args)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprint(*c)
		}
		if got != tt.want {
			t.Errorf("parseSudo(%q) = %s; want %s", tt.args, got, tt.want)
		}
	}
}
