#!/usr/bin/env bash
# Puts Roost on this machine, brings it up to date, or takes it away again.
#
# A run has two halves. The first only looks, and reports every problem at once. The second changes
# the host; each change that succeeds notes how to undo it, and a failure undoes them in reverse.
# It never removes or replaces a Debian package, and never touches settings that are already there.
set -Eeuo pipefail
shopt -s inherit_errexit nullglob
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
readonly ETC=/etc/roost STATE=/var/lib/roost RUN=/run/roost LOGS=/var/log/roost BIN=/usr/local/bin
readonly SHARE=/usr/local/share/roost UNITS=/etc/systemd/system
readonly CONFIG=$ETC/roostd.toml PASSWORD=$ETC/admin-password CONFLIST=$ETC/cni/10-roost.conflist
readonly MODULES_LOAD=/etc/modules-load.d/roost.conf LISTEN_DROPIN=$UNITS/roostd.socket.d/listen.conf
readonly CONTAINERD_SOCKET=/run/containerd/containerd.sock
readonly DEFAULT_LISTEN=127.0.0.1:8080 BRIDGE=roost0 NETWORK=roost CGROUP=/roost
readonly EARLIER_CONFLIST=8393165ff617fe554621bd3091cfaf66c7b687394063cc6a7e0138a92c34a184
readonly MIN_DISK_MIB=700 MIN_BUILD_MIB=3000          # packages and state; a build from source on top
readonly WAIT_SECONDS=60 GRACE_SECONDS=10

MODE=install DRY_RUN=no START=yes OFFLINE=no PURGE=no LISTEN=
STEP='reading the command line' CAUSE='' FIX='' FAILED_COMMAND=''
LOG=/dev/null WORK='' PROBLEMS=() UNDO=() CHANGED=() PACKAGES=() NEW_PACKAGES=()
SOURCE='' BUILD_AS=() WAS_RUNNING=no STOPPED=no FRESH=no

usage() {
  cat <<'TEXT'
Usage: install.sh [OPTIONS]

Installs Roost on Debian 12+, Ubuntu 22.04+ or Raspberry Pi OS (64-bit). Run it again to upgrade:
functions and settings stay.

  --listen ADDR:PORT  where functions and the API answer (default 127.0.0.1:8080)
  --no-start          lay everything down, start nothing
  --offline           install no packages; fail when one is missing
  --dry-run           say what would be done, do nothing
  --uninstall         stop and remove Roost; settings and functions stay for the next install
  --purge             with --uninstall: remove settings, functions, images and logs too
  --help              this text
TEXT
}

# --- Saying things, failing, undoing -------------------------------------------------------------

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
step() { STEP=$1; say "==> $1"; }

# fail CAUSE FIX: ends the run; the exit trap reports and undoes.
fail() { CAUSE=$1 FIX=${2:-}; exit 1; }

# undo COMMAND…: notes how to take back what has just been done.
undo() { local line; printf -v line '%q ' "$@"; UNDO+=("$line"); }

# act TEXT COMMAND…: does it, or with --dry-run says that it would.
act() {
  local text=$1; shift
  if [[ $DRY_RUN = yes ]]; then say "    would: $text"; return; fi
  say "    $text"
  "$@"
}

