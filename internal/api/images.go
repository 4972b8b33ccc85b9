package api

import (
	"errors"
	"net/http"
	"strings"

	"goldsmith/internal/registry"
)

// imagesPath is where registries are (distribution-spec, "Endpoints").
const imagesPath = "/v2/"

// maxBlob is how much a request to the registry may bring, in bytes.
const maxBlob = 64 << 30

// imageRoutes are the registry's: whoever may look may read, and workers may;
// they and operators may write.
func (s *Server) imageRoutes() []route {
	if s.Images == nil {
		return nil
	}
	serve := s.Images.ServeHTTP
	return []route{
		{method: http.MethodGet, path: imagesPath, role: Viewer, also: Work, serve: serve, raw: true, images: true},
		{path: imagesPath, role: Operator, also: Work, serve: serve, raw: true, images: true},
	}
}

// RoleOf is the role of whoever makes a request that the server has let through.
func RoleOf(r *http.Request) Role {
	id, _ := r.Context().Value(identityKey{}).(identity)
	return id.role
}

// credentials is the token that a request carries. Registries' clients log in
// with a name and a password; the name is not looked at. Elsewhere that does
// not count: browsers send it along unasked.
func credentials(rt route, r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok && rt.images {
		return password
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// deny refuses whoever may not ask for that.
func (s *Server) deny(rec *recorder, rt route, status int, err error) {
	scheme := "Bearer"
	if rt.images {
		scheme = "Basic"
	}
	if status == http.StatusUnauthorized {
		rec.Header().Set("WWW-Authenticate", scheme+` realm="imgpipe"`)
	}
	if !rt.images {
		refuse(rec, status, err)
		return
	}
	rec.said = err.Error()
	code := "DENIED"
	if status == http.StatusUnauthorized {
		code = "UNAUTHORIZED"
	}
	registry.Refuse(rec, status, code, err.Error())
}

// allowed tells whether a role suffices for a route.
func (rt route) allowed(role Role) error {
	if role.may(rt.role) || rt.also != "" && role == rt.also {
		return nil
	}
	return errors.New("this needs the role " + string(rt.role) + "; the token's is " + string(role))
}

// worthNote tells whether a request, answered with status, is written down.
func (rt route) worthNote(r *http.Request, status int) bool {
	switch {
	case status == http.StatusUnauthorized && rt.images && r.Header.Get("Authorization") == "":
		return false // clients ask so whether they must log in
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusRequestEntityTooLarge:
		return true
	case rt.images: // a push ends with a manifest
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
	}
	return rt.changes()
}
