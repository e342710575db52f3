"""The node: it runs the containers of pods as processes of this machine, and tells how they do."""

import shutil
import signal
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.local_cloud import server
from include.local_cloud.kubernetes import resources
from include.local_cloud.kubernetes.containers import Container
from include.local_cloud.kubernetes.objects import Change, Object, Store, now
from include.local_cloud.kubernetes.resources import PODS
from include.local_cloud.kubernetes.sandbox import NotReady, Sandbox
from include.local_cloud.kubernetes.status import Refused

LOOKS_AGAIN = 0.5  # seconds until something that was missing is looked for again
BACK_OFF = (0.5, 10.0)  # seconds before a restart, doubled up to; a real node's are 10 to 300
OVER = ("Succeeded", "Failed")


@dataclass
class Run:
    """A pod that is being run."""

    pod: Object
    folder: Path
    init: list[Container]
    containers: list[Container]
    phase: str = "Pending"
    begun: str = field(default_factory=now)
    reason: str | None = None
    message: str | None = None
    ending: threading.Event = field(default_factory=threading.Event)
    """Set once nothing shall be started any more."""
    deleted: bool = False

    def status(self) -> dict[str, Any]:
        """As the pod shows it."""
        ready = self.phase == "Running" and all(each.running for each in self.containers)
        initialised = all(each.exit_code == 0 for each in self.init)
        conditions = {
            "PodScheduled": True,
            "Initialized": initialised,
            "ContainersReady": ready,
            "Ready": ready,
        }
        said = {"reason": self.reason, "message": self.message}
        return {
            "phase": self.phase,
            "startTime": self.begun,
            "hostIP": server.HOST,
            "podIP": server.HOST,
            "podIPs": [{"ip": server.HOST}],
            "qosClass": "BestEffort",
            "conditions": [
                {"type": name, "status": str(value), "lastTransitionTime": now()}
                for name, value in conditions.items()
            ],
            "initContainerStatuses": [each.status(False) for each in self.init],
            "containerStatuses": [each.status(ready) for each in self.containers],
        } | {name: text for name, text in said.items() if text}

    def stop(self, grace: float) -> None:
        """Ask all containers to end, and insist after a while."""
        self.ending.set()
        everything = [*self.init, *self.containers]
        if grace > 0:
            for each in everything:
                each.signal(signal.SIGTERM, whole_family=False)
            until = time.monotonic() + grace
            while time.monotonic() < until and any(each.running for each in everything):
                time.sleep(0.05)
        for each in everything:
            each.signal(signal.SIGKILL)


