#!/bin/sh
# Makes the image socket-io: build.sh [-o FILE]
set -eu
cd "$(dirname "$0")"
exec ../node-image socket-io 'server.js' "$@"
