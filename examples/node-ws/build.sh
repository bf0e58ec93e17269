#!/bin/sh
# Makes the image node-ws: build.sh [-o FILE]
set -eu
cd "$(dirname "$0")"
exec ../node-image node-ws 'server.js' "$@"
