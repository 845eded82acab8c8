#!/bin/sh
# A base image from Debian packages, for machines that reach a Debian mirror and no image registry.
#   base.sh FOLDER    unpacks it into FOLDER (about 120 MB); `tar --owner=0 --group=0 --numeric-owner -C FOLDER -c . | docker import - microclaw-base`
# Needs apt-get and dpkg-deb of Debian 12; no root rights, nothing of the packages is run.
set -eu

root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

packages="
  python3.11-minimal libpython3.11-minimal libpython3.11-stdlib media-types tzdata
  libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libsqlite3-0 libbz2-1.0 liblzma5 libncursesw6 libtinfo6
  libreadline8 libuuid1 libcrypt1 libdb5.3
  busybox bash coreutils grep sed findutils tini ca-certificates
  libacl1 libattr1 libgmp10 libselinux1 libpcre2-8-0
  curl git python3-pip python3-distutils python3-lib2to3 python3-setuptools python3-pkg-resources python3-wheel
  libcurl4 libcurl3-gnutls libbrotli1 libzstd1 libnghttp2-14 libidn2-0 libunistring2 libpsl5 librtmp1 libssh2-1
  libgnutls30 libnettle8 libhogweed6 libp11-kit0 libtasn1-6 libldap-2.5-0 libsasl2-2
  libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 libkeyutils1"

mkdir -p "$root"
# shellcheck disable=SC2086 - a list
(cd "$work" && apt-get -q download $packages)
for package in "$work"/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --no-same-owner \
    --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
    --exclude='./usr/share/info/*' --exclude='*/__pycache__/*'
done

# One /usr, as Debian's own systems have it.
for name in bin sbin lib lib64; do
  if [ -d "$root/$name" ] && [ ! -L "$root/$name" ]; then
    mkdir -p "$root/usr/$name"
    cp -a "$root/$name/." "$root/usr/$name/"
    rm -rf "${root:?}/$name"
  fi
  [ -e "$root/usr/$name" ] && ln -sfn "usr/$name" "$root/$name"
done

# What coreutils and the others don't bring comes from busybox.
for applet in $("$root/usr/bin/busybox" --list 2>/dev/null || busybox --list); do
  [ -e "$root/usr/bin/$applet" ] || [ -e "$root/usr/sbin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
done
ln -sfn python3.11 "$root/usr/bin/python3"
ln -sfn python3.11 "$root/usr/bin/python"
ln -sfn bash "$root/usr/bin/sh"

mkdir -p "$root/etc/ssl/certs" "$root/tmp" "$root/var/tmp" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/root" \
  "$root/workspace"
chmod 1777 "$root/tmp" "$root/var/tmp"
cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:\nagent:x:10001:\n' >"$root/etc/group"
printf 'root:x:0:0:root:/root:/bin/sh\nagent:x:10001:10001:agent:/tmp:/bin/sh\n' >"$root/etc/passwd"
printf 'hosts: files dns\npasswd: files\ngroup: files\n' >"$root/etc/nsswitch.conf"
