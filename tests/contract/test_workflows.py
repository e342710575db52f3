"""What GitHub Actions runs, and what its jobs may do."""

import re

import pytest
import yaml

from include.tools import environment
from tests import sections

FOLDER = environment.PROJECT / ".github" / "workflows"
PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def read(name):
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def test_each_section_with_pipelines_has_a_job_by_day_and_by_night():
    daily = read("ci.yml")["jobs"]["section"]["strategy"]["matrix"]["section"]
    nightly = read("nightly.yml")["jobs"]["prove"]["strategy"]["matrix"]["section"]
    assert daily == [*sections.with_pipelines(), sections.GROUND]
    assert nightly == sections.with_pipelines()


@pytest.mark.parametrize("name", ["ci.yml", "nightly.yml"])
def test_each_action_is_pinned_to_a_commit_and_says_its_version(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    used = [line.strip(" -") for line in text.splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not PINNED.fullmatch(line)] == []


@pytest.mark.parametrize("name", ["ci.yml", "nightly.yml"])
def test_jobs_may_read_the_repository_and_nothing_else(name):
    workflow = read(name)
    assert workflow["permissions"] == {"contents": "read"}
    assert [job for job, what in workflow["jobs"].items() if "permissions" in what] == []
