"""What names a feature set: its code, its libraries, its data and its settings."""

import hashlib
from importlib.metadata import version as installed

import pytest

from include.features import recipe

SETTINGS = {"seed": 97, "columns": ["amount"]}


@pytest.fixture
def code(tmp_path):
    """A file of code."""
    file = tmp_path / "features.py"
    file.write_text("SCALE = 2\n")
    return file


def test_a_recipe_holds_all_that_the_features_depend_on(code):
    data = {"payments": "12ab"}
    assert recipe.recipe([str(code)], data, SETTINGS) == {
        "code": {"features.py": hashlib.sha256(b"SCALE = 2\n").hexdigest()},
        "libraries": {
            name: installed(name)
            for name in ("numpy", "pandas", "pyarrow", "scikit-learn", "skops")
        },
        "data": data,
        "settings": SETTINGS,
    }


def test_a_recipe_is_called_by_twelve_digits_of_its_content():
    # Counted apart from the code: sha256 of {"data": {"a": "1"}, "settings": {"seed": 97}}.
    named = recipe.version({"settings": {"seed": 97}, "data": {"a": "1"}})
    assert named == "e03cdbecf443"
    assert named == recipe.version({"data": {"a": "1"}, "settings": {"seed": 97}})


def test_changed_code_data_settings_or_libraries_give_another_name(code, monkeypatch):
    def name(data="12ab", seed=97):
        return recipe.version(recipe.recipe([code], {"payments": data}, {"seed": seed}))

    names = [name(), name(data="34cd"), name(seed=98)]
    code.write_text("SCALE = 2  # as before\n")
    names.append(name())
    monkeypatch.setattr(recipe, "installed", lambda library: "0.0")
    names.append(name())
    assert len(set(names)) == 5
    assert name() == name()
