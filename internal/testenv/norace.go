//go:build !race

package testenv

// Race tells whether the race detector is built in: tests that take many rounds
// take fewer then, since each is ten times as long.
const Race = false
