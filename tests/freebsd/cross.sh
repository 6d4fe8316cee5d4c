#!/bin/sh
# Builds for x86_64-unknown-freebsd on Debian or Ubuntu: `sh tests/freebsd/cross.sh check|link|bundle`.
# Must not need anything of FreeBSD's: rust's own standard library for the target, and zig, of PyPI, as linker.
#
#   check  clippy, every warning an error, of everything
#   bundle all programs as they are shipped, the unit tests and run.sh, as target/freebsd-bundle.tar, to be unpacked on
#          FreeBSD
#   link   all programs and all test binaries, into target/x86_64-unknown-freebsd; with FREEBSD_RELEASE=yes as shipped
set -eu
cd "$(dirname "$0")/../.."
ZIG=0.17.1
TARGET=x86_64-unknown-freebsd
# the oldest release that these programs run on
RELEASE=14.0
tools=$(pwd)/target/freebsd-tools

install_tools() {
	rustup target add "$TARGET"
	[ -e "$tools/ziglang-$ZIG" ] && return 0
	rm -rf "$tools"
	mkdir -p "$tools/stubs"
	python3 -m venv "$tools/venv"
	"$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check "ziglang==$ZIG"
	# the libc crate names these; nothing here calls into them, and zig has no copy
	for library in kvm memstat procstat devstat; do
		"$tools/venv/bin/python" -m ziglang cc -target "x86_64-freebsd.$RELEASE" -shared -nostdlib -x c /dev/null \
			-Wl,-soname,"lib$library.stub" -o "$tools/stubs/lib$library.so"
	done
	: >"$tools/ziglang-$ZIG"
}

# A linker for cargo: zig's cc, with the libraries that it has no copy of.
use_linker() {
	install_tools
	cat >"$tools/linker" <<LINKER
#!/bin/sh
exec "$tools/venv/bin/python" -m ziglang cc -target x86_64-freebsd.$RELEASE -L "$tools/stubs" -Wl,--as-needed "\$@"
LINKER
	chmod 755 "$tools/linker"
	export CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER="$tools/linker"
	profile=
	[ "${FREEBSD_RELEASE:-no}" = yes ] || return 0
	profile=--release
}

link() {
	use_linker
	# shellcheck disable=SC2086 # nothing, or one word
	cargo build --locked $profile --workspace --bins --target "$TARGET"
	# shellcheck disable=SC2086
	cargo test --locked $profile --workspace --no-run --target "$TARGET"
}

case ${1:-} in
check)
	rustup target add "$TARGET"
	cargo clippy --locked --workspace --all-targets --target "$TARGET" -- -D warnings
	;;
link)
	link
	;;
bundle)
	# the programs as they are shipped: what is run there is what people get, as fast as they get it
	use_linker
	cargo build --locked --release --workspace --bins --target "$TARGET"
	bundle=target/freebsd-bundle
	built=target/$TARGET/release
	rm -rf "$bundle"
	mkdir -p "$bundle/unit"
	cp -R rc.d "$bundle"
	cp tests/freebsd/run.sh "$built/imds-interceptor" "$built/imds-filterd" "$built/imdsctl" "$built/imds-mock" "$bundle"
	# the unit tests, and those that need neither a lab of Linux nor this tree
	# shellcheck disable=SC2086
	cargo test --locked --quiet $profile --workspace --no-run --target "$TARGET" --message-format json |
		python3 -c '
import json, shutil, sys
for line in sys.stdin:
    made = json.loads(line)
    target, program = made.get("target", {}), made.get("executable")
    if not program or not made["profile"]["test"]:
        continue
    package = made["package_id"].split("#")[0].rsplit("/", 1)[-1]
    if "lib" in target["kind"] and package != "tests":
        shutil.copy(program, f"{sys.argv[1]}/unit/{package}")
    name = target["name"]
    if "test" in target["kind"] and package == "filterd" and name in {
        "asked", "channel", "exchanges", "kept_upstream", "log", "reload", "sandbox", "sent_is_judged", "start", "tokens",
    }:
        shutil.copy(program, f"{sys.argv[1]}/unit/{package}-{name}")
' "$bundle"
	tar -C target -cf target/freebsd-bundle.tar freebsd-bundle
	ls -l target/freebsd-bundle.tar
	;;
*)
	echo "usage: $0 check|link|bundle" >&2
	exit 64
	;;
esac
