"""An image is what its digests say, and its files run by themselves."""

import gzip
import hashlib
import io
import json
import tarfile

import httpx
import pytest

from include.serving import golden, image

FAKE_ENGINE = """\
#!/bin/sh
# Does with a build what the real ones do, as far as files go, and writes down what it was asked.
echo "$@" >> "$0.calls"
[ "$1" = info ] && exit ${ANSWERS:-0}
for last; do :; done
while [ $# -gt 0 ]; do
  case "$1" in
    --iidfile) echo sha256:abc > "$2" ;;
    --output) cp -r "$last/srv" "${2#type=local,dest=}/" ;;
  esac
  shift
done
[ -f "$last/Dockerfile" ]
"""


@pytest.fixture(scope="module")
def context(exported):
    return image.context(exported)


@pytest.fixture(scope="module")
def layout(context):
    return image.layout(context, "churn:1")


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Only a docker that can be called; its list of calls."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(FAKE_ENGINE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program.with_name("docker.calls")


def members(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar if each.isfile()}


def repacked(archive, change):
    """The same archive with something done to its files."""
    files = members(archive)
    change(files)
    return image._tar(files)


def test_the_context_pins_the_base_and_every_package_and_has_all_that_is_copied(context):
    files = members(context)
    lines = files["Dockerfile"].decode().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert bases[0] == "scratch"
    assert all("@sha256:" in base for base in bases[1:])
    for line in (line for line in lines if line.startswith("COPY ") and "--from" not in line):
        wanted = line.split()[1]
        assert any(name == wanted or name.startswith(f"{wanted}/") for name in files), line
    pinned = files["srv/requirements.txt"].decode().splitlines()
    assert all("==" in line for line in pinned)
    assert {"starlette", "onnxruntime", "pydantic"} <= {line.split("==")[0] for line in pinned}


def test_the_same_model_gives_the_same_bytes(context, layout, exported):
    assert image.context(exported) == context
    assert image.layout(context, "churn:1") == layout


def test_the_layout_is_as_the_specification_has_it(layout):
    files = members(layout)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (described,) = json.loads(files["index.json"])["manifests"]
    assert described["annotations"]["org.opencontainers.image.ref.name"] == "churn:1"

    def blob(descriptor):
        content = files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(content) == descriptor["size"]
        assert "sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"]
        return content

    manifest = json.loads(blob(described))
    config = json.loads(blob(manifest["config"]))
    (layer,) = manifest["layers"]
    unpacked = gzip.decompress(blob(layer))
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(unpacked).hexdigest()]
    assert manifest["annotations"]["org.opencontainers.image.base.digest"] in image.BASE
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        assert {(e.mtime, e.uid, e.gid) for e in tar} == {(0, 0, 0)}
    assert config["config"]["Entrypoint"][:3] == ["python", "-m", "include.serving.scorer"]


def test_what_was_unpacked_runs_without_anything_else(layout, tmp_path, customers, model):
    root = tmp_path / "root"
    assert image.unpack(layout, root).startswith("sha256:")
    rows = customers.drop(columns="churned").head(5)
    scores = model.predict_proba(rows)[:, 1].tolist()
    with image.running(root) as address:
        assert golden.expect(address, rows.to_dict("records"), scores) <= 1e-5
        with pytest.raises(golden.WrongAnswers, match="one is off by"):
            golden.expect(address, rows.to_dict("records"), [score / 2 for score in scores])
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/ping")
    (root / "srv" / "include" / "serving" / "protocol.py").unlink()
    with (
        pytest.raises(RuntimeError, match="cannot import name 'protocol'"),
        image.running(root),
    ):
        pass


def test_a_changed_blob_is_refused_and_what_was_there_stays(layout, tmp_path):
    root = tmp_path / "root"
    image.unpack(layout, root)

    def change(files):
        largest = max((n for n in files if n.startswith("blobs/")), key=lambda n: len(files[n]))
        files[largest] = files[largest][:-1] + b"!"

    with pytest.raises(image.DamagedImage, match="missing or was changed"):
        image.unpack(repacked(layout, change), root)
    with pytest.raises(image.DamagedImage, match="missing or was changed"):
        image.unpack(repacked(layout, lambda files: files.pop(sorted(files)[0])), root)
    assert (root / "srv" / "model" / "model.onnx").is_file()
    assert [each.name for each in tmp_path.iterdir()] == ["root"]


def test_a_file_that_would_lie_outside_the_root_is_refused(tmp_path):
    evil = image._tar({"srv/../../outside": b"x"})
    with pytest.raises(tarfile.OutsideDestinationError):
        image._unpack(evil, tmp_path / "root")
    assert not (tmp_path / "outside").exists()


def test_an_engine_builds_the_image_and_gives_out_its_own_files(engine, context, tmp_path):
    assert image.engine("auto") == "docker"
    root = tmp_path / "root"
    assert image.build("docker", context, "churn:1", root) == "sha256:abc"
    image.unpack(image.layout(context, "churn:1"), tmp_path / "other")
    assert files_below(root) == files_below(tmp_path / "other")
    _, whole, files = engine.read_text().splitlines()
    assert whole.startswith("build --tag churn:1 --iidfile ")
    assert files.startswith("build --target files --output type=local,dest=")


def test_a_client_without_its_daemon_is_no_engine(engine, monkeypatch):
    monkeypatch.setenv("ANSWERS", "1")
    assert image.engine("auto") is None
    with pytest.raises(ValueError, match="docker is not there or does not answer"):
        image.engine("docker")
    assert image.engine("none") is None


def test_a_build_that_fails_says_what_the_engine_said(engine, tmp_path, context):
    without = repacked(context, lambda files: files.pop("srv/requirements.txt"))
    assert image.build("docker", without, "churn:1", tmp_path / "one")
    broken = repacked(context, lambda files: files.pop("Dockerfile"))
    with pytest.raises(RuntimeError, match="docker did not build churn:1"):
        image.build("docker", broken, "churn:1", tmp_path / "two")
    assert not (tmp_path / "two").exists()


def files_below(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_each_context_of_each_model_has_a_folder_of_its_own():
    folders = [image.root(*each) for each in (("a", b"x"), ("a", b"y"), ("b", b"x"))]
    assert len(set(folders)) == 3
    assert image.root("a", b"x") == folders[0]
