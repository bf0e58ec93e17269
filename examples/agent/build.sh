#!/bin/sh
# Makes the image agent: build.sh [-o FILE]
set -eu
cd "$(dirname "$0")"
exec ../node-image agent 'agent.mjs think.mjs' "$@"
