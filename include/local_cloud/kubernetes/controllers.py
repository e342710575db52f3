"""What brings things about: it looks at what is wanted and what is there, and does what is missing.

Nothing but the objects is remembered, so that it goes on where it was after a restart. A `TrainJob`
of Kubeflow Trainer becomes an indexed Job with one pod for each node, as it does there by way of
a JobSet, with the variables by which torchrun and torch find each other.
"""

import threading
import traceback
import uuid
from collections.abc import Callable
from itertools import islice
from typing import Any

from include import processes
from include.local_cloud import server
from include.local_cloud.kubernetes import inference, resources
from include.local_cloud.kubernetes.admission import admitted
from include.local_cloud.kubernetes.conditions import age, condition, containers, ready, say
from include.local_cloud.kubernetes.objects import Change, Object, Store, now, owned_by
from include.local_cloud.kubernetes.patches import patched
from include.local_cloud.kubernetes.resources import INFERENCE_SERVICES, JOBS, PODS, TRAIN_JOBS
from include.local_cloud.kubernetes.status import Refused

LOOKS_AGAIN = 0.2  # seconds; deadlines and pauses are not told by any change
BACK_OFF = (1.0, 10.0)  # seconds before a failed pod is replaced; a real cluster's are 10 to 360
INDEX = "batch.kubernetes.io/job-completion-index"
RUNTIME = "torch-distributed"
Spec = dict[str, Any]


