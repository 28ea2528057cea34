package b

import "testing"

func TestPasses(t *testing.T) {}
