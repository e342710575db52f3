"""After `make up`: no file that others may read holds a secret of this installation."""

import json
from collections.abc import Iterator
from pathlib import Path

from include.tools import environment, rest, up

OF_PLATFORMS = (
    "*/door-token",
    "*/token",
    "azure_ml/secret",
    "sagemaker/secret-key",
)
MOST_BYTES = 50 << 20  # no secret is looked for in larger files


def main() -> None:
    """Fail and name each file with a secret in it that others may read."""
    home = environment.home()
    secrets = dict(_secrets(home))
    looked, open_to_others = 0, []
    for file in home.rglob("*"):
        if not file.is_file() or file.is_symlink() or file.stat().st_size > MOST_BYTES:
            continue
        looked += 1
        if file.stat().st_mode & 0o077:
            content = file.read_bytes()
            open_to_others += [f"{file}: {name}" for name, it in secrets.items() if it in content]
    if open_to_others:
        raise SystemExit("others may read:\n" + "\n".join(open_to_others))
    print(f"None of {len(secrets)} secrets can be read by others in {looked} files.")


def _secrets(home: Path) -> Iterator[tuple[str, bytes]]:
    for name, value in json.loads((home / "secrets.json").read_text()).items():
        yield f"the key {name}", value.encode()
    password = rest.password(up.settings(home))
    assert password, "nobody has a password"
    yield "the admin's password", password.encode()
    cloud = home / "local-cloud"
    files = [file for pattern in OF_PLATFORMS for file in cloud.glob(pattern)]
    assert len(files) >= 8, f"of the platforms' secrets only these are there: {files}"
    for file in files:
        yield f"the {file.name} of {file.parent.name}", file.read_bytes()
    credentials = json.loads((cloud / "vertex" / "credentials.json").read_text())
    yield "the token of vertex", credentials["token"].encode()


if __name__ == "__main__":
    main()
