"""A store on the disk and one in a bucket, and a task that stands in for a running one."""

import pytest

from include import runs

PLACE = runs.Place("a_dag", "20260104T000000", "train", -1, 1, "")


class Disk:
    """The folder that artifacts are in, as a bucket is looked at."""

    def __init__(self, root):
        """Everything below this folder."""
        self.root = root

    def put(self, key, content):
        """Write past the code under test."""
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(content)

    def get(self, key):
        """Read past the code under test."""
        return (self.root / key).read_bytes()

    def keys(self):
        """Everything in it, unfinished files too."""
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.root)) for path in found)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    store = tmp_path / "a store" / "catalogue"
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", store.as_uri())
    return Disk(store.parent)


@pytest.fixture(params=["disk", "bucket"])
def behind(request):
    """What is really there, on either kind of store."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def here(monkeypatch):
    """Stand in for a running task."""

    def stand(**changes):
        place = runs.Place(**{**vars(PLACE), **changes})
        monkeypatch.setattr(runs, "here", lambda: place)

    stand()
    return stand
