// Package app finds the app module of a configuration for the modules that work
// with it. Each asks for the methods that it needs.
package app

import (
	"fmt"

	"github.com/caddyserver/caddy/v2"
)

// Name is the name of the app module, and of its directives.
const Name = "replicate_webhook"

// Get returns the app of the configuration that is being provisioned. An app that
// is not configured is provisioned with its defaults.
func Get[T any](ctx caddy.Context) (T, error) { return as[T](ctx.App(Name)) }

// Running returns the app of the configuration that runs now. The error is
// caddy.ErrNotConfigured if it has none.
func Running[T any]() (T, error) { return as[T](caddy.ActiveContext().AppIfConfigured(Name)) }

func as[T any](mod any, err error) (T, error) {
	app, ok := mod.(T)
	if err == nil && !ok {
		err = fmt.Errorf("app %s has unexpected type %T", Name, mod)
	}
	return app, err
}
