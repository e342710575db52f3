"""A model with the program that serves it, as a container image.

An engine builds it from a context; where none is there, what the context adds to its base is
written as an OCI image layout without one. Either way the image's own files come out in a folder,
its root, and can be run from there.
"""

import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distribution
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from include import processes

BASE = (
    "docker.io/library/python:3.12.11-slim-bookworm"
    "@sha256:519591d6871b7bc437060736b9f7456b8731f1499a57e22e6c285135ae657bf7"
)
ENGINES = ("docker", "podman", "buildah")
PACKAGES = ("fastapi", "numpy", "onnxruntime", "prometheus-client", "pyyaml", "uvicorn")
MODULES = (
    "__init__.py",
    "loopback.py",
    "serving/__init__.py",
    "serving/engine.py",
    "serving/protocol.py",
    "serving/scorer.py",
    "serving/tokens.py",
)
MODEL = ("MLmodel", "model.onnx")
PROGRAM = ["python", "-m", "include.serving.scorer", "--model", "/srv/model"]
LISTEN = ["--host", "0.0.0.0", "--port", "8080"]  # noqa: S104 - a container's own network
DOCKERFILE = f"""\
FROM scratch AS files
COPY srv /srv

FROM {BASE}
COPY srv/requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --no-deps -r /tmp/requirements.txt
COPY --from=files /srv /srv
WORKDIR /srv
USER 65534
EXPOSE 8080
ENTRYPOINT {json.dumps(PROGRAM + LISTEN)}
"""
OCI = "application/vnd.oci.image"


class DamagedImage(ValueError):
    """An image is not what its digests say."""


def context(model: Path) -> bytes:
    """Everything that a build needs besides the base, as a tar: the same bytes for the same."""
    code = Path(__file__).resolve().parents[1]
    files = {"Dockerfile": DOCKERFILE.encode(), "srv/requirements.txt": requirements().encode()}
    files |= {f"srv/include/{name}": (code / name).read_bytes() for name in MODULES}
    files |= {f"srv/model/{name}": (model / name).read_bytes() for name in MODEL}
    return _tar(files)


def requirements() -> str:
    """The packages that answer here, and all that they need, each at the version that did."""
    pinned: dict[str, str] = {}
    waiting = list(PACKAGES)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in pinned:
            continue
        found = distribution(name)
        pinned[name] = found.version
        for line in found.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return "".join(f"{name}=={pinned[name]}\n" for name in sorted(pinned))


def engine(wanted: str) -> str | None:
    """The engine that was asked for, or the first that answers: a client alone builds nothing."""
    for name in ENGINES if wanted == "auto" else [wanted]:
        if shutil.which(name):
            done = subprocess.run([name, "info"], capture_output=True, check=False, timeout=60)
            if done.returncode == 0:
                return name
    if wanted in ENGINES:
        raise ValueError(
            f"{wanted} is not there or does not answer: see `{wanted} info`, or let another build"
        )
    return None


