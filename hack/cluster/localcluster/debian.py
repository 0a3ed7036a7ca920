"""The programs that come from Debian packages."""

import os
import shutil
from pathlib import Path

from .commands import ClusterError, run
from .progress import step

# what is called -> which package has it
PROGRAMS = {
    "runc": "runc",
    "nft": "nftables",
    "socat": "socat",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "busybox": "busybox-static",
}


def find(program: str) -> str | None:
    """Finds a program, also where only root's PATH looks."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")


def missing() -> list[str]:
    """The packages that must be installed."""
    packages = [package for program, package in PROGRAMS.items() if find(program) is None]
    busybox = find("busybox")
    if busybox and b"/ld-linux" in Path(busybox).read_bytes():  # needs a C library, which an image of its own has not
        packages.append("busybox-static")
    return packages


def install() -> None:
    """Installs what is missing as root on Debian; elsewhere ClusterError names the packages."""
    packages = missing()
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError("please install these packages (Debian's names): " + " ".join(packages))
    with step("installing " + " ".join(packages)):
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-qq"], env=environment)
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], env=environment)
