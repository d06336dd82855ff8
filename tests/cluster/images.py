"""The project's images without a registry: a base from Debian's packages, and buildah."""

import os
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from binaries import cached

ROOT = Path(__file__).parents[2]
RELEASE = "bookworm"
BASE = f"localhost/moe-test-base:{RELEASE}"
PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
PYTHON = "3.11"
"""Of that release."""
IMAGES = ("operator", "runtime")
BUILD_DEADLINE_S = 1800


def missing() -> str:
    """Why images cannot be built here; empty where they can."""
    programs = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if programs:
        return f"no {' and no '.join(programs)}; both are packages of Debian"
    return "" if os.geteuid() == 0 else "debootstrap needs root"


def snapshot(folder: Path) -> Path:
    """A copy of the working tree that does not change while images are built from it."""
    _run("git", "clone", "--quiet", "--shared", str(ROOT), str(folder))
    for part in ("operator", "runtime", "tools"):
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True)
    return folder


def build(source: Path, image: str, *more: object) -> str:
    """Build `operator` or `runtime` into buildah's storage from a snapshot, with more options; its digest."""
    _base()
    command = [sys.executable, source / "tools" / "images.py", image, "--base", BASE, "--wheels", wheels(image), *more]
    return _run(*map(str, command)).split()[-1]


def store(image: str) -> str:
    """Build `operator` or `runtime` into buildah's storage from the working tree; its digest.

    Seconds where the lock's layer is there, else minutes.
    """
    return build(ROOT, image)


def wheels(image: str) -> Path:
    """What an image installs, for the base's Python: fetched once, as the machine's pip is configured, and kept."""
    requirements, folder = ROOT / image / "requirements.txt", _wheels(image)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            _run(
                *(sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:"),
                *(f"--python-version={PYTHON}", f"--requirement={requirements}", f"--dest={fresh}/wheels"),
            )
            (Path(fresh) / "wheels").rename(folder)
    return folder


def never_built() -> list[str]:
    """Images whose first build, which takes minutes, is still to come."""
    return [image for image in IMAGES if not _wheels(image).exists()]


def _wheels(image: str) -> Path:
    requirements = ROOT / image / "requirements.txt"
    return cached(f"wheels-{image}-{sha256(requirements.read_bytes()).hexdigest()[:12]}")


def _base() -> None:
    """Make the base once; it stays in buildah's storage."""
    if subprocess.run(["buildah", "inspect", "--type=image", BASE], capture_output=True, check=False).returncode == 0:
        return
    with tempfile.TemporaryDirectory(prefix="moe-base-") as folder:
        _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, folder)
        for heap in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder) / heap)
        container = _run("buildah", "from", "scratch").strip()
        try:
            _run("buildah", "add", "--quiet", container, folder, "/")
            _run("buildah", "commit", "--quiet", "--timestamp=0", container, BASE)
        finally:
            _run("buildah", "rm", container)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_DEADLINE_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout
