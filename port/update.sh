#!/bin/sh
# Writes what the port derives from the tree: Makefile.crates of Cargo.lock, the rc.d scripts of rc.d.
# Must not be needed by hand: `sh port/update.sh check` fails when something is not as it would write it.
set -eu
cd "$(dirname "$0")/.."
port=port/security/imds-filterd

# All that comes from the registry; cargo(1) in ports gets each as a file of its own.
crates() {
	printf '# Written by port/update.sh of Cargo.lock.\nCARGO_CRATES='
	awk '
		$1 == "name" { gsub(/"/, "", $3); name = $3 }
		$1 == "version" { gsub(/"/, "", $3); version = $3 }
		$1 == "source" { list[++count] = name "-" version }
		END { for (i = 1; i <= count; i++) printf "%s%s%s\n", i == 1 ? "\t" : "\t\t", list[i], i < count ? " \\" : "" }
	' Cargo.lock
}

script() {
	sed 's|/usr/local|%%PREFIX%%|g' "rc.d/$1"
}

write() {
	crates >"$1/Makefile.crates"
	for name in imds_filterd imds_interceptor; do
		script "$name" >"$1/files/$name.in"
	done
}

case ${1:-write} in
write)
	write "$port"
	;;
check)
	fresh=$(mktemp -d)
	trap 'rm -rf "$fresh"' EXIT
	mkdir "$fresh/files"
	write "$fresh"
	for file in Makefile.crates files/imds_filterd.in files/imds_interceptor.in; do
		cmp "$port/$file" "$fresh/$file" || { echo "$port/$file: run sh port/update.sh" >&2; exit 1; }
	done
	;;
*)
	echo "usage: $0 [write|check]" >&2
	exit 64
	;;
esac
