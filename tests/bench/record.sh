#!/bin/sh
# Puts what `make bench` measured into the documents: charts into docs/bench, the tables into README.md between their marks.
# Measures nothing, and does nothing if the last whole run had requests that failed.
set -eu
cd "$(dirname "$0")/../.."
measured=target/bench
grep -q '"failed": 0,' target/bench.json || {
    echo "record.sh: no run of make bench without failures" >&2
    exit 66
}
mkdir -p docs/bench
cp "$measured"/*.svg docs/bench/
awk -v table="$measured/table.md" '
    /^<!-- \/bench -->$/ { inside = 0 }
    !inside { print }
    /^<!-- bench -->$/ { inside = 1; print ""; while ((getline line < table) > 0) print line; print "" }
' README.md >target/README.md
cat target/README.md >README.md
