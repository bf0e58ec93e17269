#!/bin/sh
# Assembles a root directory (watchdog, busybox, the script) and makes an image of it: build.sh [-o FILE]
# HANDLER is another script than this directory's, IMAGE the name of what comes of it.
set -eu
umask 022
cd "$(dirname "$0")"
: "${ROOST:=roost}" "${HANDLER:=handler.sh}" "${IMAGE:=shell}"
command -v busybox >/dev/null || { echo 'busybox is missing: apt-get install busybox-static' >&2; exit 1; }
if ldd "$(command -v busybox)" >/dev/null 2>&1; then
  echo 'this busybox is not static: apt-get install busybox-static' >&2; exit 1
fi
command -v cargo >/dev/null || { echo 'cargo is missing: install Rust, see https://rustup.rs' >&2; exit 1; }
host=$(cargo -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-../../target}
RUSTFLAGS='-C target-feature=+crt-static' \
  cargo build --release --locked --target "$host" --target-dir "$target" -p watchdog

rm -rf rootfs
mkdir -p rootfs/bin rootfs/etc rootfs/tmp
chmod 1777 rootfs/tmp
cp "$target/$host/release/watchdog" "$(command -v busybox)" rootfs/bin
for applet in sh cat uname; do ln -s busybox "rootfs/bin/$applet"; done
install -m 0755 "$HANDLER" rootfs/bin/handler
echo 'app:x:1000:1000::/:/bin/sh' >rootfs/etc/passwd
exec "$ROOST" image build rootfs -t "$IMAGE" --user 1000:1000 --cmd '/bin/watchdog /bin/handler' "$@"
