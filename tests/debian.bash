# What tests on a Debian of their own share, to be sourced: its files, and a place among the control groups.

# debian_rootfs DIR [OPTION...]: a minimal bookworm in DIR, if it is not there already; the options are mmdebstrap's.
debian_rootfs() {
  local base=$1 sources=() from; shift
  [[ ! -e $base.complete ]] || return 0
  # This system's own mirror, where it says so; otherwise Debian's.
  for from in /etc/apt/sources.list.d/*debian.sources /etc/apt/sources.list; do
    ! grep -qs '^[^#]' "$from" || { sources=("$from"); break; }
  done
  rm -rf --one-file-system "$base"
  mmdebstrap --quiet --variant=minbase \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/{doc,man,locale}/*' \
    "$@" bookworm "$base" "${sources[@]}"
  : >"$base.complete"
}

# enter_cgroups GROUP: a group of our own in each controller, so that what this process starts is nowhere else.
enter_cgroups() {
  local controller
  for controller in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [[ -w $controller/cgroup.procs && ! -L $controller ]] || continue
    mkdir "$controller/$1"
    if [[ -e $controller/cpuset.cpus ]]; then
      cat "$controller/cpuset.cpus" >"$controller/$1/cpuset.cpus"
      cat "$controller/cpuset.mems" >"$controller/$1/cpuset.mems"
    fi
    echo "$BASHPID" >"$controller/$1/cgroup.procs"
  done
}

# remove_cgroups GROUP: once nothing runs in them.
remove_cgroups() {
  local controller
  for controller in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [[ -d $controller/$1 ]] || continue
    find "$controller/$1" -depth -type d -exec rmdir {} + || echo "left: $controller/$1" >&2
  done
}
