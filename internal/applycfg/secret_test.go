package applycfg

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// Of random templates and metadata, no secret is in the difference of what they
// make, whether the old metadata had it or the new ones have.
func TestDiffHidesSecrets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 1500 {
		text := randomTemplate(rnd, 3)
		dir := write(t, t.TempDir(), map[string]string{"t/f": text})
		before, old := randomMetadata(rnd, "OLD")
		after, now := randomMetadata(rnd, "NEW")
		out := Output{Dir: dir + "/out", DryRun: true, Diff: true}
		files, err := (Templates{Dir: dir + "/t"}).Render(t.Context(), doc(t, before))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		write(t, dir, map[string]string{"out/f": string(files[0].Body)})
		if files, err = (Templates{Dir: dir + "/t", Hide: true}).Render(t.Context(), doc(t, after)); err != nil {
			t.Fatal(err)
		}
		changes, err := out.Apply(t.Context(), files)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range append(old, now...) {
			if strings.Contains(changes[0].Diff, s) {
				t.Fatalf("%d: template %q\nof %s\nto %s\nshows %q:\n%s", i, text, before, after, s, changes[0].Diff)
			}
		}
	}
}

func randomTemplate(rnd *rand.Rand, depth int) string {
	var b strings.Builder
	for range 1 + rnd.IntN(6) {
		switch n := rnd.IntN(10); {
		case n < 3:
			b.WriteString([]string{"port ", "k=", " x", "\n", "\n", ": ", "auth = none", "end\n"}[rnd.IntN(8)])
		case n < 7 || depth == 0:
			fmt.Fprintf(&b, "{{%s}}", []string{"o.password", "o.user", "o.port", "tls.private_key", "token", "user", ".", "o", "l"}[rnd.IntN(9)])
		default:
			key := []string{"o.password", "o", "l", "tls.on", "token", "o.port", "none"}[rnd.IntN(7)]
			fmt.Fprintf(&b, "{{%c%s}}%s{{/%s}}", "#^"[rnd.IntN(2)], key, randomTemplate(rnd, depth-1), key)
		}
	}
	return b.String()
}

// randomMetadata also returns the secrets in it, line by line.
func randomMetadata(rnd *rand.Rand, mark string) (text string, secrets []string) {
	n := 0
	secret := func() string {
		var list []string
		for range 1 + rnd.IntN(2) {
			n++
			list = append(list, fmt.Sprintf("%s%dq", mark, n))
		}
		secrets = append(secrets, list...)
		return fmt.Sprintf("%q", strings.Join(list, "\n"))
	}
	maybe := func(of string) string {
		if rnd.IntN(3) == 0 {
			return "null"
		}
		return of
	}
	text = fmt.Sprintf(`{"o": %s, "tls": {"on": %v, "private_key": %s}, "l": %s, "token": %s}`,
		maybe(fmt.Sprintf(`{"password": %s, "user": "u%d", "port": %d}`, maybe(secret()), rnd.IntN(3), rnd.IntN(3))),
		rnd.IntN(2) == 0, maybe(secret()),
		maybe(fmt.Sprintf(`[{"user": "a", "token": %s}, {"user": "b\nc", "password": %s}]`, secret(), secret())),
		maybe(fmt.Sprintf(`[%s, %s]`, secret(), secret())))
	return text, secrets
}
