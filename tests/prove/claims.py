"""What the long proofs claim of a pipeline, each in one function that fails with what was there."""

import re

from tests.prove.cases import MODELS, Case
from tests.prove.world import CALM, ROUGH, Ended, World

GREEN = {"success", "skipped"}


def green(world: World, dag_id: str) -> None:
    """A copy in an empty project ends green in the scheduler, at two dates at once."""
    for when, run in world.ended(dag_id).items():
        wrong = {task: state for task, state in run.states.items() if state not in GREEN}
        assert not wrong, f"at {when:%Y-%m-%d}: {wrong}\n{world.last_words(dag_id)}"


def unmixed(world: World, dag_id: str) -> None:
    """Each date has written its own files, the same ones, and nothing stands elsewhere."""
    world.ended(dag_id)
    case = world.pipelines[dag_id].case
    calm, rough = (
        {file for file in world.files(dag_id, when) if not _among(file.split("/")[0], case.once)}
        for when in (CALM, ROUGH)
    )
    assert calm, f"{dag_id} has written nothing for {CALM:%Y-%m-%d}"
    only = {"calm": sorted(calm - rough), "killed": sorted(rough - calm)}
    assert calm == rough, f"files that only one of two dates has: {only}"
    strangers = {path.name for path in (world.home / "artifacts").iterdir()} - {*world.pipelines}
    assert not strangers, f"folders in the artifact store that bear no dag_id: {strangers}"


def same_end_when_killed(world: World, dag_id: str) -> None:
    """The date whose task was killed and retried ends as the other one does."""
    calm, rough = (world.ended(dag_id)[when] for when in (CALM, ROUGH))
    case = world.pipelines[dag_id].case
    why = world.last_words(dag_id)
    assert world.was_killed(dag_id), f"{case.kill} was to be killed, and did not come to its end"
    again = {task: tried for run in (calm, rough) for task, tried in run.tries.items() if tried > 1}
    unasked = {task.partition("[")[0] for task in again} - {case.kill} - world.mistaken(dag_id)
    assert not unasked, f"only {case.kill} should be tried again, not {unasked}: {again}\n{why}"
    for what, found in {
        "states of tasks": [_states(run, case) for run in (calm, rough)],
        "artifacts": [_artifacts(run, case) for run in (calm, rough)],
    }.items():
        one, other = found
        differ = {name: (one.get(name), other.get(name)) for name in sorted(one | other)}
        differ = {name: both for name, both in differ.items() if both[0] != both[1]}
        assert not differ, f"{what} that differ between the dates: {differ}\n{why}"
    if MODELS not in case.once:
        models = [world.versions(dag_id, when) for when in (CALM, ROUGH)]
        assert models[0] == models[1], f"{MODELS} that differ between the dates: {models}"


def no_network(world: World, dag_id: str) -> None:
    """No process that the pipeline started has asked for a host beyond this machine."""
    world.ended(dag_id)
    told = world.asked.read_text(encoding="utf-8").splitlines() if world.asked.exists() else []
    asked = [line for line in told if line.split()[0] in (dag_id, "-")]
    assert not asked, f"hosts that were asked for, with the program that did: {asked}"


def _states(run: Ended, case: Case) -> dict[str, str]:
    return {
        task: state
        for task, state in run.states.items()
        if not _among(task, case.once | case.varies)
    }


def _artifacts(run: Ended, case: Case) -> dict[str, list[str]]:
    found = {
        what: re.findall(r"#sha256=([0-9a-f]{64})", value)
        for what, value in run.xcoms.items()
        if not _among(what.split()[0], case.once | case.varies)
    }
    return {what: digests for what, digests in found.items() if digests}


def _among(task: str, named: dict[str, str]) -> bool:
    """Whether the task, or the group that it stands in, is named."""
    name = task.partition("[")[0]
    return name in named or name.partition(".")[0] in named


CLAIMS = {
    "green as a copy at two dates at once": green,
    "unmixed": unmixed,
    "same end when killed": same_end_when_killed,
    "no network": no_network,
}
