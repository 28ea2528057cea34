#!/bin/sh
# Makes systemd read the unit. The service is not started: it needs a configuration.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
