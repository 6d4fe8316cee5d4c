#!/bin/sh
# Builds for x86_64-unknown-freebsd on Debian or Ubuntu: `sh tests/freebsd/cross.sh check|link`.
# Must not need anything of FreeBSD's: rust's own standard library for the target, and zig, of PyPI, as linker.
#
#   check  clippy, every warning an error, of everything
#   link   all programs and all test binaries, into target/x86_64-unknown-freebsd; then FREEBSD_RELEASE=yes for release
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

# A linker for cargo: zig's cc, without the arguments that it does not take.
write_linker() {
	cat >"$tools/linker" <<LINKER
#!/bin/sh
exec "$tools/venv/bin/python" -m ziglang cc -target x86_64-freebsd.$RELEASE -L "$tools/stubs" -Wl,--as-needed "\$@"
LINKER
	chmod 755 "$tools/linker"
}

case ${1:-} in
check)
	rustup target add "$TARGET"
	cargo clippy --locked --workspace --all-targets --target "$TARGET" -- -D warnings
	;;
link)
	install_tools
	write_linker
	export CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER="$tools/linker"
	profile=
	[ "${FREEBSD_RELEASE:-no}" = yes ] && profile=--release
	# shellcheck disable=SC2086 # nothing, or one word
	cargo build --locked $profile --workspace --bins --target "$TARGET"
	# shellcheck disable=SC2086
	cargo test --locked $profile --workspace --no-run --target "$TARGET"
	;;
*)
	echo "usage: $0 check|link" >&2
	exit 64
	;;
esac
