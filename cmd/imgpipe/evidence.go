package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"goldsmith/internal/attest"
	"goldsmith/internal/command"
	"goldsmith/internal/trust"
)

func evidenceCommand() *command.Command {
	var dir, key, trusted string
	var asJSON bool
	return &command.Command{
		Name:  "evidence",
		Args:  "ls|verify IMAGE",
		Short: "show or verify what was said and signed about an image",
		Long: `
  ls IMAGE      list the statements that are attached to the image: how it was
                built, how its tests ended, where it was promoted
  verify IMAGE  the same, and each must be signed by the key, or one of the
                keys of the directory; otherwise the status is 1

Statements are in-toto's, in DSSE envelopes (docs/formats.md, Statements). With
--json the whole predicates are printed.`,
		Example: `imgpipe evidence ls staging
imgpipe evidence verify sha256:5e2f0c --key keys/evidence.pub`,
		Words: []string{"ls", "verify"},
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			fs.StringVar(&key, "key", "", "verify: trust the public key in `file`")
			fs.StringVar(&trusted, "trust", "", "verify: trust the keys of a `directory`, but not those revoked there")
			fs.BoolVar(&asJSON, "json", false, "print JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 2 || args[0] != "ls" && args[0] != "verify" {
				return command.Usage("evidence needs a verb and an image", "imgpipe evidence ls staging; the verbs are ls and verify")
			}
			var policy *trust.Policy
			switch {
			case args[0] == "ls" && (key != "" || trusted != ""):
				return command.Usage("evidence ls verifies nothing: --key and --trust are verify's", "imgpipe evidence verify --key keys/evidence.pub "+args[1])
			case args[0] == "verify":
				var err error
				if policy, err = trusting(key, trusted); err != nil {
					return err
				}
			}
			b := &book{}
			if err := b.open(ctx, dir); err != nil {
				return err
			}
			defer b.close()
			items, err := attest.List(b.store.Images, args[1], policy)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(io, items)
			} else {
				err = printEvidence(io.Stdout, items)
			}
			if err != nil || policy == nil {
				return err
			}
			return allBelieved(items)
		},
	}
}

// trusting is a policy of one key, or of a directory.
func trusting(key, dir string) (*trust.Policy, error) {
	if (key == "") == (dir == "") {
		return nil, command.Usage("verify needs --key or --trust", "imgpipe evidence verify staging --key keys/evidence.pub")
	}
	return trust.ReadPolicy(key, dir)
}

func allBelieved(items []attest.Item) error {
	n := 0
	for _, it := range items {
		if it.Refused != "" {
			n++
		}
	}
	switch {
	case len(items) == 0:
		return fmt.Errorf("nothing is said of the image")
	case n > 0:
		return fmt.Errorf("%d of %d statements are not to be believed", n, len(items))
	}
	return nil
}

func printEvidence(out io.Writer, items []attest.Item) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, it := range items {
		what := "test-result" // from before there were statements
		switch t := strings.Split(it.Type, "/"); {
		case it.Type == attest.SPDXType:
			what = "spdx"
		case it.Type == attest.CycloneDXType:
			what = "cyclonedx"
		case len(t) > 2:
			what = t[len(t)-2] // https://slsa.dev/provenance/v1
		}
		result := it.Result
		if it.Refused != "" {
			result = "refused: " + it.Refused
		}
		signed := "not verified"
		if len(it.Signers) > 0 {
			signed = "signed by " + it.Signers[0][:12]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", it.Digest[:19], what, it.Kind, command.Plain(result), signed)
	}
	return w.Flush()
}
