#!/bin/sh
# Installs the SDKs that the tests use as clients, pinned, below the directory of the test programs, which labs show.
# Changes nothing of the machine, save that it installs npm where there is none; asks the network only if something changed.
#
# usage: install.sh [PROFILE]   of cargo's, default debug
set -eu
here=$(cd "$(dirname "$0")" && pwd)
into=${CARGO_TARGET_DIR:-$here/../../target}/${1:-debug}/clients
mkdir -p "$into"
into=$(cd "$into" && pwd)
cd "$here"

# what a lab finds, not what a developer's own path has first; cargo apart, which no lab needs
own_path=$PATH
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH

wanted=$(cat install.sh requirements.txt package-lock.json aws-config/Cargo.* aws-config/src/main.rs | sha256sum)
# the interpreter belongs to it: a virtual environment is of no use to the next version of Python
wanted="$wanted $(python3 --version)"
if [ "$(cat "$into/complete" 2>/dev/null || true)" = "$wanted" ]; then exit 0; fi

echo "installing clients into $into"
rm -rf "$into/complete" "$into/python" "$into/cloud-init" "$into/javascript"
mkdir -p "$into/cloud-init" "$into/javascript"

# --- Python: aws-cli, ec2-metadata and what cloud-init imports. Wheels only: no package's own code runs.
python3 -m venv "$into/python"
"$into/python/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: -r requirements.txt

# --- cloud-init is in no index of Python packages. The distribution's package is unpacked, not installed: installed it
# would run at the next boot of this machine.
fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT
fetch() { (cd "$fetched" && apt-get download -q -o APT::Sandbox::User=root cloud-init); }
fetch || { apt-get update -q && fetch; }
dpkg-deb -x "$fetched"/cloud-init*.deb "$fetched/tree"
mv "$fetched/tree/usr/lib/python3/dist-packages/cloudinit" "$into/cloud-init/"
# its start costs more than its crawl otherwise; a lab cannot write here
"$into/python/bin/python" -m compileall -q "$into/cloud-init"

# --- JavaScript. No list of npm in tests/packages: where nodejs comes from elsewhere it brings npm, and Debian's is at odds.
if ! command -v npm >/dev/null; then
	[ "$(id -u)" = 0 ] || { echo "missing: npm; run this as root, or install it" >&2; exit 77; }
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends nodejs npm
fi
cp package.json package-lock.json "$into/javascript/"
(cd "$into/javascript" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)

# --- Rust; its objects stay, so that a change here is not a build from nothing
PATH=$own_path cargo build --quiet --locked --manifest-path aws-config/Cargo.toml --target-dir "$into/rust"
cp -f "$into/rust/debug/aws-config-client" "$into/"

# readable for the users of a lab, whatever the umask was
chmod -R go+rX "$into"
echo "$wanted" >"$into/complete"
