"""Images without a container engine: built by buildah from our own Dockerfile, packed as archives for containerd."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .binaries import Binaries
from .commands import ClusterError, answers, run
from .debian import find
from .progress import step
from .settings import BASE_IMAGE, BUSYBOX_IMAGE, PAUSE_IMAGE, REPOSITORY
from .slots import locked

TARGETS = ("node", "operator")
_CERTIFICATES = Path("/etc/ssl/certs")
_APPLETS = (
    "sh",
    "cat",
    "chmod",
    "echo",
    "env",
    "ls",
    "mkdir",
    "nc",
    "nslookup",
    "rm",
    "sleep",
    "test",
    "touch",
    "wget",
)


def reference(image: str) -> str:
    """Completes an image's name: without a registry it is `localhost/…`, without a tag `:latest`."""
    first = image.partition("/")[0]
    with_host = (
        image if "/" in image and (first == "localhost" or "." in first or ":" in first) else f"localhost/{image}"
    )
    return with_host if ":" in with_host.rpartition("/")[2] else f"{with_host}:latest"


def ours(target: str, tag: str) -> str:
    """The name of an image that is built from our Dockerfile."""
    if target not in TARGETS:
        raise ClusterError(f"the Dockerfile has the targets {', '.join(TARGETS)}, not {target!r}")
    return f"localhost/agent-world/{target}:{tag}"


def ensure_needed(binaries: Binaries) -> None:
    """Packs the two images that every node needs: pause for its pods, busybox for its volumes."""
    pause, busybox = binaries.images / "pause.tar", binaries.images / "busybox.tar"
    if pause.exists() and busybox.exists():
        return
    with (
        locked(binaries.root / "images.lock", waiting_for="another run to pack images"),
        step("images pause and busybox"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "pause")
            root.mkdir()
            shutil.copy2(binaries.bin / "pause", root / "pause")
            _from_scratch(PAUSE_IMAGE, root, ["--entrypoint", '["/pause"]'])
            root = Path(folder, "busybox")
            (root / "bin").mkdir(parents=True)
            shutil.copy2(find("busybox") or "/bin/busybox", root / "bin" / "busybox")
            for applet in _APPLETS:
                (root / "bin" / applet).symlink_to("busybox")
            (root / "tmp").mkdir(mode=0o1777)
            _from_scratch(BUSYBOX_IMAGE, root, ["--env", "PATH=/bin", "--cmd", "/bin/sh"])
        _pack(PAUSE_IMAGE, pause)
        _pack(BUSYBOX_IMAGE, busybox)


def ensure_base() -> None:
    """Makes the base of our images: Debian with Python and certificates."""
    if answers(_buildah("inspect", "--type", "image", BASE_IMAGE), seconds=30):
        return
    with step("base image: Debian bookworm with Python"), tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "base.tar")
        run(["mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", root])
        _from_scratch(BASE_IMAGE, root, ["--cmd", "python3"])


def build(target: str, tag: str) -> str:
    """Builds one target of our Dockerfile with buildah, on layers of earlier builds, and returns the image's name."""
    name = ours(target, tag)
    with step(f"image {name}"):
        run(
            [
                *_buildah("bud", "--quiet", "--layers", "--isolation=chroot", f"--target={target}", f"--tag={name}"),
                f"--build-arg=BASE={BASE_IMAGE}",
                *pip_settings(os.environ),
                *_volumes(os.environ),
                f"--file={REPOSITORY / 'Dockerfile'}",
                REPOSITORY,
            ]
        )
    return name


def pip_settings(environment: Mapping[str, str]) -> list[str]:
    """Hands the user's pip settings to the build, as build arguments, so that they do not end up in the image."""
    names = ("PIP_CERT", "PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_DEFAULT_TIMEOUT")
    return [f"--build-arg={name}={environment[name]}" for name in names if environment.get(name)]


def archive(image: str, folder: Path) -> Path:
    """Returns an archive of an image: the file if one is named, else packed from buildah's store if it changed."""
    if image.endswith((".tar", ".oci")):
        path = Path(image).resolve()
        if not path.is_file():
            raise ClusterError(f"there is no file {path}")
        return path
    name = reference(image)
    if not answers(_buildah("inspect", "--type", "image", name), seconds=30):
        raise ClusterError(f"buildah has no image {name}; build ours with `image`, or name a .tar file")
    target = folder / (name.replace("/", "-").replace(":", "-") + ".tar")
    mark = target.with_suffix(".id")
    identity = run(_buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", name)).strip()
    if not (target.exists() and mark.exists() and mark.read_text() == identity):
        with step(f"packing {name}"):
            _pack(name, target)
        mark.write_text(identity)
    return target


def _pack(name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(f".{os.getpid()}.new")
    run(_buildah("push", "--quiet", name, f"docker-archive:{fresh}:{name}"))
    fresh.replace(target)


def _from_scratch(name: str, content: Path, settings: Sequence[str]) -> None:
    """Makes an image of nothing but the content of a folder or an archive."""
    container = run(_buildah("from", "scratch")).strip()
    try:
        run(_buildah("add", "--quiet", container, str(content), "/"))
        run(_buildah("config", *settings, container))
        run(_buildah("commit", "--quiet", container, name))
    finally:
        run(_buildah("rm", container))


def _volumes(environment: Mapping[str, str]) -> list[str]:
    """Mounts the host's certificates, and the folder of wheels that pip is told to look into, while building."""
    paths = [
        _CERTIFICATES,
        *(Path(word) for word in environment.get("PIP_FIND_LINKS", "").split() if word.startswith("/")),
    ]
    certificate = Path(environment.get("PIP_CERT") or _CERTIFICATES / "ca-certificates.crt")
    if certificate.is_file() and _CERTIFICATES not in certificate.parents:
        paths.append(certificate)
    return [f"--volume={path}:{path}:ro" for path in paths if path.exists()]


def _buildah(*words: str) -> list[str]:
    driver = os.environ.get("STORAGE_DRIVER", "overlay")
    return ["buildah", "--storage-driver", driver, *words]
