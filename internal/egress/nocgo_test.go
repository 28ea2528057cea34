//go:build !cgo

package egress

const withCgo = false
