#!/usr/bin/env bash
# The pure crates decide and never act: they build without an async runtime, sockets or a store's client.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo check --quiet -p weft-ipam -p weft-overlay --no-default-features
for crate in weft-ipam weft-overlay; do
    tree=$(cargo tree --quiet -e normal -p "$crate" --no-default-features --prefix none)
    if found=$(grep -E '^(tokio|rtnetlink|etcd-client|hyper|nix|socket2|mio) ' <<<"$tree"); then
        echo "check-purity: $crate depends on: $found" >&2
        exit 1
    fi
done
echo "check-purity: weft-ipam and the core of weft-overlay are pure"
