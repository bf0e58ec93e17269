#!/bin/sh
# Makes the image chat-lambda: build.sh [-o FILE]
set -eu
cd "$(dirname "$0")"
exec ../node-image chat-lambda 'serve.mjs handler.mjs' "$@"
