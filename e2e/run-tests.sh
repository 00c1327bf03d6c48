#!/usr/bin/env bash
# Runs the end-to-end tests: run-tests.sh [CARGO TEST ARGUMENT...], as in `run-tests.sh --test faults`.
#
# Every test binary gets namespaces of its own and runs its tests one after the other: labs mostly wait, so several binaries
# run at once (JOBS, 2 unless said otherwise). A binary's output is printed as a whole when it ends; the ones that take
# longest begin first. Fails when one of them fails, after all have run.
set -euo pipefail
cd "$(dirname "$0")/.."

slowest='docker failure_modes controller faults store_faults repair data_plane'
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

cargo test -p weft-e2e "$@" --no-run >"$results/built" 2>&1 || { cat "$results/built" >&2; exit 1; }
# As in: Executable tests/faults.rs (target/debug/deps/faults-0123456789abcdef)
sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$results/built" >"$results/all"
[ -s "$results/all" ] || { echo "run-tests: no test binaries were built" >&2; exit 1; }
{
    for name in $slowest; do grep "/$name-[0-9a-f]*$" "$results/all" || true; done
    cat "$results/all"
} | awk '!seen[$0]++' >"$results/queue"

run_one() {
    name=$(basename "$1" | sed 's/-[0-9a-f]*$//')
    binary=$(realpath "$1")
    # Cargo runs a test binary in the folder of its package.
    if (cd e2e && ./run-isolated.sh "$binary" --test-threads=1) >"$results/$name.out" 2>&1; then verdict=passed; else verdict=failed; fi
    touch "$results/$name.$verdict"
    {
        flock 9
        echo "=== $name: $verdict"
        cat "$results/$name.out"
    } 9>"$results/printing"
}
export -f run_one
export results
xargs -a "$results/queue" -P "${JOBS:-2}" -I{} bash -c 'run_one {}'

failed=$(find "$results" -name '*.failed' -printf '%f ' | sed 's/\.failed//g')
[ -z "$failed" ] || { echo "=== failed: $failed" >&2; exit 1; }
echo "=== all $(wc -l <"$results/queue") test binaries passed"
