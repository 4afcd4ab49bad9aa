#!/usr/bin/env bash
# Runs the README's commands on a machine that has Rust, a C compiler and nothing else.
#
#   scripts/check-fresh-machine.sh [COMMAND …]
#
# The machine is a minimal Debian (debootstrap's minbase, gcc, git) that is made from packages in a separate folder. It gets
# this machine's Rust toolchain, certificates and name resolution, and a clone of the committed tree. It has no Python, no
# Docker, no valkey-server and no procps. Each COMMAND is a line for sh; without one, these are run:
#
#   cargo run -p ff-cli -- demo
#   cargo xtask demo
#   cargo xtask test
#
# Needs root, for chroot. FF_FRESH_DIR names the folder (default: a new one that is removed at the end); one that holds a
# machine already is used again. FF_FRESH_MIRROR names the Debian mirror (default: the system's).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { echo "fresh machine: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

[ "$(id -u)" = 0 ] || fail "it needs root, for chroot"
dir=${FF_FRESH_DIR:-}
if [ -z "$dir" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf --one-file-system "$dir"' EXIT
fi
mkdir -p "$dir"
root=$(cd "$dir" && pwd)/root

mirror() {
    sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' \
        /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | sed -n 1p || true
}

bootstrap() {
    if command -v debootstrap >/dev/null; then
        debootstrap "$@"
        return
    fi
    # Its package is a shell script, which works without being installed.
    (cd "$dir" && apt-get download -q debootstrap >/dev/null && dpkg -x debootstrap_*.deb debootstrap)
    DEBOOTSTRAP_DIR=$dir/debootstrap/usr/share/debootstrap "$dir/debootstrap/usr/sbin/debootstrap" "$@"
}

if [ ! -x "$root/usr/bin/gcc" ]; then
    from=${FF_FRESH_MIRROR:-$(mirror)}
    [ -n "$from" ] || fail "no Debian mirror is known; name one with FF_FRESH_MIRROR"
    say "making a minimal Debian from $from"
    rm -rf --one-file-system "$root"
    bootstrap --variant=minbase --include=gcc,libc6-dev,git,ca-certificates bookworm "$root" "$from" >"$dir/debootstrap.log" 2>&1 ||
        fail "debootstrap failed; see $dir/debootstrap.log"
    # The system's package sources, for the packages that the tests fetch.
    cp -r /etc/apt/sources.list.d "$root/etc/apt/" 2>/dev/null || true
    cp -rL /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
fi
for program in python3 docker valkey-server redis-server kill ps curl; do
    chroot "$root" sh -c "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; test -x \"\$(which $program 2>/dev/null)\"" &&
        fail "$program is there, and a minimal machine has none"
done

say "copying the Rust toolchain and the committed tree"
toolchain=$(rustc --print sysroot)
mkdir -p "$root/opt/rust" "$root/work"
[ -x "$root/opt/rust/bin/cargo" ] || cp -a "$toolchain/." "$root/opt/rust/"
# Links in the root would point to this machine's own files.
cp -L --remove-destination /etc/resolv.conf /etc/hosts "$root/etc/"
cp -L --remove-destination /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
# A clone of a worktree has its commit, on any branch.
commit=$(git -C "$here" rev-parse HEAD)
rm -rf --one-file-system "$root/work/tree.new"
git clone -q --no-hardlinks "$(git -C "$here" rev-parse --path-format=absolute --git-common-dir)" "$root/work/tree.new"
git -C "$root/work/tree.new" checkout -q "$commit"
# Earlier build results are kept.
[ -d "$root/work/tree/target" ] && mv "$root/work/tree/target" "$root/work/tree.new/target"
rm -rf --one-file-system "$root/work/tree"
mv "$root/work/tree.new" "$root/work/tree"

# Only the variables that every machine has are passed on, and the package mirrors.
run() {
    unshare --mount --pid --fork --kill-child sh -c '
        root=$1; shift
        mount --make-rprivate / && mount -t proc proc "$root/proc" && mount -t tmpfs tmpfs "$root/tmp" -o mode=1777
        [ -c "$root/dev/full" ] || { mount -t tmpfs tmpfs "$root/dev" && for device in null zero full random urandom tty; do
            touch "$root/dev/$device" && mount --bind "/dev/$device" "$root/dev/$device"; done; }
        exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            ${https_proxy:+https_proxy="$https_proxy"} ${http_proxy:+http_proxy="$http_proxy"} ${no_proxy:+no_proxy="$no_proxy"} \
            sh -c "cd /work/tree && $1"
    ' sh "$root" "$1"
}

[ $# -gt 0 ] || set -- "cargo run -p ff-cli -- demo" "cargo xtask demo" "cargo xtask test"
for command in "$@"; do
    say "running: $command"
    run "$command" || fail "failed: $command"
done
say "all of it works"
