package collectcfg

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"goldsmith/internal/metadata"
)

// maxDeployments bounds how many documents a source can make: each is several
// files.
const maxDeployments = 1000

// explode makes documents of a source's content: the content itself, under
// the source's name, and one for each deployment below the keys that is meant
// for os-apply-config, under the deployment's name. Too many are an error.
func explode(source string, content *metadata.Object, keys []string) ([]Document, error) {
	docs := []Document{{Name: source, Value: content}}
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	for _, key := range keys {
		v, ok := content.Get(key)
		if !ok {
			continue
		}
		list, ok := v.([]any)
		if !ok {
			note("%s is no list", key)
		}
		for i, e := range list {
			item, _ := e.(*metadata.Object)
			name, ok := item.Get("name")
			if !ok {
				note("%s[%d] has no name", key, i)
				continue
			}
			group, ok := item.Get("group")
			if ok && group != "os-apply-config" && group != "Heat::Ungrouped" {
				continue
			}
			config, ok := item.Get("config")
			if !ok {
				note("%s[%d] has no config", key, i)
				continue
			}
			d := Document{Name: FileName(text(name)), Value: config, Deployment: true}
			if i := slices.IndexFunc(docs, func(o Document) bool { return o.Name == d.Name }); i > 0 {
				docs = slices.Delete(docs, i, i+1) // the later one counts
			}
			if docs = append(docs, d); len(docs) > maxDeployments {
				return nil, temporary{fmt.Errorf("more than %d deployments", maxDeployments)}
			}
		}
	}
	docs[0].Note = strings.Join(notes, "; ")
	return docs, nil
}

// text is a value as part of a name.
func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return metadata.JSON(v)
}

// maxFileName is how long FileName's names are at most, so that those of the
// files made of them stay below the 255 bytes of file systems.
const maxFileName = 200

// FileName makes a name of any text that is safe for a file: what could lead
// out of a directory, hide the file or break a line is written %XX, and the
// end of what is too long becomes a digest. Other names stay as they are.
func FileName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '/' || c == '%' || c == ':' || c < 0x20 || c == 0x7f || c == '.' && i == 0:
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	name := b.String()
	switch {
	case name == "":
		return "%"
	case name == listName:
		return "%6Fs_config_files"
	case len(name) > maxFileName:
		return fmt.Sprintf("%s%%%x", name[:maxFileName-33], sha256.Sum256([]byte(s)))[:maxFileName]
	}
	return name
}
