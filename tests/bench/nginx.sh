#!/bin/sh
# Prints the path of an nginx for imds-bench; without one on this machine, gets Debian's into a directory of its own.
# Never installs it: the package would start a web server.
#
# Usage: nginx.sh DIRECTORY
set -eu
PATH=$PATH:/usr/sbin:/sbin
if command -v nginx; then exit 0; fi
mkdir -p "$1"
cd "$1"
got=usr/sbin/nginx
if [ ! -x $got ]; then
    apt-get update -q >&2
    # since Debian 12 the program is in nginx, before that in nginx-light and its like
    for package in nginx nginx-light nginx-core; do
        rm -f ./*.deb
        apt-get download -q "$package" >&2 || continue
        dpkg-deb --extract ./*.deb . && [ -x $got ] && break
    done
    rm -f ./*.deb
fi
if ! missing=$(./$got -v 2>&1); then
    echo "nginx.sh: the downloaded nginx does not run: $missing" >&2
    exit 69
fi
echo "$PWD/$got"
