package bootentry

import (
	"slices"
	"testing"
)

// systemd-boot tries what is newest, and returns from it; it starts something
// as long as there is anything.
func TestChoice(t *testing.T) {
	for _, tt := range []struct {
		want  string
		files []string
	}{
		{"demo_1.efi", []string{"demo_1.efi"}},
		{"demo_2+3.efi", []string{"demo_1.efi", "demo_2+3.efi"}},
		{"demo_10+1-2.efi", []string{"demo_9.efi", "demo_10+1-2.efi"}},
		{"demo_1.efi", []string{"demo_1.efi", "demo_2+0-3.efi"}},
		{"demo_1+3.efi", []string{"demo_1+3.efi", "demo_2+0.efi"}},
		{"demo_2+0.efi", []string{"demo_1+0-3.efi", "demo_2+0.efi"}},
		{"demo_3.efi", []string{"demo_3.efi", "demo_2+3.efi"}},
	} {
		var list []Entry
		for _, f := range tt.files {
			e, ok := ParseFile(f)
			if !ok {
				t.Fatal(f)
			}
			list = append(list, e)
		}
		for range 2 { // in whatever order the directory has them
			if e, ok := Choice(list); !ok || e.File() != tt.want {
				t.Errorf("Choice(%q) = %s, %v; want %s", tt.files, e.File(), ok, tt.want)
			}
			slices.Reverse(list)
		}
	}
	if e, ok := Choice(nil); ok {
		t.Errorf("of nothing, Choice is %+v", e)
	}
}

func TestEnvChoice(t *testing.T) {
	for _, tt := range []struct {
		env  Env
		id   string
		left int
	}{
		{Env{EnvGood: "g"}, "g", 0},
		{Env{EnvGood: "g", EnvTry: "t", EnvLeft: "3"}, "t", 3},
		{Env{EnvGood: "g", EnvTry: "t", EnvLeft: "1"}, "t", 1},
		{Env{EnvGood: "g", EnvTry: "t", EnvLeft: "0"}, "g", 0},
		{Env{EnvGood: "g", EnvTry: "t", EnvLeft: "4"}, "g", 0},
		{Env{EnvGood: "g", EnvTry: "t"}, "g", 0},
		{Env{EnvGood: "g", EnvLeft: "3"}, "g", 0},
	} {
		if id, left := tt.env.Choice(); id != tt.id || left != tt.left {
			t.Errorf("%v: %s, %d left; want %s, %d", tt.env, id, left, tt.id, tt.left)
		}
	}
}
