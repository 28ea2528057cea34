//go:build cgo

package egress

// withCgo: the C library's resolver can be used.
const withCgo = true
