#!/bin/sh
# Makes a Debian package of what `make install` installs. Changes nothing outside of the directory it is given.
#
# usage: build.sh PROGRAMS INTO    VERSION and COMPRESSION (of dpkg-deb) may be set
set -eu
here=$(cd "$(dirname "$0")" && pwd)
programs=$(cd "$1" && pwd)
mkdir -p "$2"
into=$(cd "$2" && pwd)
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/../../Cargo.toml" | head -n 1)}
architecture=$(dpkg --print-architecture)
# the C library that the programs were linked with
libc=$(dpkg-query -W -f='${Version}' libc6 | sed 's/-.*//')

tree=$into/tree
rm -rf "$tree"
make -s -C "$here/../.." install DESTDIR="$tree" PREFIX=/usr RELEASE="$programs" ZSHDIR=/usr/share/zsh/vendor-completions
# dpkg keeps what the administrator changed
rm "$tree"/etc/*.sample
mv "$tree/usr/share/doc/imds-filterd/LICENSE" "$tree/usr/share/doc/imds-filterd/copyright"
gzip -9n "$tree"/usr/share/man/man*/*
mkdir "$tree/DEBIAN"
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$tree/DEBIAN"
(cd "$tree" && find etc -type f | sed 's|^|/|') >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/control" <<END
Package: imds-filterd
Version: $version
Architecture: $architecture
Maintainer: imds-filterd maintainers <maintainers@imds-filterd.invalid>
Section: admin
Priority: optional
Depends: libc6 (>= $libc), systemd
Installed-Size: $(du -sk "$tree" | cut -f 1)
Description: instance metadata service that obeys UNIX users
 Decides which user, group or service of a cloud instance may read which path
 of http://169.254.169.254/, the role's credentials above all. Clients need no
 change; everybody else gets an HTTP 403.
END
package=$into/imds-filterd_${version}_$architecture.deb
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$tree" "$package"
rm -rf "$tree"
