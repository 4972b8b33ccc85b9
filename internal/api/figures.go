package api

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"goldsmith/internal/store"
)

// figures are what Prometheus is told. docs/operations.md has what each is for.
type figures struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newFigures(s *Server) *figures {
	f := &figures{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "imgpipe_http_requests_total", Help: "Requests by route and status."}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "imgpipe_http_request_seconds", Help: "How long requests took, by route.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 60}}, []string{"route"}),
	}
	f.registry.MustRegister(f.requests, f.seconds, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &tables{s.DB})
	return f
}

func (f *figures) request(r route, status int, took time.Duration) {
	f.requests.WithLabelValues(r.pattern(), strconv.Itoa(status)).Inc()
	f.seconds.WithLabelValues(r.pattern()).Observe(took.Seconds())
}

// tables counts rows when it is asked.
type tables struct{ db *store.DB }

// counts are figures by a label, each with its query.
var counts = []struct {
	desc  *prometheus.Desc
	query string
}{
	{prometheus.NewDesc("imgpipe_runs", "Runs that were begun in the last 24 h or have not ended, by state.", []string{"state"}, nil),
		"SELECT state, COUNT(*) FROM run WHERE ended = 0 OR created > ?1 GROUP BY state"},
	{prometheus.NewDesc("imgpipe_tasks_open", "Stages of runs that have not ended, by state.", []string{"state"}, nil),
		"SELECT task.state, COUNT(*) FROM task JOIN run ON task.run = CAST(run.id AS TEXT) WHERE run.ended = 0 AND ?1 > 0 GROUP BY task.state"},
	{prometheus.NewDesc("imgpipe_attempts_failed", "Attempts of the last 24 h that failed, by class.", []string{"class"}, nil),
		"SELECT class, COUNT(*) FROM attempt WHERE state = 'failed' AND started > ?1 GROUP BY class"},
	{prometheus.NewDesc("imgpipe_nodes", "Nodes of the inventory, by state.", []string{"state"}, nil),
		"SELECT state, COUNT(*) FROM node WHERE ?1 > 0 GROUP BY state"},
	{prometheus.NewDesc("imgpipe_nodes_dead", "Nodes that are not alive.", []string{"allowed"}, nil),
		"SELECT CASE allowed WHEN 1 THEN 'yes' ELSE 'no' END, COUNT(*) FROM node WHERE alive = 0 AND ?1 > 0 GROUP BY allowed"},
	{prometheus.NewDesc("imgpipe_workers", "Workers that were heard of in the last minute.", []string{"draining"}, nil),
		"SELECT CASE draining WHEN 1 THEN 'yes' ELSE 'no' END, COUNT(*) FROM worker WHERE seen > ?1 + 86340000 GROUP BY draining"},
	{prometheus.NewDesc("imgpipe_oldest_wait_seconds", "How long the oldest task waits that a worker may take.", []string{"state"}, nil),
		"SELECT 'ready', (?1 + 86400000 - MIN(created)) / 1000 FROM task WHERE state = 'ready' HAVING COUNT(*) > 0"},
}

var up = prometheus.NewDesc("imgpipe_database_up", "1 when the database answered.", nil, nil)

// Describe implements prometheus.Collector.
func (t *tables) Describe(c chan<- *prometheus.Desc) {
	c <- up
	for _, n := range counts {
		c <- n.desc
	}
}

// Collect implements prometheus.Collector.
func (t *tables) Collect(c chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	day := store.Millis(time.Now().Add(-24 * time.Hour))
	err := t.db.View(ctx, func(tx *store.Tx) error {
		for _, n := range counts {
			if err := collect(ctx, tx, c, n.desc, n.query, day); err != nil {
				return err
			}
		}
		return nil
	})
	alive := 1.0
	if err != nil {
		alive = 0
	}
	c <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, alive)
}

func collect(ctx context.Context, tx *store.Tx, c chan<- prometheus.Metric, desc *prometheus.Desc, query string, day int64) error {
	rows, err := tx.Query(ctx, query, day)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var label string
		var n float64
		if err := rows.Scan(&label, &n); err != nil {
			return err
		}
		c <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, n, label)
	}
	return rows.Err()
}
