#!/bin/sh
# Runs fuzz targets under libFuzzer, as many at once as there are processors. Arguments: names of targets (default: all).
#   FUZZ_SECONDS  how long each runs (60)   FUZZ_JOBS  how many at once   FUZZ_NEW  where what is found goes (fuzz/target/new)
# Needs no nightly compiler: libFuzzer's instrumentation without the sanitizers. With them: see docs/fuzzing.md.
set -eu
cd "$(dirname "$0")"
seconds=${FUZZ_SECONDS:-60}
jobs=${FUZZ_JOBS:-$(getconf _NPROCESSORS_ONLN)}
new=${FUZZ_NEW:-target/new}
[ $# -gt 0 ] || set -- message netlink packet record request rules sock_diag types
host=$(rustc -vV | sed -n 's/^host: //p')

RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
	${CARGO:-cargo} build --locked --release --features libfuzzer --target "$host" --target-dir target --bins

# one target: its log is shown only if it fails
cat >target/one.sh <<'ONE'
set -eu
name=$1 program=$2 seconds=$3 new=$4
mkdir -p "$new/$name" "target/failed/$name"
if "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=4096 -use_value_profile=1 \
	-print_final_stats=1 -artifact_prefix="target/failed/$name/" "$new/$name" "corpus/$name" >"target/$name.log" 2>&1
then
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "target/$name.log")
	echo "$name: $runs runs in $seconds s, nothing found"
else
	tail -n 60 "target/$name.log"
	echo "$name: FAILED; the bytes are in fuzz/target/failed/$name" >&2
	exit 255
fi
ONE
for name in "$@"; do
	printf '%s\n' "$name"
done | xargs -P "$jobs" -I '{}' sh target/one.sh '{}' "target/$host/release/{}" "$seconds" "$new"
