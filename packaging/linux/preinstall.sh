#!/bin/sh
# Creates the user and group that the service runs as.
set -e
getent group caddy >/dev/null || groupadd --system caddy
getent passwd caddy >/dev/null ||
	useradd --system --gid caddy --home-dir /var/lib/caddy --no-create-home --shell /usr/sbin/nologin caddy
