"""A training that is put down and taken up again comes to the same weights, bit for bit."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from include.training import checkpointed, neural
from include.training.job import Job

SETTINGS = neural.Settings(epochs=10, hidden=4)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(97)
    frame = pd.DataFrame(rng.normal(size=(600, 3)), columns=["a", "b", "c"])
    return frame.assign(label=(frame.a + rng.normal(size=600) > 0).astype(int))


@pytest.fixture(autouse=True)
def threads():
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def job(tmp_path, rows):
    return ordered(tmp_path, rows)


@pytest.fixture
def undisturbed(tmp_path, rows):
    job = ordered(tmp_path / "undisturbed", rows)
    checkpointed.train(job)
    return result(job)


def ordered(folder, rows, settings=SETTINGS):
    folder.mkdir(exist_ok=True)
    path = folder / "rows.parquet"
    rows.to_parquet(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    job = Job(folder / "job")
    job.prepare(checkpointed.order(path, sha256, "label", settings, checkpoint_every=3))
    return job


def result(job):
    return [(job.folder / name).read_bytes() for name in ("weights.npz", "losses.json")]


class Killed(BaseException):
    """Nothing after it is done."""


def kill_at(epoch, job):
    def tell(progress):
        if progress.epoch >= epoch:
            raise Killed

    job.tell = tell
    with pytest.raises(Killed):
        checkpointed.train(job)
    del job.tell


def test_a_killed_training_goes_on_to_the_same_weights_and_losses(job, undisturbed):
    kill_at(6, job)
    assert job.reached() == 6
    checkpointed.train(job)
    assert result(job) == undisturbed
    assert job.progress().state == "finished"


def test_it_trains_only_the_rest(job, undisturbed, monkeypatch):
    kill_at(6, job)
    trained = []
    epoch = neural.Training.epoch

    def counted(self):
        trained.append(1)
        return epoch(self)

    monkeypatch.setattr(neural.Training, "epoch", counted)
    checkpointed.train(job)
    assert len(trained) == 4


def test_asked_to_stop_it_keeps_the_epoch_that_it_is_in(job, undisturbed, monkeypatch):
    epoch = neural.Training.epoch
    done = []

    def asked(self):
        done.append(1)
        job.asked_to_stop = len(done) == 4
        return epoch(self)

    monkeypatch.setattr(neural.Training, "epoch", asked)
    checkpointed.train(job)
    assert (job.reached(), job.progress().state) == (4, "stopped")
    job.asked_to_stop = False
    checkpointed.train(job)
    assert result(job) == undisturbed


def test_asked_before_it_began_it_does_not_begin(job):
    job.asked_to_stop = True
    checkpointed.train(job)
    assert (job.reached(), job.progress().state) == (0, "stopped")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(job, undisturbed, capsys):
    kill_at(9, job)
    newest = job.checkpoints()[-1].path
    newest.write_bytes(newest.read_bytes()[:-100])
    checkpointed.train(job)
    assert "going back to the one before it" in capsys.readouterr().out
    assert result(job) == undisturbed


def test_a_feature_without_a_number_is_named(tmp_path, rows):
    job = ordered(tmp_path, rows.assign(b=rows.b.where(rows.index > 1)))
    with pytest.raises(ValueError, match="these features have no number: b in 2"):
        checkpointed.main(job.folder)
    assert job.progress().state == "failed"
    assert "b in 2" in job.progress().message


def test_rows_that_were_changed_are_refused(tmp_path, rows):
    job = ordered(tmp_path, rows)
    rows.head(10).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet was changed after it was written"):
        checkpointed.train(job)


def test_a_training_that_runs_away_says_so(tmp_path, rows):
    job = ordered(tmp_path, rows, neural.Settings(epochs=10, learning_rate=1e30))
    with pytest.raises(ValueError, match=r"the loss of epoch .* is nan: learn slower"):
        checkpointed.train(job)


@pytest.mark.gpu
def test_a_card_goes_on_to_the_same_weights_too(job, undisturbed):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: the same was shown on the processor")
    kill_at(6, job)
    checkpointed.train(job)
    assert result(job) == undisturbed


@pytest.mark.parametrize(
    "other",
    [
        {"rows": Path("other.parquet")},
        {"sha256": "another"},
        {"label": "another"},
        {"settings": replace(SETTINGS, epochs=11)},
        {"settings": replace(SETTINGS, seed=SETTINGS.seed + 1)},
        {"checkpoint_every": 4},
    ],
)
def test_another_order_is_another_training(other):
    asked = {"rows": Path("rows.parquet"), "sha256": "one", "label": "label"}
    asked |= {"settings": SETTINGS, "checkpoint_every": 3}
    assert checkpointed.order(**asked) == checkpointed.order(**asked)
    assert checkpointed.order(**asked | other) != checkpointed.order(**asked)


def test_other_code_is_another_training(monkeypatch, tmp_path):
    before = checkpointed.order(Path("rows.parquet"), "one", "label", SETTINGS, 3)
    for module in (neural, checkpointed):
        changed = tmp_path / "changed.py"
        changed.write_text(Path(module.__file__).read_text() + "# changed")
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(changed))
            assert checkpointed.order(Path("rows.parquet"), "one", "label", SETTINGS, 3) != before
