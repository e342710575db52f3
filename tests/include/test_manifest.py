"""Manifests: names that follow from the content, lines of versions, and damage that is told."""

import json

import pytest

from include.data import manifest

CONTENT = {"rows": 3, "files": {"a.parquet": "12ab"}}


def test_the_first_version_has_no_parent():
    assert json.loads(manifest.write(CONTENT, None)) == {
        "version": manifest.version(CONTENT),
        "parent": None,
        "generation": 1,
        "content": CONTENT,
    }


def test_the_next_version_names_its_parent_and_counts_on():
    first = manifest.read(manifest.write(CONTENT, None), "a.json")
    second = manifest.read(manifest.write(CONTENT | {"rows": 4}, first), "b.json")
    third = manifest.read(manifest.write(CONTENT | {"rows": 5}, second), "c.json")
    assert [each["parent"] for each in (first, second, third)] == [
        None,
        first["version"],
        second["version"],
    ]
    assert [each["generation"] for each in (first, second, third)] == [1, 2, 3]


def test_a_version_is_called_by_its_content_alone():
    # Counted apart from the code: sha256 of {"files": {"a.parquet": "12ab"}, "rows": 3}.
    assert manifest.version(CONTENT) == "27f112dc2e53"
    assert manifest.version(dict(reversed(CONTENT.items()))) == manifest.version(CONTENT)
    assert manifest.version(CONTENT | {"rows": 4}) != manifest.version(CONTENT)


def test_equal_content_is_written_as_equal_bytes_that_people_can_read():
    turned = dict(reversed(CONTENT.items()))
    assert manifest.write(turned, None) == manifest.write(CONTENT, None)
    lines = manifest.write(CONTENT, None).decode().splitlines()
    assert lines[:2] == ["{", '  "content": {']


@pytest.mark.parametrize("document", [b"no JSON", b"[]", b"{}", b"3", b'{"version": "a"}', b"\xff"])
def test_what_is_no_manifest_is_refused_with_its_address(document):
    with pytest.raises(manifest.DamagedManifest, match=r"^store/a\.json is no manifest: .*Error"):
        manifest.read(document, "store/a.json")


def test_a_manifest_that_was_changed_is_refused_with_both_names():
    written = manifest.write(CONTENT, None).replace(b'"rows": 3', b'"rows": 4')
    named, actual = manifest.version(CONTENT), manifest.version(CONTENT | {"rows": 4})
    with pytest.raises(manifest.DamagedManifest) as damaged:
        manifest.read(written, "store/a.json")
    assert str(damaged.value) == (
        f"store/a.json was changed after it was written: it is called {named}, and its content "
        f"is that of version {actual}"
    )


def test_the_newest_is_the_end_of_the_longest_line():
    known = [
        {"version": "c", "generation": 1},
        {"version": "a", "generation": 2},
        {"version": "b", "generation": 2},
    ]
    assert manifest.newest(known) == known[2]
    assert manifest.newest(reversed(known)) == known[2]  # of two that branched off, always this
    assert manifest.newest(known[:1]) == known[0]
    assert manifest.newest([]) is None
