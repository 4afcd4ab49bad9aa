#!/usr/bin/env bash
# Makes a Docker image of a local valkey-server, for machines that cannot pull the public one.
#
#   scripts/offline-image.sh SERVER [TAG]
#
# SERVER is the program or the launcher that scripts/fetch-valkey.sh wrote; TAG is flowfabric-valkey:local unless
# given. The image holds the program, the libraries that it loads and an empty /data. Never give it a public tag.
set -euo pipefail

server=${1:?usage: scripts/offline-image.sh SERVER [TAG]}
tag=${2:-flowfabric-valkey:local}

libs=
if [ "$(head -c 2 "$server")" = '#!' ]; then
    # The launcher of fetch-valkey.sh: its last line sets the library path and execs the program.
    libs=$(sed -n 's/^LD_LIBRARY_PATH="\([^$"]*\).*/\1/p' "$server")
    server=$(sed -n 's/.* exec "\([^"]*\)".*/\1/p' "$server")
fi
[ -x "$server" ] || {
    echo "offline-image: no program at '$server'" >&2
    exit 1
}

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/data" "$stage/tmp"
chmod 1777 "$stage/data" "$stage/tmp"
cp -L "$server" "$stage/valkey-server"
LD_LIBRARY_PATH=$libs ldd "$server" | grep -o '/[^ ]*' | sort -u | while read -r lib; do
    # Libraries that were unpacked elsewhere are copied to a default folder of the loader.
    case "$lib" in
    /lib*) place=$stage$lib ;;
    *) place=$stage/lib/$(basename "$lib") ;;
    esac
    mkdir -p "$(dirname "$place")"
    cp -L "$lib" "$place"
done
id=$(tar -C "$stage" -cf - . | docker import --change 'ENTRYPOINT ["/valkey-server"]' --change 'WORKDIR /data' - "$tag")
echo "offline-image: $tag is $(LD_LIBRARY_PATH=$libs "$server" --version 2>/dev/null | grep -o 'v=[^ ]*' || echo "$id")" >&2
