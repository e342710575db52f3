"""The scripts as files, and as the archive that script mode unpacks beside its data."""

import gzip
import tarfile
from io import BytesIO
from pathlib import Path

PROCESSING = ("include.training.sagemaker.process", "include.training.sagemaker.evaluate")
TRAINING = ("include.training.sagemaker.train", "include.training.sagemaker.inference")


def files() -> dict[str, bytes]:
    """By their places in the bucket: scripts for processing jobs, an archive for trainings."""
    code = {f"code/{name}": content for name, content in _scripts(PROCESSING).items()}
    return code | {"source/source.tar.gz": packed(_scripts(TRAINING))}


def _scripts(modules: tuple[str, ...]) -> dict[str, bytes]:
    names = [f"{module.rpartition('.')[2]}.py" for module in modules]
    return {name: Path(__file__).with_name(name).read_bytes() for name in names}


def packed(scripts: dict[str, bytes]) -> bytes:
    """As `tar.gz`; the same scripts give the same bytes."""
    buffer = BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name, content in scripts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))
    return buffer.getvalue()
