"""What the long proofs claim of a pipeline, each in one function that fails with what was there."""

from tests import outcomes
from tests.prove.cases import MODELS
from tests.prove.world import CALM, ROUGH, World


def green(world: World, dag_id: str) -> None:
    """A copy in an empty project ends green in the scheduler, at two dates at once."""
    for when, run in world.ended(dag_id).items():
        wrong = {task: state for task, state in run.states.items() if state not in outcomes.GREEN}
        assert not wrong, f"at {when:%Y-%m-%d}: {wrong}\n{world.last_words(dag_id)}"


def unmixed(world: World, dag_id: str) -> None:
    """Each date has written its own files, the same ones, and nothing stands elsewhere."""
    world.ended(dag_id)
    calm, rough = (set(world.files(dag_id, when)) for when in (CALM, ROUGH))
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
        "states of tasks": outcomes.states,
        "artifacts": outcomes.artifacts,
    }.items():
        one, other = (found(run, case.once | case.varies) for run in (calm, rough))
        differ = outcomes.differences(one, other)
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


CLAIMS = {
    "green as a copy at two dates at once": green,
    "unmixed": unmixed,
    "same end when killed": same_end_when_killed,
    "no network": no_network,
}