class Kubelet:
    """All pods of the cluster, which has one node."""

    def __init__(self, store: Store, faults: server.Faults, folder: Path) -> None:
        """Take up what an earlier start left."""
        self._store, self._faults, self._folder = store, faults, folder
        self._runs: dict[str, Run] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False
        store.listeners.append(self._hear)
        for pod in store.all(PODS):
            self._found(pod)

    def container(self, uid: str, name: str) -> Container | None:
        """A container of a pod that is being run."""
        run = self._runs.get(uid)
        everything = [*run.init, *run.containers] if run else []
        return next((each for each in everything if each.name == name), None)

    def log(self, uid: str, container: str) -> Path:
        """What a container printed."""
        return self._folder / "pods" / uid / "logs" / f"{container}.log"

    def close(self) -> None:
        """End all processes; what they were doing is found failed after the next start."""
        self._closed = True
        for run in list(self._runs.values()):
            run.stop(0)
        for thread in self._threads:
            thread.join(timeout=10)

    def _found(self, pod: Object) -> None:
        """Judge a pod that an earlier start of this platform ran."""
        meta, status = pod["metadata"], pod.get("status", {})
        if "deletionTimestamp" in meta:
            self._forget(meta)
        elif status.get("containerStatuses") and status.get("phase") not in OVER:
            run = self._new(pod)
            run.phase, run.begun = "Failed", status.get("startTime", now())
            for each in run.containers:
                message = "The container could not be located when the pod was terminated"
                each.ended(137, "ContainerStatusUnknown", message)
            self._tell(run)
            self._runs.pop(meta["uid"])
        elif status.get("phase") not in OVER:
            self._start(pod)

    def _hear(self, change: Change) -> None:
        if change.resource == resources.CLAIMS and change.type == "DELETED":
            uid = change.after["metadata"]["uid"]
            shutil.rmtree(self._folder / "claims" / uid, ignore_errors=True)
        if change.resource != PODS or self._closed:
            return
        meta = change.after["metadata"]
        run = self._runs.get(meta["uid"])
        if change.type == "ADDED":
            self._start(change.after)
        elif change.type == "DELETED":
            shutil.rmtree(self._folder / "pods" / meta["uid"], ignore_errors=True)
        elif "deletionTimestamp" in meta and run is None:
            self._forget(meta)
        elif "deletionTimestamp" in meta and run and change.before:
            earlier = change.before["metadata"].get("deletionGracePeriodSeconds")
            grace = meta["deletionGracePeriodSeconds"]
            if earlier is None or grace < earlier:
                run.deleted = True
                self._beside(f"{meta['name']}-end", run.stop, grace)

    def _start(self, pod: Object) -> None:
        self._new(pod)
        self._beside(pod["metadata"]["name"], self._live, pod["metadata"]["uid"])

    def _beside(self, name: str, work: Any, *given: Any) -> None:
        thread = threading.Thread(target=work, args=given, name=name, daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _new(self, pod: Object) -> Run:
        uid, spec = pod["metadata"]["uid"], pod["spec"]
        init, containers = (
            [Container(each, self.log(uid, each["name"])) for each in spec.get(kind) or []]
            for kind in ("initContainers", "containers")
        )
        run = Run(pod, self._folder / "pods" / uid, init, containers)
        self._runs[uid] = run
        return run

    def _live(self, uid: str) -> None:
        """The whole life of a pod. A fault of ours ends it: nobody waits for it in vain."""
        run = self._runs[uid]
        try:
            self._go_through(run)
        except Exception as fault:  # whatever it is, the pod has to end, and to say why
            traceback.print_exc()
            run.reason, run.message = "KubeletError", f"{type(fault).__name__}: {fault}"
            run.stop(0)
        if not self._closed:
            self._end(run)

    def _go_through(self, run: Run) -> None:
        self._event(
            run, "Scheduled", f"Successfully assigned {run.pod['metadata']['name']} to local"
        )
        self._tell(run)
        if seconds := run.pod["spec"].get("activeDeadlineSeconds"):
            watch = threading.Timer(seconds, self._too_late, (run,))
            watch.daemon = True
            watch.start()
        for each in run.init:
            self._keep(run, each)
            if each.exit_code != 0:
                break
        else:
            self._together(run)

    def _together(self, run: Run) -> None:
        with ThreadPoolExecutor(len(run.containers)) as pool:
            for kept in [pool.submit(self._keep, run, each) for each in run.containers]:
                kept.result()

    def _keep(self, run: Run, container: Container) -> None:
        """Run a container to its end. A fault of ours ends the whole pod."""
        with ExitStack() as after_a_fault:
            after_a_fault.callback(container.wait)
            after_a_fault.callback(run.stop, 0)
            self._keep_running(run, container)
            after_a_fault.pop_all()

    def _keep_running(self, run: Run, container: Container) -> None:
        """Run a container, and again where the pod's policy wants it."""
        pause = BACK_OFF[0]
        policy = run.pod["spec"]["restartPolicy"]
        while not run.ending.is_set():
            if not self._begin(run, container):
                return
            container.wait()
            again = policy == "Always" and container not in run.init
            again = again or (policy != "Never" and container.exit_code != 0)
            if run.ending.is_set() or not again:
                self._tell(run)
                return
            container.again()
            self._tell(run)
            self._event(run, "BackOff", container.state["waiting"]["message"], "Warning", container)
            run.ending.wait(pause)
            pause = min(pause * 2, BACK_OFF[1])
        container.ended(137, "ContainerStatusUnknown", "the pod ended before it was started")

    def _begin(self, run: Run, container: Container) -> bool:
        """Start a container as soon as all that it needs is there; False if the pod ended first."""
        said = ""
        sandbox = Sandbox(self._store, run.pod, run.folder, self._folder / "claims")
        while not run.ending.is_set():
            try:
                prepared = sandbox.prepare(container.spec, sandbox.volumes())
                break
            except NotReady as missing:
                waits = "ContainerCreating" if missing.reason == "FailedMount" else missing.reason
                if said != missing.message:
                    said = missing.message
                    container.state = {"waiting": {"reason": waits, "message": said}}
                    self._tell(run)
                    self._event(run, missing.reason, said, "Warning", container)
                run.ending.wait(LOOKS_AGAIN)
        else:
            container.ended(137, "ContainerStatusUnknown", "the pod ended before it was started")
            return False
        image = container.spec.get("image", "")
        self._event(
            run, "NotPulled", f'Image "{image}" stands for this machine', "Normal", container
        )
        started = container.start(prepared)
        if container not in run.init and run.phase == "Pending":
            run.phase = "Running"
        self._tell(run)
        if started:
            self._event(run, "Started", f"Started container {container.name}", "Normal", container)
            if run.ending.is_set():
                container.signal(signal.SIGKILL)  # the pod ended in between
        else:
            why = container.state["terminated"]["message"]
            self._event(run, "Failed", f"Error: {why}", "Warning", container)
        return True

    def _too_late(self, run: Run) -> None:
        if run.phase in OVER or run.ending.is_set():
            return
        run.reason = "DeadlineExceeded"
        run.message = "Pod was active on the node longer than the specified deadline"
        run.stop(run.pod["spec"].get("terminationGracePeriodSeconds", 30))

    def _end(self, run: Run) -> None:
        meta = run.pod["metadata"]
        for each in run.containers:
            if each.exit_code is None:  # an init container failed
                each.state = {"waiting": {"reason": "PodInitializing"}}
        everything = [*run.init, *run.containers]
        if not run.deleted and (fault := self._fault(run.pod)):
            run.reason, run.message = "Evicted", fault.reason
            for each in run.containers:
                each.ended(137, "Error", fault.reason)
        well = run.reason is None and all(each.exit_code == 0 for each in everything)
        run.phase = "Succeeded" if well else "Failed"
        for scratch in ("containers", "volumes"):
            shutil.rmtree(run.folder / scratch, ignore_errors=True)
        self._tell(run)
        if run.reason:
            self._event(run, run.reason, run.message or "", "Warning")
        self._runs.pop(meta["uid"], None)
        found = self._store.find(PODS, meta["namespace"], meta["name"])
        if found and found["metadata"]["uid"] == meta["uid"]:
            if "deletionTimestamp" in found["metadata"]:
                self._forget(meta)
        else:
            shutil.rmtree(run.folder, ignore_errors=True)

    def _fault(self, pod: Object) -> server.Fault | None:
        """What was asked to go wrong with a pod, or with the job that it belongs to."""
        labels = pod["metadata"].get("labels") or {}
        operations = ["CreatePod"]
        operations += ["CreateJob"] if "batch.kubernetes.io/job-name" in labels else []
        operations += ["CreateTrainJob"] if "jobset.sigs.k8s.io/jobset-name" in labels else []
        return next(filter(None, map(self._faults.of_job, operations)), None)

    def _forget(self, meta: dict[str, Any]) -> None:
        self._store.remove(PODS, meta["namespace"], meta["name"])

    def _tell(self, run: Run) -> None:
        if self._closed:
            return
        meta, status = run.pod["metadata"], run.status()

        def change(pod: Object) -> Object:
            pod["spec"].setdefault("nodeName", "local")
            return pod | {"status": status}

        try:
            self._store.update(PODS, meta["namespace"], meta["name"], change, meta["uid"])
        except Refused:
            run.stop(0)  # it was removed while it ran

    def _event(
        self,
        run: Run,
        reason: str,
        message: str,
        kind: str = "Normal",
        container: Container | None = None,
    ) -> None:
        if not self._closed:
            name = container.name if container else None
            self._store.event(run.pod, reason, message, kind, name)
