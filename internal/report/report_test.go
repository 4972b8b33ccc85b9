package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"goldsmith/internal/filelist"
)

const hostile = `"><script>alert('x')</script><img src=x onerror=y>{{.Name}}`

// build is a build in which every text is hostile.
func build() Build {
	b := Build{
		Name: "demo" + hostile, Version: hostile, Release: hostile, Arch: hostile, Failed: hostile,
		Started: time.Unix(1700000000, 0), Took: 10 * time.Second, CPU: 12 * time.Second, Elements: []string{hostile},
		Outputs:  []Output{{"raw" + hostile, hostile, 2 << 30, 1 << 20, hostile}},
		Packages: []Package{{hostile, hostile, hostile}}, Warnings: []string{hostile},
		Steps: []Step{
			{Name: "second", Start: 2 * time.Second, Took: 8 * time.Second, CPU: 9 * time.Second, Failed: true},
			{Name: "first" + hostile, Phase: hostile, Element: hostile, Why: hostile, Took: time.Second, Cached: true},
		},
	}
	for i := range 300 {
		b.Files = append(b.Files, filelist.File{
			Path: fmt.Sprintf("/usr/%s/%d/%d", strings.ReplaceAll(hostile, "/", ""), i%7, i),
			Type: "file", Size: int64(i*i) << 10,
			Package: []string{"", hostile, "libc6"}[i%3],
		})
	}
	return b
}

func render(t *testing.T, b Build) string {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Hostile names stay text, and the page refers to nothing.
func TestHostile(t *testing.T) {
	page := render(t, build())
	body := page[strings.Index(page, "<body>"):]
	for _, bad := range []string{"<script", "<img", "onerror=y>", "src=x o", "<a ", "href", "url("} {
		if i := strings.Index(strings.ReplaceAll(body, "&lt;img src=x onerror=y&gt;", ""), bad); i >= 0 {
			t.Errorf("%q in %q", bad, body[max(0, i-60):min(len(body), i+60)])
		}
	}
	if !strings.Contains(body, "alert(&#39;x&#39;)&lt;/script&gt;") {
		t.Error("the names are not in the page")
	}
	if strings.Contains(page, " style=") || strings.Contains(page, "http://") || strings.Contains(page, "https://") {
		t.Error("the page has style attributes or addresses")
	}
}

// The policy names the style sheet that is in the page.
func TestPolicy(t *testing.T) {
	page := render(t, Build{Name: "x"})
	css := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(page)
	hash := regexp.MustCompile(`style-src 'sha256-([^']*)'`).FindStringSubmatch(page)
	if css == nil || hash == nil {
		t.Fatalf("no style or no policy in %.600s", page)
	}
	sum := sha256.Sum256([]byte(css[1]))
	want := base64.StdEncoding.EncodeToString(sum[:])
	if got := strings.ReplaceAll(strings.ReplaceAll(hash[1], "&#43;", "+"), "&#39;", "'"); got != want {
		t.Errorf("policy has %s; the sheet is %s", got, want)
	}
}

// The elements of the body are balanced, and steps are in the order of time.
func TestPage(t *testing.T) {
	page := render(t, build())
	if again := render(t, build()); again != page {
		t.Error("the same build has two reports")
	}
	body := page[strings.Index(page, "<body>"):strings.Index(page, "</html>")]
	d := xml.NewDecoder(strings.NewReader(strings.ReplaceAll(body, "<br>", "<br/>")))
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if first, second := strings.Index(body, ">first"), strings.Index(body, ">second"); first < 0 || first > second {
		t.Errorf("steps at %d and %d", first, second)
	}
	for _, want := range []string{"10.0 s", "12.0 s", "1 of 2", "2.00 GiB", "failed", `x="200" y="1" width="800"`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in the page", want)
		}
	}
}

// A build of nothing has a page without sections.
func TestEmpty(t *testing.T) {
	page := render(t, Build{Name: "x"})
	if strings.Contains(page, "<section") || !strings.Contains(page, "<h1>x ") {
		t.Errorf("page: %s", page[strings.Index(page, "<body>"):])
	}
}

func TestTicks(t *testing.T) {
	for _, ms := range []time.Duration{1, 37, 1000, 41_000, 10_800_000} {
		total := ms * time.Millisecond
		if n := total / tickStep(total); n < 1 || n > 9 {
			t.Errorf("%v has %d ticks", total, n)
		}
	}
}

// The parts of a map fill it in proportion, and none leaves it.
func TestSquarify(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		root := &node{kids: map[string]*node{}}
		for i, size := range rapid.SliceOfN(rapid.Int64Range(1, 1<<40), 1, 60).Draw(t, "sizes") {
			name := strconv.Itoa(i)
			root.kids[name] = &node{name: name, size: size, files: 1}
			root.size += size
		}
		r := rect{10, 20, rapid.Float64Range(30, 2000).Draw(t, "width"), rapid.Float64Range(30, 2000).Draw(t, "height")}
		list := root.shown(r.w * r.h)
		var area float64
		for i, b := range squarify(list, r) {
			const slack = 0.01
			if b.x < r.x-slack || b.y < r.y-slack || b.x+b.w > r.x+r.w+slack || b.y+b.h > r.y+r.h+slack {
				t.Fatalf("%v lies outside of %v", b, r)
			}
			want := r.w * r.h * float64(list[i].size) / float64(root.size)
			if math.Abs(b.w*b.h-want) > 0.01*want+slack {
				t.Fatalf("%v has an area of %f; want %f", b, b.w*b.h, want)
			}
			area += b.w * b.h
		}
		if math.Abs(area-r.w*r.h) > 0.01*r.w*r.h {
			t.Fatalf("the parts fill %f of %f", area, r.w*r.h)
		}
	})
}

func TestJoin(t *testing.T) {
	m := directoryMap([]filelist.File{
		{Path: "/usr/lib/modules/a", Size: 1 << 20}, {Path: "/usr/lib/modules/b", Size: 1 << 20},
		{Path: "/etc/x", Size: 1 << 20},
		{Path: "/usr/lib/modules/c", Size: 1 << 20, Link: "/usr/lib/modules/a"},
	})
	var got []string
	for _, c := range m.Cells {
		got = append(got, c.Title)
	}
	want := "/usr/lib/modules: 2.0 MiB in 2 files|/usr/lib/modules/a: 1.0 MiB|/usr/lib/modules/b: 1.0 MiB|/etc/x: 1.0 MiB"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("cells %s; want %s", s, want)
	}
}

// A build that began at no time at all, or took centuries, has a page.
func TestEndlessTimeline(t *testing.T) {
	for _, took := range []time.Duration{-1, 0, 1<<63 - 1} {
		_, ticks := timeline([]Step{{Name: "x", Start: took, Took: 1}}, took)
		if len(ticks) == 0 || len(ticks) > 10 {
			t.Errorf("%d: %d ticks", took, len(ticks))
		}
	}
}
