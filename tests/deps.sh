#!/bin/sh
# Installs the packages of tests/packages that are missing. Asks the network only if one is.
set -eu
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.91 or newer (rustup.rs)" >&2; exit 69; }
missing=
# shellcheck disable=SC2013 # words are wanted
for package in $(sed 's/#.*//' tests/packages); do
	status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
	[ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "missing packages:$missing; run this as root, or install them" >&2; exit 77; }
echo "installing:$missing"
apt-get update -q
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