on_exit() {
  local status=$1 i
  trap - ERR EXIT
  trap '' INT TERM HUP
  set +e
  if ((status != 0)) && [[ -n $WORK ]]; then
    [[ -n $CAUSE ]] || CAUSE="${FAILED_COMMAND:-the run was interrupted}"
    printf '\nfailed: %s\n cause: %s\n' "$STEP" "$CAUSE" >&2
    [[ -z $FIX ]] || printf '   fix: %s\n' "$FIX" >&2
    ((${#UNDO[@]} == 0)) || printf 'Undoing what this run did:\n' >&2
    for ((i = ${#UNDO[@]} - 1; i >= 0; i--)); do
      printf '    %s\n' "${UNDO[i]% }" >&2
      eval "${UNDO[i]}" || printf '    (that failed; going on)\n' >&2
    done
    ((${#NEW_PACKAGES[@]} == 0)) || printf 'Debian packages stay installed: %s\n' "${NEW_PACKAGES[*]}" >&2
    [[ $LOG = /dev/null ]] || printf 'Full output: %s\n' "$LOG" >&2
  fi
  [[ -z $WORK ]] || rm -rf -- "$WORK"
  exit "$status"
}

# run_long TEXT COMMAND…: shows that it goes on; its output goes to the log, whose end is shown on failure.
run_long() {
  local text=$1 start=$SECONDS pid status=0; shift
  if [[ $DRY_RUN = yes ]]; then say "    would: $text"; return; fi
  say "    $text …"
  printf '\n# %s: %s\n' "$text" "$*" >>"$LOG"
  "$@" >>"$LOG" 2>&1 </dev/null & pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    if [[ -t 1 ]]; then
      printf '\r    %d s ' $((SECONDS - start))
    elif (((SECONDS - start) % 30 == 29)); then
      say "    … $((SECONDS - start)) s"
    fi
  done
  [[ ! -t 1 ]] || printf '\r              \r'
  wait "$pid" || status=$?
  if ((status != 0)); then
    say "    failed after $((SECONDS - start)) s; the last lines of its output:"
    tail -n 20 "$LOG" | sed 's/^/      | /'
    return "$status"
  fi
  say "    done in $((SECONDS - start)) s"
}

# --- The command line ----------------------------------------------------------------------------

parse_arguments() {
  while (($# > 0)); do
    case $1 in
      --listen) (($# > 1)) || refuse '--listen needs ADDR:PORT'; LISTEN=$2; shift ;;
      --listen=*) LISTEN=${1#*=} ;;
      --no-start) START=no ;;
      --offline) OFFLINE=yes ;;
      --dry-run) DRY_RUN=yes ;;
      --uninstall) MODE=uninstall ;;
      --purge) PURGE=yes ;;
      -h | --help) usage; exit 0 ;;
      *) refuse "unknown argument: $1" ;;
    esac
    shift
  done
  [[ $PURGE = no || $MODE = uninstall ]] || refuse '--purge goes with --uninstall'
  [[ -z $LISTEN ]] || valid_listen "$LISTEN" || refuse "--listen: expected ADDR:PORT, such as 127.0.0.1:8080 or [::]:8080; got: $LISTEN"
}

refuse() { printf 'install.sh: %s\n\n' "$1" >&2; usage >&2; exit 2; }

valid_listen() {
  local octet='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])' port=${1##*:}
  [[ $1 =~ ^($octet\.$octet\.$octet\.$octet|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$ ]] && ((10#$port >= 1 && 10#$port <= 65535))
}

# --- Looking: nothing below changes the host until `install_all` ---------------------------------
# Only what keeps an install from working, as there is no program to ask yet; `roost doctor` looks at all.

problem() { PROBLEMS+=("$1"$'\n'"        fix: $2"); }
has() { command -v "$1" >/dev/null 2>&1; }
systemd_runs() { [[ -d /run/systemd/system ]]; }

configured_listen() {
  [[ ! -r $CONFIG ]] || sed -n '/^\[server\]/,/^\[/s/^[[:space:]]*listen[[:space:]]*=[[:space:]]*["'\'']\([^"'\'']*\)["'\''].*/\1/p' "$CONFIG"
}

preflight() {
  step 'Checking this machine'
  check_root
  check_platform
  check_kernel
  check_memory_cgroup
  check_port
  check_programs
  check_packages
  check_disk
  ((${#PROBLEMS[@]} > 0)) || return 0
  printf '\nThis machine is not ready, nothing was changed:\n' >&2
  printf '  - %s\n' "${PROBLEMS[@]}" >&2
  exit 1
}

check_root() { ((EUID == 0)) || problem "this is user $(id -un), not root" "sudo $0"; }

check_platform() {
  local machine id='' version=''
  machine=$(uname -m)
  [[ $(uname -s) = Linux && $machine =~ ^(x86_64|aarch64)$ ]] ||
    problem "$(uname -s) on $machine: Roost runs on Linux, x86_64 or aarch64" 'use another machine, or the 64-bit image of this one'
  [[ $(getconf LONG_BIT) = 64 ]] ||
    problem 'the kernel is 64-bit, but the programs of this system are 32-bit' 'install the 64-bit image (Raspberry Pi OS 64-bit)'
  if [[ -r /etc/os-release ]]; then
    # shellcheck source=/dev/null
    id=$(. /etc/os-release; printf '%s' "${ID:-}")
    # shellcheck source=/dev/null
    version=$(. /etc/os-release; printf '%s' "${VERSION_ID:-0}")
  fi
  case $id in
    debian | raspbian) [[ ! $version =~ ^[0-9]+$ ]] || ((version >= 12)) || warn "Debian $version is older than 12: not tried" ;;
    ubuntu) ((${version%%.*} >= 22)) || warn "Ubuntu $version is older than 22.04: not tried" ;;
    *) warn "${id:-an unknown system}: tried are Debian 12+, Ubuntu 22.04+ and Raspberry Pi OS" ;;
  esac
}

# kernel_has MODULE CONFIG_KEY: 0 it has, 1 it has not, 2 cannot be known from here.
kernel_has() {
  local modules settings
  modules=/lib/modules/$(uname -r)
  [[ ! -d /sys/module/$1 ]] || return 0
  ! grep -qw "$1" /proc/filesystems || return 0
  settings=$( (zcat /proc/config.gz || cat "/boot/config-$(uname -r)") 2>/dev/null) || settings=''
  ! grep -q "^$2=y" <<<"$settings" || return 0
  if [[ -r $modules/modules.dep ]]; then
    grep -qs "/$1\.ko" "$modules/modules.dep" "$modules/modules.builtin" && return 0 || return 1
  fi
  # Without /lib/modules (a chroot) a module may still be there; without settings nothing is known.
  [[ -n $settings ]] && ! grep -q "^$2=m" <<<"$settings" && return 1 || return 2
}

check_kernel() {
  local pair status
  for pair in overlay:OVERLAY_FS bridge:BRIDGE veth:VETH br_netfilter:BRIDGE_NETFILTER; do
    status=0
    kernel_has "${pair%:*}" "CONFIG_${pair#*:}" || status=$?
    case $status:${pair%:*} in
      0:*) ;;
      1:br_netfilter) warn 'the kernel has no br_netfilter: functions can reach each other on the bridge unfiltered' ;;
      1:*) problem "the kernel $(uname -r) has no ${pair%:*}" "boot the distribution's own kernel, or one with CONFIG_${pair#*:}" ;;
      *) warn "cannot see from here whether the kernel has ${pair%:*}" ;;
    esac
  done
}

check_memory_cgroup() {
  local file line=/boot/cmdline.txt
  grep -Eq '^memory([[:space:]]+[0-9]+){2}[[:space:]]+1$' /proc/cgroups 2>/dev/null && return
  for file in /sys/fs/cgroup/cgroup.controllers /sys/fs/cgroup/unified/cgroup.controllers; do
    ! grep -qsw memory "$file" || return 0
  done
  if grep -qs 'Raspberry Pi' /proc/device-tree/model || [[ -e /boot/firmware/cmdline.txt ]]; then
    [[ ! -e /boot/firmware/cmdline.txt ]] || line=/boot/firmware/cmdline.txt
    problem 'the memory cgroup is off (the default on a Raspberry Pi)' \
      "append to the single line in $line: cgroup_enable=cpuset cgroup_memory=1 cgroup_enable=memory; then reboot"
  else
    problem 'the memory cgroup is off: memory limits of functions could not be kept' \
      "boot without cgroup_disable=memory (or with cgroup_enable=memory), and mount /sys/fs/cgroup"
  fi
}

# listeners PORT: "address inode" of all listening TCP sockets on it; addresses as the kernel writes them.
listeners() {
  local port
  printf -v port '%04X' "$1"
  awk -v port="$port" '$4 == "0A" { split($2, a, ":"); if (a[2] == port) print a[1], $10 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

check_port() {
  local address=${LISTEN%:*} port=$((10#${LISTEN##*:})) wanted=any taken inode
  if [[ $address =~ ^([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)$ && $address != 0.0.0.0 ]]; then
    printf -v wanted '%02X%02X%02X%02X' "${BASH_REMATCH[4]}" "${BASH_REMATCH[3]}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[1]}"
  fi
  while read -r taken inode; do
    # Another address of the same port is no conflict, unless one of both means all addresses.
    [[ $wanted = any || $taken = "$wanted" || $taken =~ ^0+$ ]] || continue
    ! port_is_ours "$inode" || continue
    problem "port $port is in use by $(socket_owner "$inode")" "stop it, or choose another: $0 --listen ${address}:PORT"
    return
  done < <(listeners "$port")
}

port_is_ours() {
  if systemd_runs && systemctl is-active --quiet roostd.socket; then
    [[ $(socket_owner "$1") =~ ^(roostd|systemd)\  ]]
  else
    [[ $(socket_owner "$1") = roostd\ * ]]
  fi
}

# socket_owner INODE: "name (pid N)" of the process that holds the socket.
socket_owner() {
  local fd pid name
  for fd in /proc/[0-9]*/fd/*; do
    [[ $(readlink "$fd" 2>/dev/null) = "socket:[$1]" ]] || continue
    pid=${fd#/proc/} pid=${pid%%/*}
    name=$(cat "/proc/$pid/comm" 2>/dev/null) || continue
    printf '%s (pid %s)' "$name" "$pid"
    return
  done
  printf 'a process that cannot be seen from here'
}

# Where the programs come from: a directory with all three, or the source beside this script.
check_programs() {
  local dir
  for dir in "$HERE/dist" "$HERE" "$HERE/bin"; do
    [[ -f $dir/roostd && -f $dir/roost ]] || continue
    SOURCE=$dir
    { runs "$dir/roostd" && runs "$dir/roost"; } ||
      problem "$dir/roostd or $dir/roost does not run here ($(uname -m))" 'take the release for this architecture, or remove it to build from source'
    [[ -f $dir/echo ]] || warn "$dir has no echo: no first function will be deployed"
    return
  done
  [[ -f $HERE/Cargo.toml ]] || {
    problem "no programs in $HERE/dist, and no source beside this script" 'unpack the whole release, or clone the repository'
    return
  }
  SOURCE=build
  find_cargo
}

runs() { [[ -x $1 ]] && "$1" --version >/dev/null 2>&1; }

# A toolchain of the person behind sudo is used as that person: it would not find its files as root.
find_cargo() {
  local home cargo
  for cargo in "$(command -v cargo || true)" "${HOME:-/root}/.cargo/bin/cargo"; do
    [[ ! -x $cargo ]] || { BUILD_AS=(env "PATH=$(dirname "$cargo"):$PATH"); return; }
  done
  if [[ -n ${SUDO_USER:-} ]]; then
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    if [[ -x $home/.cargo/bin/cargo ]]; then
      BUILD_AS=(runuser -u "$SUDO_USER" -- env "HOME=$home" "PATH=$home/.cargo/bin:$PATH")
      return
    fi
  fi
  problem 'there is no cargo to build the programs with' \
    'install Rust from https://rustup.rs (the minimal profile is enough), or put roostd, roost and echo into ./dist'
}

plugins_there() {
  local dir
  for dir in /usr/lib/cni /opt/cni/bin; do
    [[ ! -x $dir/bridge || ! -x $dir/host-local || ! -x $dir/firewall ]] || return 0
  done
  return 1
}

check_packages() {
  # Docker's containerd.io brings containerd and runc: whatever is there is used.
  has containerd || PACKAGES+=(containerd)
  has runc || PACKAGES+=(runc)
  plugins_there || PACKAGES+=(containernetworking-plugins)
  has iptables || PACKAGES+=(iptables)
  has ip || PACKAGES+=(iproute2)
  [[ -e /etc/ssl/certs/ca-certificates.crt ]] || PACKAGES+=(ca-certificates)
  if [[ $SOURCE = build ]]; then
    has protoc || PACKAGES+=(protobuf-compiler)
    has gcc || PACKAGES+=(gcc)
    [[ -e /usr/include/stdio.h ]] || PACKAGES+=(libc6-dev)
  fi
  ((${#PACKAGES[@]} > 0)) || return 0
  if [[ $OFFLINE = yes ]]; then
    problem "packages are missing, and --offline forbids to install them: ${PACKAGES[*]}" "apt-get install ${PACKAGES[*]}"
  elif ! has apt-get; then
    problem "packages are missing, and there is no apt-get: ${PACKAGES[*]}" 'install them by the means of this system'
  fi
}

check_disk() {
  local free
  free=$(df -Pm /var | awk 'NR == 2 { print $4 }')
  ((free >= MIN_DISK_MIB)) || problem "/var has $free MiB left, $MIN_DISK_MIB are needed" 'make room'
  [[ $SOURCE = build && ! -d $HERE/target ]] || return 0
  free=$(df -Pm "$HERE" | awk 'NR == 2 { print $4 }')
  ((free >= MIN_BUILD_MIB)) || problem "$HERE has $free MiB left, a build needs $MIN_BUILD_MIB" 'make room, or put the programs into ./dist'
}

# --- Installing ----------------------------------------------------------------------------------

install_all() {
  prepare_work
  install_packages
  obtain_programs
  lay_down
  if [[ $START = no ]]; then enable_units; summary_not_started; return; fi
  [[ -d $RUN || $DRY_RUN = yes ]] || undo remove_tree "$RUN"
  load_modules
  start_containerd
  start_roostd
  wait_until_healthy
  deploy_echo
  self_check
  summary
}

prepare_work() {
  if systemd_runs && systemctl is-active --quiet roostd.service; then WAS_RUNNING=yes; fi
  if ! systemd_runs && running roostd; then WAS_RUNNING=yes; fi
  [[ -d $STATE ]] || FRESH=yes
  WORK=$(mktemp -d /tmp/roost-install.XXXXXX)
  [[ $DRY_RUN = no ]] || return 0
  mkdir -p "$LOGS"
  LOG=$LOGS/install.log
  printf '# install.sh, %s\n' "$(date -u +%FT%TZ)" >"$LOG"
}

install_packages() {
  ((${#PACKAGES[@]} > 0)) || return 0
  step "Installing packages: ${PACKAGES[*]}"
  # An index that cannot be fetched is no failure: the packages may be in the cache.
  run_long 'apt-get update' apt-get update -q || warn 'apt-get update failed; trying with what is known'
  NEW_PACKAGES=("${PACKAGES[@]}")
  run_long 'apt-get install' apt-get install -q -y --no-install-recommends "${PACKAGES[@]}" ||
    fail 'apt-get could not install the packages (its output is above)' "see that this works: apt-get install ${PACKAGES[*]}"
}

obtain_programs() {
  if [[ $SOURCE != build ]]; then step "Taking the programs from $SOURCE"; return; fi
  step 'Building the programs from source (some minutes; much longer on a Raspberry Pi)'
  local host target=$HERE/target hint='look at the output above; the README says what is needed'
  host=$("${BUILD_AS[@]}" cargo -vV | sed -n 's/^host: //p') || fail 'cargo does not run' 'try: cargo -vV'
  SOURCE=$WORK/bin
  run_long 'roostd and roost' in_source "${BUILD_AS[@]}" \
    cargo build --release --locked --target-dir "$target" -p roostd -p roost || fail 'the build of roostd and roost failed' "$hint"
  run_long 'echo, the first function' in_source "${BUILD_AS[@]}" RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --release --locked --target-dir "$target" --target "$host" -p echo || fail 'the build of echo failed' "$hint"
  [[ $DRY_RUN = no ]] || return 0
  mkdir "$SOURCE"
  cp "$target/release/roostd" "$target/release/roost" "$target/$host/release/echo" "$SOURCE"
}

in_source() { cd "$HERE" && "$@"; }

lay_down() {
  step 'Laying down programs, settings and state'
  # Noted first, so done last: with the old files back in their places.
  [[ $WAS_RUNNING = no || $DRY_RUN = yes ]] || undo run_as_before
  make_dir 0755 "$ETC"
  make_dir 0755 "$ETC/cni"
  make_dir 0755 "$ETC/functions.d"
  make_dir 0700 "$STATE"
  make_dir 0755 "$SHARE"
  make_dir 0755 "$LOGS"
  if [[ $SOURCE = "$WORK/bin" && $DRY_RUN = yes ]]; then
    say "    would: install $BIN/roostd, $BIN/roost and $SHARE/echo, if the build changed them"
  else
    place 0755 "$SOURCE/roostd" "$BIN/roostd"
    place 0755 "$SOURCE/roost" "$BIN/roost"
    [[ ! -f $SOURCE/echo ]] || place 0755 "$SOURCE/echo" "$SHARE/echo"
  fi
  place 0644 "$HERE/systemd/roostd.toml" "$SHARE/roostd.toml"
  place_settings
  # One that is as an earlier release laid it down is nobody's setting: it costs each replica a chain of its own.
  if [[ ! -e $CONFLIST || $(sha256sum <"$CONFLIST") = "$EARLIER_CONFLIST  -" ]]; then
    place 0644 "$HERE/systemd/10-roost.conflist" "$CONFLIST"
  fi
  # Where there are other users, the first admin is missing because somebody took it away.
  if [[ ! -e $PASSWORD && ! -e $ETC/users ]]; then
    (umask 077; head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$WORK/password")
    place 0600 "$WORK/password" "$PASSWORD"
  fi
  printf '# Roost: root file systems of functions, and the filter on their bridge.\noverlay\nbr_netfilter\n' >"$WORK/modules"
  [[ ! -d /etc/modules-load.d ]] || place 0644 "$WORK/modules" "$MODULES_LOAD"
  place_units
  check_settings
}

# The settings belong to the host's owner: written once; later only --listen changes its one line.
place_settings() {
  local new=$WORK/roostd.toml from=$CONFIG
  [[ -e $CONFIG ]] || from=$HERE/systemd/roostd.toml
  if [[ -e $CONFIG && $LISTEN = "$(configured_listen)" ]]; then return; fi
  if [[ -e $CONFIG && -z $(configured_listen) ]]; then
    [[ $LISTEN != "$DEFAULT_LISTEN" ]] || return 0
    fail "$CONFIG has no line 'listen = …' under [server]" "add there: listen = \"$LISTEN\""
  fi
  sed '/^\[server\]/,/^\[/s/^\([[:space:]]*listen[[:space:]]*=\).*/\1 "'"$LISTEN"'"/' "$from" >"$new"
  place 0640 "$new" "$CONFIG"
}

place_units() {
  # Undone last, when the unit files are as they were.
  ! systemd_runs || [[ $DRY_RUN = yes ]] || undo systemctl daemon-reload
  place 0644 "$HERE/systemd/roostd.service" "$UNITS/roostd.service"
  place 0644 "$HERE/systemd/roostd.socket" "$UNITS/roostd.socket"
  if [[ $LISTEN != "$DEFAULT_LISTEN" ]]; then
    make_dir 0755 "${LISTEN_DROPIN%/*}"
    printf '# Written by install.sh --listen.\n[Socket]\nListenStream=\nListenStream=%s\n' "$LISTEN" >"$WORK/listen.conf"
    place 0644 "$WORK/listen.conf" "$LISTEN_DROPIN"
  elif [[ -e $LISTEN_DROPIN ]]; then
    discard "$LISTEN_DROPIN"
  fi
}

check_settings() {
  [[ $DRY_RUN = no ]] || return 0
  "$BIN/roostd" --config "$CONFIG" check-config >>"$LOG" 2>&1 ||
    { tail -n 5 "$LOG" | sed 's/^/      | /'; fail "$CONFIG is not valid" "correct it; every setting with its default is in $SHARE/roostd.toml"; }
}

make_dir() {
  [[ ! -d $2 ]] || return 0
  [[ $DRY_RUN = yes ]] || undo_dir "$2"
  act "make $2 ($1)" install -d -m "$1" "$2"
}
undo_dir() {
  # State and logs may have been filled meanwhile, by this run alone.
  if [[ $1 = "$STATE" ]]; then undo rm -rf -- "$1"; else undo rmdir --ignore-fail-on-non-empty "$1"; fi
}

# place MODE SOURCE TARGET: the target appears or changes at once and whole; nothing happens if it is the same.
place() {
  local mode=$1 source=$2 target=$3
  if cmp -s "$source" "$target" && [[ 0$(stat -c %a "$target") = "$mode" ]]; then return; fi
  if [[ $DRY_RUN = yes ]]; then say "    would: install $target"; CHANGED+=("$target"); return; fi
  say "    install $target"
  if [[ -e $target ]]; then
    cp -a "$target" "$WORK/old.${#CHANGED[@]}"
    undo mv -f "$WORK/old.${#CHANGED[@]}" "$target"
  else
    undo rm -f "$target"
  fi
  install -m "$mode" "$source" "$target.roost-new"
  mv -f "$target.roost-new" "$target"
  CHANGED+=("$target")
}

discard() {
  if [[ $DRY_RUN = yes ]]; then say "    would: remove $1"; return; fi
  cp -a "$1" "$WORK/old.${#CHANGED[@]}"
  undo mv -f "$WORK/old.${#CHANGED[@]}" "$1"
  act "remove $1" rm -f "$1"
  CHANGED+=("$1")
}

# changed PATTERN…: did this run change a file that matches?
changed() {
  local file pattern
  for file in "${CHANGED[@]}"; do
    for pattern in "$@"; do
      # shellcheck disable=SC2053 # the right side is a pattern
      [[ $file != $pattern ]] || return 0
    done
  done
  return 1
}

# --- Starting ------------------------------------------------------------------------------------

load_modules() {
  has modprobe && [[ -d /lib/modules/$(uname -r) ]] || return 0
  local module
  for module in overlay br_netfilter; do
    [[ -d /sys/module/$module ]] || act "load the kernel module $module" modprobe "$module" || warn "modprobe $module failed"
  done
}

enable_units() {
  systemd_runs && changed "$UNITS/*" || return 0
  act 'enable roostd.socket and roostd.service' systemctl_quietly enable roostd.socket roostd.service
}

systemctl_quietly() { systemctl daemon-reload && systemctl --quiet "$@" >>"$LOG" 2>&1; }

containerd_answers() { has ctr && ctr --connect-timeout 2s version >/dev/null 2>&1; }

start_containerd() {
  if containerd_answers; then return; fi
  step 'Starting containerd'
  if systemd_runs; then
    act 'systemctl enable --now containerd' systemctl_quietly enable --now containerd ||
      fail 'containerd did not start' 'journalctl -u containerd'
  else
    [[ $DRY_RUN = yes ]] || undo stop_process containerd
    act "containerd in the background (no systemd here), log $LOGS/containerd.log" background containerd containerd
  fi
  [[ $DRY_RUN = yes ]] || wait_for 'containerd answers' containerd_answers ||
    fail "containerd does not answer on $CONTAINERD_SOCKET" "$(log_hint containerd)"
}

# background NAME COMMAND…: a process that outlives this script; its id is in a file, its output in a log.
background() {
  local name=$1; shift
  install -d -m 0755 "$RUN" "$LOGS"
  (cd / && exec setsid "$@" >>"$LOGS/$name.log" 2>&1 </dev/null) &
  printf '%s\n' "$!" >"$RUN/$name.pid"
  # Until it has become the program, `running` would not know it.
  wait_for "$name starts" started "$name" "$!"
}
started() { running "$1" || ! kill -0 "$2" 2>/dev/null; }

# running NAME: is the process that `background` started still there, and still that program?
running() {
  local pid
  [[ -r $RUN/$1.pid ]] && read -r pid <"$RUN/$1.pid" && [[ $(cat "/proc/$pid/comm" 2>/dev/null) = "$1" ]]
}

stop_process() {
  local pid
  if running "$1"; then
    read -r pid <"$RUN/$1.pid"
    kill "$pid" 2>/dev/null || true
    wait_for "$1 ends" not_running "$1" || kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$RUN/$1.pid"
}
not_running() { ! running "$1"; }

# wait_for TEXT COMMAND…: until it succeeds; gives up after WAIT_SECONDS.
wait_for() {
  local end=$((SECONDS + WAIT_SECONDS)); shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

log_hint() { if systemd_runs; then say "journalctl -u $1"; else say "read $LOGS/$1.log"; fi; }

start_roostd() {
  step 'Starting roostd'
  if systemd_runs; then start_unit; else start_background; fi
}

start_unit() {
  local verb=start
  if changed "$BIN/roostd" "$CONFIG" "$CONFLIST" "$UNITS/*"; then verb=restart; fi
  if [[ $DRY_RUN = no ]]; then
    STOPPED=$WAS_RUNNING
    [[ $WAS_RUNNING = yes ]] || { undo_functions; undo systemctl_quietly disable --now roostd.service roostd.socket; }
  fi
  # A socket can only be bound anew while nobody uses it.
  if changed "$UNITS/roostd.socket" "$LISTEN_DROPIN" && [[ $WAS_RUNNING = yes ]]; then
    act 'stop roostd to move its port' systemctl_quietly stop roostd.service roostd.socket
  fi
  act 'systemctl enable roostd.socket roostd.service' systemctl_quietly enable roostd.socket roostd.service
  act 'systemctl start roostd.socket' systemctl_quietly start roostd.socket || fail "systemd cannot listen on $LISTEN" 'journalctl -u roostd.socket'
  act "systemctl $verb roostd.service" systemctl_quietly "$verb" roostd.service || {
    journalctl -q --no-pager -n 15 -u roostd.service | sed 's/^/      | /' || true
    fail 'roostd.service did not start' 'journalctl -u roostd'
  }
}

start_background() {
  if [[ $WAS_RUNNING = yes ]]; then
    if ! changed "$BIN/roostd" "$CONFIG" "$CONFLIST"; then say '    it runs, and nothing that it reads has changed'; return; fi
    STOPPED=yes
    act 'stop the old roostd (functions go on running)' stop_process roostd
  fi
  if [[ $DRY_RUN = no ]]; then
    [[ $WAS_RUNNING = yes ]] || undo_functions
    undo stop_process roostd
  fi
  act "roostd in the background (no systemd here), log $LOGS/roostd.log" background roostd "$BIN/roostd" --config "$CONFIG"
}

# The roostd that this run stopped, again.
run_as_before() {
  [[ $STOPPED = yes ]] || return 0
  if systemd_runs; then
    systemctl_quietly stop roostd.service roostd.socket
    systemctl_quietly start roostd.socket roostd.service
  else
    background roostd "$BIN/roostd" --config "$CONFIG"
  fi
}

# What a first start brings to life; noted before the daemon's own undo, so it is done after that.
undo_functions() {
  undo remove_cgroups
  undo remove_network
  [[ $FRESH = no ]] || undo remove_images
  undo remove_functions
}

# --- Talking to roostd: bash can speak enough HTTP, a bare system has no curl ---------------------

# http METHOD PATH [BODY]: status and body of the answer, as "200 text".
http() {
  local address=${LISTEN%:*} port=${LISTEN##*:} auth line status
  case $address in 0.0.0.0) address=127.0.0.1 ;; '[::]') address=::1 ;; *) address=${address#[} address=${address%]} ;; esac
  auth=$(printf 'admin:%s' "$(cat "$PASSWORD" 2>/dev/null)" | base64 -w0)
  (
    exec 3<>"/dev/tcp/$address/$port" || exit 1
    printf '%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Basic %s\r\nContent-Length: %d\r\n\r\n%s' \
      "$1" "$2" "$auth" "${#3}" "${3-}" >&3
    IFS=' ' read -r -t 10 -u 3 _ status _ || exit 1
    while IFS= read -r -t 10 -u 3 line && [[ ${line%$'\r'} != '' ]]; do :; done
    printf '%s ' "$status"
    timeout 10 cat <&3
  ) 2>/dev/null
}

healthy() {
  local answer
  answer=$(http GET /healthz '') && [[ $answer = 200* ]]
}

healthy_or_gone() {
  healthy || { ! systemd_runs && ! running roostd; }
}

wait_until_healthy() {
  [[ $DRY_RUN = no ]] || return 0
  wait_for 'roostd answers' healthy_or_gone || true
  healthy && { say "    it answers on http://$LISTEN"; return; }
  if systemd_runs; then journalctl -q --no-pager -n 15 -u roostd.service | sed 's/^/      | /' || true
  else tail -n 15 "$LOGS/roostd.log" | sed 's/^/      | /'; fi
  fail "roostd does not answer on http://$LISTEN/healthz" "$(log_hint roostd)"
}

deploy_echo() {
  [[ -f $SHARE/echo && -e $PASSWORD || $DRY_RUN = yes ]] || return 0
  local answer=''
  [[ $DRY_RUN = yes ]] || answer=$(http GET /system/function/echo '') || true
  [[ $answer != 200* ]] || return 0
  step 'Deploying the first function, echo'
  run_long 'roost deploy echo' "$BIN/roost" deploy echo --binary "$SHARE/echo" ||
    fail 'echo could not be deployed (the output is above)' "$(log_hint roostd)"
  [[ $DRY_RUN = yes ]] || wait_for 'echo answers hi' echo_answers ||
    fail "echo does not answer on http://$LISTEN/function/echo" "roost describe echo; roost logs echo"
}

echo_answers() {
  local answer
  answer=$(http POST /function/echo hi) && [[ $answer = '200 hi' ]]
}

# A function answers by now, so nothing that is found fails the run: it is told, with what repairs it.
self_check() {
  local status=0
  step 'Looking whether all is well (roost doctor)'
  if [[ $DRY_RUN = yes ]]; then say '    would: roost doctor'; return; fi
  "$BIN/roostd" --config "$CONFIG" doctor >"$WORK/doctor" 2>&1 || status=$?
  cat "$WORK/doctor" >>"$LOG"
  sed -e '/^ok /d' -e '/^$/d' -e 's/^/    /' "$WORK/doctor"
  ((status == 0)) || warn 'there is something to repair, see above; roost doctor looks again'
}

summary() {
  local url=$LISTEN
  [[ $DRY_RUN = no ]] || { say; say 'Nothing was changed (--dry-run).'; return; }
  [[ $LISTEN != 0.0.0.0:* && $LISTEN != '[::]:'* ]] || url=127.0.0.1:${LISTEN##*:}
  ((${#CHANGED[@]} > 0)) || [[ $WAS_RUNNING = no ]] || say '    everything was up to date'
  cat <<TEXT

Roost answers on http://$url   (user admin, password in $PASSWORD; more users: roost auth --help)

  curl -d hi http://$url/function/echo
  websocat ws://$url/function/echo
  roost list
TEXT
  systemd_runs || say "
There is no systemd here: roostd runs in the background (process id in $RUN/roostd.pid, log in
$LOGS/roostd.log) and does not come back after a reboot by itself; run this script again then."
}

summary_not_started() {
  say
  if [[ $DRY_RUN = yes ]]; then say 'Nothing was changed (--dry-run).'; return; fi
  say "Roost is installed, but not started (--no-start). To start it: $0"
}

# --- Taking it away ------------------------------------------------------------------------------

uninstall_all() {
  WORK=$(mktemp -d /tmp/roost-install.XXXXXX)
  LISTEN=${LISTEN:-$(configured_listen)} LISTEN=${LISTEN:-$DEFAULT_LISTEN}
  step 'Stopping roostd'
  stop_roostd
  step 'Stopping functions'
  act 'stop and remove their containers' remove_functions
  [[ $PURGE = no ]] || act 'remove their images' remove_images
  act "remove network namespaces, $BRIDGE and its rules" remove_network
  act 'remove their control groups' remove_cgroups
  ! running containerd || act 'stop the containerd that install.sh started' stop_process containerd
  step 'Removing files'
  remove_files
  say
  if [[ $DRY_RUN = yes ]]; then say 'Nothing was changed (--dry-run).'; return; fi
  [[ $PURGE = yes ]] || say "Settings and functions stay in $ETC and $STATE (remove them with --uninstall --purge)."
  say 'Debian packages (containerd, runc, containernetworking-plugins, iptables …) are never removed by this script.'
}

stop_roostd() {
  if systemd_runs && [[ -e $UNITS/roostd.service ]]; then
    act 'systemctl disable --now roostd.service roostd.socket' systemctl --quiet disable --now roostd.service roostd.socket
  elif running roostd; then
    act 'stop the process in the background' stop_process roostd
  fi
}

# our_replicas: "namespace id" of each container that Roost made.
our_replicas() {
  local namespace id
  for namespace in $(ctr namespaces ls -q); do
    for id in $(ctr -n "$namespace" containers ls -q 'labels."roost.function"'); do say "$namespace $id"; done
  done
}

# TERM to all, a common grace, KILL to the rest. One that is frozen hears it when it is thawed. What functions are
# deployed stays in the state directory.
remove_functions() {
  local namespace id end=$((SECONDS + GRACE_SECONDS))
  containerd_answers || { warn 'containerd does not run: what it keeps of functions stays'; return; }
  our_replicas >"$WORK/replicas"
  while read -r namespace id; do ctr -n "$namespace" tasks kill -s SIGTERM "$id" >/dev/null 2>&1 || true; done <"$WORK/replicas"
  thaw_functions
  while ((SECONDS < end)) && replicas_run; do sleep 0.2; done
  while read -r namespace id; do
    ctr -n "$namespace" tasks rm -f "$id" >/dev/null 2>&1 || true
    ctr -n "$namespace" containers rm "$id" >/dev/null || warn "the container $id of $namespace could not be removed"
  done <"$WORK/replicas"
}

# roostd freezes by the files of control groups, of which containerd knows nothing.
thaw_functions() {
  local file
  while read -r file; do
    case $file in
      *.freeze) printf 0 ;;
      *) printf THAWED ;;
    esac >"$file" || warn "$file cannot be written: what is frozen there is killed"
  done < <(find /sys/fs/cgroup"$CGROUP" /sys/fs/cgroup/freezer"$CGROUP" \
    \( -name cgroup.freeze -o -name freezer.state \) 2>/dev/null)
}

replicas_run() {
  local namespace id
  while read -r namespace id; do
    ! ctr -n "$namespace" tasks ls 2>/dev/null | awk -v id="$id" '$1 == id && $3 == "RUNNING" { found = 1 } END { exit !found }' || return 0
  done <"$WORK/replicas"
  return 1
}

# Only in namespaces that carry our label, so nothing of others is touched.
remove_images() {
  local namespace kind names
  containerd_answers || return 0
  for namespace in $(ctr namespaces ls | awk 'NR > 1 && $2 ~ /(^|,)roost=1(,|$)/ { print $1 }'); do
    for kind in images leases; do
      names=$(ctr -n "$namespace" "$kind" ls -q)
      # shellcheck disable=SC2086 # one word a name
      [[ -z $names ]] || ctr -n "$namespace" "$kind" rm $names >/dev/null
    done
    remove_snapshots "$namespace"
    names=$(ctr -n "$namespace" content ls -q)
    # shellcheck disable=SC2086 # one word a digest
    [[ -z $names ]] || ctr -n "$namespace" content rm $names >/dev/null
    ctr namespaces rm "$namespace" >/dev/null || warn "the containerd namespace $namespace is not empty and stays"
  done
}

# Children before parents: each round removes the leaves, until a round removes nothing.
remove_snapshots() {
  local key keys before=-1
  while keys=$(ctr -n "$1" snapshots ls | awk 'NR > 1 { print $1 }') && [[ -n $keys ]]; do
    [[ $(wc -l <<<"$keys") != "$before" ]] || { warn "snapshots of $1 could not be removed"; return; }
    before=$(wc -l <<<"$keys")
    for key in $keys; do ctr -n "$1" snapshots rm "$key" >/dev/null 2>&1 || true; done
  done
}

remove_network() {
  local path
  # The last mount first: one may lie on top of another. Where mounts are shared, one unmount takes its
  # copies along, so a failure means nothing here: what really stays is seen by remove_tree.
  while read -r path; do
    umount -l "$path" 2>/dev/null || true
  done < <(awk -v below="$RUN/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac)
  # Namespaces have bridges of their own, named by the main one's name, a dash and a number.
  for path in /sys/class/net/"$BRIDGE" /sys/class/net/"$BRIDGE"-*; do
    ! has ip || [[ ! -d $path/bridge ]] || ip link del "${path##*/}"
  done
  ! has iptables-save || remove_rules
}

# runc removes the group of each replica, but not those above it. One that is in use cannot be removed.
remove_cgroups() {
  local group
  for group in /sys/fs/cgroup"$CGROUP" /sys/fs/cgroup/*"$CGROUP"; do
    [[ -d $group ]] || continue
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || warn "the control group $group is in use and stays"
  done
}

# Rules of the CNI plugins name our network in a comment, or one of our addresses (their list is IPAM's).
remove_rules() {
  local table rules
  { printf 'name: \\"%s\\"\n' "$NETWORK"; our_addresses; } >"$WORK/ours"
  for table in nat filter; do
    rules=$(iptables-save -t "$table" 2>/dev/null | grep '^-A' | grep -F -f "$WORK/ours") || continue
    remove_from "$table" "$rules" "$(sed -n 's/.* -j \(CNI-[0-9a-f]\{24\}\)$/\1/p' <<<"$rules")"
  done
  # What keeps namespaces apart, and what lets functions out, has a chain of its own.
  for table in mangle:FORWARD nat:POSTROUTING; do
    rules=$(iptables-save -t "${table%:*}" 2>/dev/null | grep -x -- "-A ${table#*:} -j ROOST-$BRIDGE") || continue
    remove_from "${table%:*}" "$rules" "ROOST-$BRIDGE"
  done
  remove_empty_chains
}

our_addresses() {
  local file
  for file in "$RUN"/ipam/*/[0-9]*; do printf ' %s/32 \n' "${file##*/}"; done
}

# remove_from TABLE RULES CHAINS: rules as iptables-save prints them.
remove_from() {
  local chain
  {
    printf '*%s\n' "$1"
    awk '{ sub(/^-A/, "-D") } 1' <<<"$2"
    for chain in $3; do printf -- '-F %s\n-X %s\n' "$chain" "$chain"; done
    printf 'COMMIT\n'
  } >"$WORK/restore"
  iptables-restore -w --noflush <"$WORK/restore" 2>/dev/null || warn "some rules of the $NETWORK network stay in iptables ($1)"
}

# The firewall plugin's own chains are shared with other users of CNI: they go when no rule of anyone is left.
remove_empty_chains() {
  local rules
  rules=$(iptables-save -t filter 2>/dev/null | grep -E '^-A .*\bCNI-(FORWARD|ADMIN)\b') || return 0
  ! grep -Evq -- '-j CNI-(FORWARD|ADMIN)$' <<<"$rules" || return 0
  remove_from filter "$rules" 'CNI-FORWARD CNI-ADMIN'
}

remove_files() {
  local file
  for file in "$UNITS/roostd.service" "$UNITS/roostd.socket" "$LISTEN_DROPIN" "$MODULES_LOAD" "$BIN/roostd" "$BIN/roost"; do
    [[ ! -e $file ]] || act "remove $file" rm -f "$file"
  done
  remove_tree "${LISTEN_DROPIN%/*}"
  remove_tree "$SHARE"
  remove_tree "$RUN"
  if [[ $PURGE = yes ]]; then remove_tree "$ETC"; remove_tree "$STATE"; remove_tree "$LOGS"; fi
  ! systemd_runs || act 'systemctl daemon-reload' systemctl daemon-reload
}

# A mount below a tree would take what is mounted there along: then it stays.
remove_tree() {
  [[ -d $1 ]] || return 0
  if grep -q " $1/" /proc/self/mountinfo; then warn "$1 stays: something is mounted below it"; return; fi
  act "remove $1" rm -rf -- "$1"
}

# --------------------------------------------------------------------------------------------------

main() {
  parse_arguments "$@"
  trap 'FAILED_COMMAND="$BASH_COMMAND (line $LINENO) ended with status $?"' ERR
  trap 'on_exit $?' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  if [[ $MODE = uninstall ]]; then
    ((EUID == 0)) || { say "install.sh: --uninstall needs root: sudo $0 --uninstall" >&2; exit 1; }
    uninstall_all
    return
  fi
  LISTEN=${LISTEN:-$(configured_listen)} LISTEN=${LISTEN:-$DEFAULT_LISTEN}
  preflight
  install_all
}

main "$@"