def build(engine: str, context: bytes, tag: str, root: Path) -> str:
    """Have an engine build the image, and give out its own files; returns the image's id."""
    with tempfile.TemporaryDirectory() as folder, _appearing(root) as part:
        source, image_id = Path(folder) / "context", Path(folder) / "id"
        _unpack(context, source)
        for wanted in (
            ["--tag", tag, "--iidfile", str(image_id)],
            ["--target", "files", "--output", f"type=local,dest={part}"],
        ):
            done = subprocess.run(
                [engine, "build", *wanted, str(source)], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
                raise RuntimeError(f"{engine} did not build {tag}:\n{said}")
        return image_id.read_text(encoding="utf-8").strip()


def layout(context: bytes, tag: str) -> bytes:
    """Write what a context adds to its base as an OCI image layout, in a tar as engines load it."""
    with tarfile.open(fileobj=BytesIO(context)) as tar:
        added = {
            each.name: tar.extractfile(each).read()  # type: ignore[union-attr]
            for each in tar.getmembers()
            if each.isfile() and each.name.startswith("srv/")
        }
    layer = _tar(added)
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, kind: str, **more: Any) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{sha256}"] = content
        return {"mediaType": kind, "digest": f"sha256:{sha256}", "size": len(content), **more}

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = {
        "architecture": machine,
        "os": "linux",
        "config": {
            "User": "65534",
            "WorkingDir": "/srv",
            "ExposedPorts": {"8080/tcp": {}},
            "Entrypoint": PROGRAM + LISTEN,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    name, _, digest = BASE.partition("@")
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": blob(_json(config), f"{OCI}.config.v1+json"),
        "layers": [blob(gzip.compress(layer, mtime=0), f"{OCI}.layer.v1.tar+gzip")],
        "annotations": {
            "org.opencontainers.image.base.name": name,
            "org.opencontainers.image.base.digest": digest,
        },
    }
    called = {"org.opencontainers.image.ref.name": tag}
    kind = f"{OCI}.manifest.v1+json"
    index = {"schemaVersion": 2, "manifests": [blob(_json(manifest), kind, annotations=called)]}
    return _tar({
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        **blobs,
    })


def unpack(layout: bytes, root: Path) -> str:
    """Check every digest of an image, put its files into a folder, and return the image's own."""
    with tarfile.open(fileobj=BytesIO(layout)) as tar:
        files = {
            each.name: tar.extractfile(each).read()  # type: ignore[union-attr]
            for each in tar.getmembers()
            if each.isfile()
        }

    def verified(descriptor: Mapping[str, Any]) -> bytes:
        digest = descriptor["digest"]
        content = files.get(f"blobs/{digest.replace(':', '/')}", b"")
        if len(content) != descriptor["size"] or _digest(content) != digest:
            raise DamagedImage(f"the image's blob {digest[:19]}… is missing or was changed")
        return content

    (described,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(verified(described))
    config = json.loads(verified(manifest["config"]))
    layers = [gzip.decompress(verified(each)) for each in manifest["layers"]]
    if [_digest(layer) for layer in layers] != config["rootfs"]["diff_ids"]:
        raise DamagedImage("the image's layers are not those that its configuration names")
    with _appearing(root) as part:
        for layer in layers:
            _unpack(layer, part)
    return str(described["digest"])


@contextmanager
def running(root: Path) -> Iterator[str]:
    """Run the image's program from its root, with its own code and model; yields the address."""
    port = processes.free_port()
    program = [sys.executable, *PROGRAM[1:-1], str(root / "srv" / "model")]
    here = ["--host", "127.0.0.1", "--port", str(port), "--parent", str(os.getpid())]
    with tempfile.TemporaryDirectory() as folder:
        env = {"PYTHONPATH": str(root / "srv"), "PYTHONDONTWRITEBYTECODE": "1"}
        process = processes.start(Path(folder), "image", program + here, env, port)
        try:
            processes.wait_until_answers(f"http://127.0.0.1:{port}/ping", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            processes.stop(Path(folder), [process])


def root(name: str, context: bytes) -> Path:
    """Where the files lie of the image that is built from a context."""
    return roots() / name / hashlib.sha256(context).hexdigest()[:12]


def roots() -> Path:
    """Where this Airflow keeps the files of all images."""
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "images"


@contextmanager
def _appearing(root: Path) -> Iterator[Path]:
    """A folder that takes its place only once it is complete."""
    root.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        yield part
        part.chmod(0o755)
        shutil.rmtree(root, ignore_errors=True)
        part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _tar(files: Mapping[str, bytes]) -> bytes:
    """An archive that says nothing of when or by whom it was made."""
    buffer = BytesIO()
    folders = {str(above) for name in files for above in PurePosixPath(name).parents} - {"."}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(folders):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            tar.addfile(entry, BytesIO(files[name]))
    return buffer.getvalue()


def _unpack(archive: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")  # nothing outside, no links out, no devices


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
