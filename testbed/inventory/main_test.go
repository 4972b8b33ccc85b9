package inventory

import (
	"os"
	"testing"

	"goldsmith/internal/store/storetest"
)

// kind is the store that empty uses.
var kind string

// TestMain runs all tests on each store.
func TestMain(m *testing.M) { os.Exit(storetest.MainEach(m, &kind)) }
