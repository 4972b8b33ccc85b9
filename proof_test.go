package goldsmith_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/testenv"
)

var proofFile = flag.String("proof", "", "write the table of docs/compatibility.md from the lines of this file (make proof)")

const (
	compatibility = "docs/compatibility.md"
	proofBegin    = "<!-- proof: begin, written by \"make proof\" -->\n"
	proofEnd      = "<!-- proof: end -->\n"
	proofHeader   = "| matter | cases | equal | both refuse | different on purpose |\n|---|---|---|---|---|\n"
)

// The table of the comparison with the originals stands between its marks and
// has a row for each matter that a test compares. With -proof it is written.
func TestProofTable(t *testing.T) {
	text, err := os.ReadFile(compatibility)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(text), proofBegin)
	table, after, ends := strings.Cut(rest, proofEnd)
	if !begins || !ends {
		t.Fatalf("%s: the marks %q and %q are not there", compatibility, proofBegin, proofEnd)
	}
	if *proofFile != "" {
		table = "\n" + testenv.Compared(t) + "\n\n" + proofHeader + proofRows(t, *proofFile, table) + "\n"
		whole := []byte(before + proofBegin + table + proofEnd + after)
		if err := atomicfile.Write(compatibility, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, rows, ok := strings.Cut(table, proofHeader)
	if !ok {
		t.Fatalf("%s: no table with the header %q", compatibility, proofHeader)
	}
	var got []string
	for line := range strings.Lines(strings.TrimSpace(rows)) {
		got = append(got, strings.TrimSpace(strings.Split(line, "|")[1]))
	}
	if d := cmp.Diff(testenv.Matters(), got); d != "" {
		t.Errorf("%s: rows (-tests +table), run 'make proof':\n%s", compatibility, d)
	}
}

// proofRows are the rows that tests have written to a file, in the table's
// order. A matter that is not there keeps its row of the old table.
func proofRows(t *testing.T, file, old string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := make([]string, len(testenv.Matters()))
	for dec := json.NewDecoder(bytes.NewReader(content)); ; {
		var r testenv.Row
		if err := dec.Decode(&r); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		switch i := slices.Index(testenv.Matters(), r.Matter); {
		case i < 0:
			t.Fatalf("%q is no matter of the table", r.Matter)
		case lines[i] != "":
			t.Fatalf("%q was compared twice", r.Matter)
		default:
			lines[i] = r.String() + "\n"
		}
	}
	for i, m := range testenv.Matters() {
		_, row, ok := strings.Cut(old, "| "+m+" |")
		row, _, _ = strings.Cut(row, "\n")
		switch {
		case lines[i] == "" && !ok:
			t.Fatalf("no test has compared %q", m)
		case lines[i] == "":
			lines[i] = "| " + m + " |" + row + "\n"
		}
	}
	return strings.Join(lines, "")
}
