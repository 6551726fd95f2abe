#!/bin/sh
# The servers that tests start for themselves, from Debian's packages: Prometheus with promtool, nginx with openssl to make
# its certificate, and Chromium.
# Where they cannot be installed (no Debian, not root), the tests that need them are skipped and say so.
set -eu
missing=
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="prometheus"
command -v nginx >/dev/null && command -v openssl >/dev/null || missing="$missing nginx openssl"
command -v chromium >/dev/null || missing="$missing chromium"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests that need$(printf ' %s' $missing) will be skipped: install with apt-get as root" >&2
    exit 0
fi
# Debian would start its own Prometheus and nginx; the tests start theirs
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends $missing >/dev/null
