#!/bin/sh
# Stops the service when the package is removed, and not when it is upgraded. The first
# argument is "upgrade" for dpkg, or 1 for rpm, when another version follows.
set -e
case "$1" in
upgrade | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl disable --now caddy-replicate-webhook.service || true
fi
