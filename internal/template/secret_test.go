package template

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLines(t *testing.T) {
	const text = `port {{redis.port}}
password = {{redis.password}};
{{#redis}}
auth {{auth}} for {{user}}
{{/redis}}
{{#tokens}}{{.}},{{/tokens}} end
{{^redis.password}}
plain {{port}}
{{/redis.password}}
one {{#redis}}{{#users}}{{name}}:{{auth}} {{/users}}{{/redis}}
{{{key}}}
`
	parsed, err := Parse("t", text)
	if err != nil {
		t.Fatal(err)
	}
	secret := func(key string) bool {
		return strings.Contains(key, "password") || strings.Contains(key, "token") || key == "redis.auth" || key == "key"
	}
	want := []Line{{[]string{"port ", ""}, false}, {[]string{"password = ", ";"}, true},
		{[]string{"auth ", " for ", ""}, true}, {[]string{"", ",", " end"}, true}, {[]string{"plain ", ""}, true},
		{[]string{"one ", ":", " ", ""}, true}, {[]string{"", ""}, true}}
	if d := cmp.Diff(want, parsed.Lines(secret)); d != "" {
		t.Errorf("Lines (-want +got):\n%s", d)
	}
}
