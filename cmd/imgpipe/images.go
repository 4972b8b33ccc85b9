package main

import (
	"log/slog"
	"net/http"
	"slices"

	"goldsmith/internal/api"
	"goldsmith/internal/promotion"
	"goldsmith/internal/registry"
	database "goldsmith/internal/store"
	"goldsmith/pipeline/step"
)

// usualChannels are tags that only promotions move, also before the first.
var usualChannels = []string{"candidate", "staging", "production"}

// registryOf serves a store's images. Workers push by digest: what a tag
// stands for is said by people, and of channels by promotions only.
func registryOf(store *step.Store, db *database.DB, policies func() ([]*promotion.Policy, error), log *slog.Logger) http.Handler {
	return store.Images.Handler(registry.Config{Log: log, Protected: func(r *http.Request, tag string) (bool, error) {
		if api.RoleOf(r) == api.Work || slices.Contains(usualChannels, tag) {
			return true, nil
		}
		if policies != nil {
			all, err := policies()
			if err != nil || slices.ContainsFunc(all, func(p *promotion.Policy) bool { return p.Name == tag }) {
				return true, err
			}
		}
		return promotion.Known(r.Context(), db, tag)
	}})
}
