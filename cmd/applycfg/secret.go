package main

import (
	"context"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// below is what of the metadata templates get.
func (a *app) below(doc *metadata.Object) (*metadata.Object, error) {
	a.named = applycfg.NamedSecret(doc, a.subhash)
	return applycfg.Subhash(doc, a.subhash)
}

// secrets are those of the metadata; nil, when these cannot be read: to go back
// must be possible without.
func (a *app) secrets(ctx context.Context, io command.IO) *applycfg.Secrets {
	doc, err := a.load(ctx, io)
	if err == nil {
		doc, err = a.below(doc)
	}
	if err != nil {
		a.say(io, "no line is shown, as it is not known what is secret: %v", err)
		return nil
	}
	return a.tree().FindSecrets(doc)
}

// tree is the directory of templates, with what its schema says of secrets.
func (a *app) tree() applycfg.Templates {
	t := applycfg.Templates{Dir: a.templates, Strict: a.strict, Secret: a.rules.Secrets(a.subhash)}
	if a.named {
		t.Secret = func(string) bool { return true }
	}
	if a.rules != nil {
		for _, k := range a.rules.Keys {
			if k.Secret {
				t.Marked = append(t.Marked, k.Name)
			}
		}
	}
	return t
}