class Controllers:
    """Those of jobs, train jobs and inference services, in one thread."""

    def __init__(self, store: Store) -> None:
        """Begin to look."""
        self._store = store
        self._changed, self._closed = threading.Event(), threading.Event()
        _install_runtime(store)
        store.listeners.append(self._hear)
        self._thread = threading.Thread(target=self._look, name="controllers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave everything as it is."""
        self._closed.set()
        self._changed.set()
        self._thread.join(timeout=10)

    def _hear(self, change: Change) -> None:
        if change.resource in (PODS, JOBS, TRAIN_JOBS, INFERENCE_SERVICES):
            self._changed.set()

    def _look(self) -> None:
        while not self._closed.is_set():
            self._changed.clear()
            for resource, bring_about in (
                (TRAIN_JOBS, self._train_job),
                (JOBS, self._job),
                (INFERENCE_SERVICES, self._inference_service),
            ):
                for thing in self._store.all(resource):
                    try:
                        bring_about(thing)
                    except Refused as why:
                        # Else it, or what it lives in, was deleted meanwhile: the next look knows.
                        if why.code == 422:
                            self._impossible(resource, thing, why.message)
                    except Exception:  # of ours; the other objects must not wait for its cure
                        traceback.print_exc()
            self._changed.wait(LOOKS_AGAIN)

    def _impossible(self, resource: resources.Resource, thing: Object, why: str) -> None:
        status: Spec = dict(thing.get("status") or {})
        say(status, "Failed", "JobsCreationFailed", why)
        self._tell(resource, thing, status)

    def _job(self, job: Object) -> None:
        spec, status = job["spec"], dict(job.get("status") or {})
        if condition(status, "Complete") or condition(status, "Failed"):
            self._forget_in_time(job, status)
            return
        pods = self._store.owned(job, PODS)
        phases = {each["metadata"]["uid"]: each.get("status", {}).get("phase") for each in pods}
        over = ("Succeeded", "Failed")
        active = [each for each in pods if phases[each["metadata"]["uid"]] not in over]
        succeeded = [each for each in pods if phases[each["metadata"]["uid"]] == "Succeeded"]
        failed = [each for each in pods if phases[each["metadata"]["uid"]] == "Failed"]
        restarts = sum(_restarts(each) for each in pods)
        wanted = spec.get("completions") or spec["parallelism"]
        status.setdefault("startTime", now())
        if spec.get("suspend"):
            self._end(active)
            say(status, "Suspended", "JobSuspended", "Job suspended")
            status.pop("startTime")
        elif len(succeeded) >= wanted:
            status["completionTime"] = now()
            why = ("CompletionsReached", "Reached expected number of succeeded pods")
            say(status, "SuccessCriteriaMet", *why)
            say(status, "Complete", *why)
        elif len(failed) + restarts > spec["backoffLimit"]:
            self._failed(
                status,
                active,
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit",
            )
        elif age(status["startTime"]) > spec.get("activeDeadlineSeconds", float("inf")):
            self._failed(
                status, active, "DeadlineExceeded", "Job was active longer than specified deadline"
            )
        else:
            self._more_pods(job, active, succeeded, failed, wanted)
        finished = "completionTime" in status or condition(status, "Failed")
        status |= {
            "active": 0 if finished else len(active),
            "ready": 0 if finished else sum(ready(each) for each in active),
            "succeeded": len(succeeded),
            "failed": len(failed) + (len(active) if condition(status, "Failed") else 0),
        }
        if spec["completionMode"] == "Indexed":
            done = sorted({_index(each) for each in succeeded})
            status["completedIndexes"] = ",".join(map(str, done))
        self._tell(JOBS, job, {name: value for name, value in status.items() if value != 0})

    def _more_pods(
        self,
        job: Object,
        active: list[Object],
        succeeded: list[Object],
        failed: list[Object],
        wanted: int,
    ) -> None:
        if failed:
            pause = min(BACK_OFF[0] * 2 ** (len(failed) - 1), BACK_OFF[1])
            if min(map(_since_its_end, failed)) < pause:
                return
        room = min(job["spec"]["parallelism"], wanted - len(succeeded)) - len(active)
        if job["spec"]["completionMode"] == "Indexed":
            taken = {_index(each) for each in [*active, *succeeded]}
            free = (index for index in range(wanted) if index not in taken)
            for index in islice(free, max(room, 0)):
                self._pod(job, index)
        else:
            for _ in range(room):
                self._pod(job, None)

    def _pod(self, job: Object, index: int | None) -> None:
        meta, template = job["metadata"], job["spec"]["template"]
        given = template.get("metadata") or {}
        labels = {
            "batch.kubernetes.io/controller-uid": meta["uid"],
            "batch.kubernetes.io/job-name": meta["name"],
            "controller-uid": meta["uid"],
            "job-name": meta["name"],
        }
        annotations, spec = given.get("annotations") or {}, template["spec"]
        end, name = uuid.uuid4().hex[:5], meta["name"]
        if index is not None:
            name = f"{name}-{index}"
            labels[INDEX] = str(index)
            annotations = annotations | {INDEX: str(index)}
            variable = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
            containers = [
                each | {"env": [*(each.get("env") or []), variable]} for each in spec["containers"]
            ]
            spec = spec | {"containers": containers}
        self._store.create(
            PODS,
            meta["namespace"],
            {
                "metadata": {
                    "name": f"{name}-{end}",
                    "labels": (given.get("labels") or {}) | labels,
                    "annotations": annotations,
                    "ownerReferences": [owned_by(job)],
                },
                "spec": spec,
                "status": {"phase": "Pending"},
            },
        )

    def _failed(self, status: Spec, active: list[Object], reason: str, message: str) -> None:
        self._end(active)
        say(status, "FailureTarget", reason, message)
        say(status, "Failed", reason, message)

    def _end(self, pods: list[Object]) -> None:
        for each in pods:
            if "deletionTimestamp" not in each["metadata"]:
                self._store.delete(PODS, each["metadata"]["namespace"], each["metadata"]["name"])

    def _forget_in_time(self, job: Object, status: Spec) -> None:
        seconds = job["spec"].get("ttlSecondsAfterFinished")
        ended = max(each["lastTransitionTime"] for each in status["conditions"])
        if seconds is not None and age(ended) > seconds:
            self._store.delete(JOBS, job["metadata"]["namespace"], job["metadata"]["name"])

    def _train_job(self, train: Object) -> None:
        spec, status = train["spec"], dict(train.get("status") or {})
        if condition(status, "Complete") or condition(status, "Failed"):
            return
        jobs = self._store.owned(train, JOBS)
        if not jobs:
            home = train["metadata"]["namespace"]
            self._store.create(JOBS, home, admitted(JOBS, home, self._nodes(train), self._store))
            return
        (job,) = jobs
        if job["spec"].get("suspend") != spec["suspend"]:
            self._change_spec(job, suspend=spec["suspend"])
            return
        state = job.get("status") or {}
        if spec["suspend"]:
            say(status, "Suspended", "Suspended", "TrainJob is suspended")
        elif condition(status, "Suspended"):
            say(status, "Suspended", "Resumed", "TrainJob is resumed", "False")
        done, lost = condition(state, "Complete"), condition(state, "Failed")
        if done:
            say(status, "Complete", "AllJobsCompleted", "jobset completed successfully")
        elif lost and lost["reason"] == "DeadlineExceeded":
            say(status, "Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")
        elif lost:
            message = (
                "jobset failed due to one or more job failures "
                f"(first failed job: {job['metadata']['name']})"
            )
            say(status, "Failed", "FailedJobs", message)
        over = bool(done or lost)
        ready = state.get("ready", 0) + state.get("succeeded", 0) >= job["spec"]["parallelism"]
        status["jobsStatus"] = [
            {
                "name": "node",
                "active": int(not over and state.get("active", 0) > 0),
                "ready": int(not over and ready),
                "succeeded": int(bool(done)),
                "failed": int(bool(lost)),
                "suspended": int(spec["suspend"]),
            }
        ]
        self._tell(TRAIN_JOBS, train, status)

    def _nodes(self, train: Object) -> Object:
        """The job whose pods are the nodes of a training."""
        spec, name = train["spec"], train["metadata"]["name"]
        trainer, reference = spec.get("trainer") or {}, spec["runtimeRef"]
        wide = reference["kind"] == "ClusterTrainingRuntime"
        kind = resources.CLUSTER_RUNTIMES if wide else resources.RUNTIMES
        home = "" if wide else train["metadata"]["namespace"]
        runtime = self._store.get(kind, home, reference["name"])["spec"]
        policy = runtime.get("mlPolicy") or {}
        nodes = trainer.get("numNodes") or policy.get("numNodes") or 1
        (node,) = (
            each for each in runtime["template"]["spec"]["replicatedJobs"] if each["name"] == "node"
        )
        template = node["template"]["spec"]["template"]
        at_once = (policy.get("torch") or {}).get("numProcPerNode", "auto")
        rank = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
        variables = [
            {"name": "PET_NNODES", "value": str(nodes)},
            {"name": "PET_NPROC_PER_NODE", "value": str(trainer.get("numProcPerNode") or at_once)},
            {"name": "PET_NODE_RANK", "valueFrom": rank},
            # There it is the first node's host name and 29500; here all share one host.
            {"name": "PET_MASTER_ADDR", "value": server.HOST},
            {"name": "PET_MASTER_PORT", "value": str(processes.free_port())},
        ]
        change = {
            field: trainer[field] for field in ("image", "command", "args") if field in trainer
        }
        change |= {"name": "node", "env": [*(trainer.get("env") or []), *variables]}
        change |= (
            {"resources": trainer["resourcesPerNode"]} if "resourcesPerNode" in trainer else {}
        )
        labels = {
            "jobset.sigs.k8s.io/jobset-name": name,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "trainer.kubeflow.org/trainjob-ancestor-step": "trainer",
        }
        pod = patched(
            template,
            {
                "metadata": {"labels": labels},
                "spec": {"containers": [change], "restartPolicy": "Never"},
            },
            "application/strategic-merge-patch+json",
        )
        job = {
            "parallelism": nodes,
            "completions": nodes,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "suspend": spec["suspend"],
            "template": pod,
        }
        if "activeDeadlineSeconds" in spec:
            job["activeDeadlineSeconds"] = spec["activeDeadlineSeconds"]
        meta = {"name": f"{name}-node-0", "labels": labels, "ownerReferences": [owned_by(train)]}
        return {"metadata": meta, "spec": job, "status": {}}

    def _inference_service(self, service: Object) -> None:
        status, superfluous = inference.next_step(service, self._store)
        self._tell(INFERENCE_SERVICES, service, status)
        self._end(superfluous)

    def _change_spec(self, thing: Object, **changes: Any) -> None:
        meta = thing["metadata"]

        def change(found: Object) -> Object:
            return found | {"spec": found["spec"] | changes}

        self._store.update(JOBS, meta["namespace"], meta["name"], change, meta["uid"])

    def _tell(self, resource: resources.Resource, thing: Object, status: Spec) -> None:
        meta = thing["metadata"]
        change: Callable[[Object], Object] = lambda found: found | {"status": status}  # noqa: E731
        self._store.update(resource, meta["namespace"], meta["name"], change, meta["uid"])


def _install_runtime(store: Store) -> None:
    """What Kubeflow Trainer installs for torch."""
    if store.find(resources.CLUSTER_RUNTIMES, "", RUNTIME):
        return
    container = {"name": "node", "image": "pytorch/pytorch"}
    pod = {"spec": {"containers": [container]}}
    node = {"name": "node", "template": {"spec": {"template": pod}}}
    spec = {
        "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
        "template": {"spec": {"replicatedJobs": [node]}},
    }
    meta = {"name": RUNTIME, "labels": {"trainer.kubeflow.org/framework": "torch"}}
    store.create(resources.CLUSTER_RUNTIMES, "", {"metadata": meta, "spec": spec})


def _index(pod: Object) -> int:
    return int(pod["metadata"]["annotations"][INDEX])


def _restarts(pod: Object) -> int:
    return sum(each["restartCount"] for each in containers(pod))


def _since_its_end(pod: Object) -> float:
    ends = [
        each["state"]["terminated"]["finishedAt"]
        for each in containers(pod)
        if "terminated" in each["state"]
    ]
    return age(max(ends)) if ends else float("inf")
