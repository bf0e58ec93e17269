#!/bin/sh
# Assembles a root directory (this host's python3 with its library, the packages, the handler) and makes an
# image of it: build.sh [-o FILE]
set -eu
umask 022
cd "$(dirname "$0")"
: "${ROOST:=roost}"
python3 -m pip --version >/dev/null || { echo "pip is missing: apt-get install python3-pip" >&2; exit 1; }
python=$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')
library=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')

rm -rf rootfs
mkdir -p rootfs/bin rootfs/etc rootfs/tmp rootfs/var/task "rootfs$(dirname "$python")" "rootfs$library"
chmod 1777 rootfs/tmp
python3 -m pip install --quiet --disable-pip-version-check --no-compile --target rootfs/var/task -r requirements.txt
cp app.py rootfs/var/task
cp "$python" "rootfs$python"
[ "$python" = /bin/python3 ] || ln -s "$python" rootfs/bin/python3
# Without its tests, its windows, its compilers, and what is installed beside it.
tar -C "$library" --exclude __pycache__ --exclude ./test --exclude '_test*' --exclude ./site-packages --exclude ./dist-packages \
  --exclude './config-*' --exclude ./idlelib --exclude ./turtledemo --exclude '*tkinter*' --exclude ./ensurepip --exclude ./lib2to3 \
  --exclude ./distutils --exclude ./pydoc_data -c . | tar -C "rootfs$library" -x
# Every library and the loader, at the path where Python looks for it.
find "rootfs$library" rootfs/var/task -name '*.so' -exec ldd "$python" {} + |
  awk '$2 == "=>" && $3 ~ "^/" { print $3 } $1 ~ "^/" && $1 !~ ":$" { print $1 }' | sort -u | while read -r needed; do
  mkdir -p "rootfs$(dirname "$needed")"
  cp -L "$needed" "rootfs$needed"
done
# Their symbols are most of them.
! command -v strip >/dev/null || find rootfs -name '*.so*' -exec strip --strip-unneeded {} +
echo 'lambda:x:1000:1000::/tmp:/bin/false' >rootfs/etc/passwd
echo 'lambda:x:1000:' >rootfs/etc/group
echo 'hosts: files dns' >rootfs/etc/nsswitch.conf
exec "$ROOST" image build rootfs -t lambda-python --user 1000:1000 --workdir /var/task \
  --entrypoint '/bin/python3 -m awslambdaric' --cmd app.handler "$@"
