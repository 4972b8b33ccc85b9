package machineapi

import (
	"io/fs"
	"net/http"
	"regexp"
)

// layout serves an OCI image layout, and of its directory nothing else: what
// is written there under other names is nobody's business.
type layout struct {
	fs    fs.FS
	files http.Handler
}

var layoutFile = regexp.MustCompile(`^/(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

func (l layout) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !layoutFile.MatchString(r.URL.Path) {
		http.NotFound(w, r)
		return
	}
	if fi, err := fs.Lstat(l.fs, r.URL.Path[1:]); err != nil || !fi.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	l.files.ServeHTTP(w, r)
}
