#!/bin/sh
# Assembles a root directory (this host's node and its libraries, the agent) and makes an image of it:
# build.sh [-o FILE]
set -eu
umask 022
cd "$(dirname "$0")"
: "${ROOST:=roost}"
command -v node >/dev/null || { echo "node is missing: apt-get install nodejs" >&2; exit 1; }
node=$(readlink -f "$(command -v node)")

rm -rf rootfs
mkdir -p rootfs/app rootfs/bin rootfs/etc rootfs/tmp
chmod 1777 rootfs/tmp
cp "$node" rootfs/bin/node
# Every library and the loader, at the path where node looks for it.
ldd "$node" | awk '$2 == "=>" { print $3 } $1 ~ "^/" { print $1 }' | while read -r library; do
  mkdir -p "rootfs$(dirname "$library")"
  cp -L "$library" "rootfs$library"
done
cp agent.mjs think.mjs rootfs/app
echo 'node:x:1000:1000::/app:/bin/false' >rootfs/etc/passwd
echo 'node:x:1000:' >rootfs/etc/group
echo 'hosts: files dns' >rootfs/etc/nsswitch.conf
exec "$ROOST" image build rootfs -t agent --user 1000:1000 --workdir /app --env NODE_ENV=production \
  --cmd 'node /app/agent.mjs' "$@"
