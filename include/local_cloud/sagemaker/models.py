"""Models, the processes that serve them, and the jobs that score whole files with one."""

import http.client
import secrets
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include import processes
from include.local_cloud.jobs import WITH_PROJECT, last_words
from include.local_cloud.sagemaker import model_server
from include.local_cloud.sagemaker.account import Account, JobFailed, arn, now, page, shown, split
from include.local_cloud.sagemaker.protocol import Operation, invalid
from include.local_cloud.sagemaker.work import Kind, no_job
from include.local_cloud.server import HOST

PING_EVERY, PATIENCE = 0.1, 60.0
ANSWER_WITHIN = 60.0
LARGEST = 6 * 1024 * 1024


class ModelError(Exception):
    """The container gave no answer that could be passed on."""


class Models:
    """What can be deployed."""

    def __init__(self, account: Account) -> None:
        """Those that there are."""
        self.account = account
        self.table = account.table("model")

    def operations(self) -> dict[str, Operation]:
        """What callers can ask."""
        return {
            "CreateModel": self.create,
            "DescribeModel": lambda asked: shown(self.get(asked["ModelName"])),
            "DeleteModel": self.delete,
            "ListModels": self.summaries,
        }

    def get(self, name: str) -> dict[str, Any]:
        """A model, or the vendor's word for that there is none."""
        found = self.table.get(name)
        if found is None:
            raise invalid(f'Could not find model "{arn("model", name)}".')
        return found

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Give a model.tar.gz a name."""
        name = asked["ModelName"]
        container = asked.get("PrimaryContainer")
        if container is None or "ModelDataUrl" not in container:
            raise invalid("Only a PrimaryContainer with a ModelDataUrl is served here.")
        bucket, key = split(container["ModelDataUrl"])
        try:
            self.account.s3.head_object(Bucket=bucket, Key=key)
        except self.account.s3.exceptions.ClientError:
            raise invalid(
                f"Could not find model data at {container['ModelDataUrl']}. Please ensure that "
                "the role has permission to access it and that it is located in this region."
            ) from None
        made = {"ModelArn": arn("model", name), "CreationTime": now()}
        if not self.table.add(name, asked | made):
            raise invalid(f'Cannot create already existing model "{made["ModelArn"]}".')
        return {"ModelArn": made["ModelArn"]}

    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Forget a model; what serves it goes on."""
        self.get(asked["ModelName"])
        self.table.drop(asked["ModelName"])
        return {}

    def summaries(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Summaries, a page at a time."""
        fields = ("ModelName", "ModelArn", "CreationTime")
        found = [
            {name: model[name] for name in fields}
            for model in self.table.all()
            if asked.get("NameContains", "") in model["ModelName"]
        ]
        return page(found, asked, "Models")


@dataclass
class Container:
    """A process that serves a model, from the moment that it is ready."""

    account: Account
    name: str
    model: dict[str, Any]
    folder: Path
    port: int = field(default_factory=processes.free_port)
    token: str = field(default_factory=secrets.token_urlsafe)
    ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Fetch the model and begin to load it."""
        container = self.model["PrimaryContainer"]
        shutil.rmtree(self.folder, ignore_errors=True)
        home = self.folder / "home"
        home.mkdir(parents=True)
        self.account.unpack(container["ModelDataUrl"], self.folder / "model")
        env = container.get("Environment", {})
        command = [
            sys.executable,
            *("-m", f"{__package__}.model_server", "--port", str(self.port)),
            *("--model", str(self.folder / "model")),
            *("--program", env.get("SAGEMAKER_PROGRAM", "inference.py")),
        ]
        known = {**WITH_PROJECT, "OMP_NUM_THREADS": "1"}
        ours = {model_server.TOKEN: self.token}

        def work() -> None:
            self.account.run(self.name, command, known | env | ours, home)
            self.ended.set()

        self.account.jobs.start(self.name, work)

    def wait(self) -> None:
        """Have it ready, or say why it isn't."""
        log = self.folder / "home" / "log"
        deadline = time.monotonic() + PATIENCE
        while not self.ended.wait(PING_EVERY) and time.monotonic() < deadline:
            with suppress(OSError, http.client.HTTPException):
                if self._ask("GET", "/ping")[0] == 200:
                    return
        words = last_words(log)[-600:]
        self.stop()
        raise JobFailed(f"did not pass the ping health check: {words}")

    def invoke(self, body: bytes, content_type: str, accept: str) -> bytes:
        """One prediction."""
        headers = {"Content-Type": content_type, "Accept": accept}
        try:
            status, answer = self._ask("POST", "/invocations", body, headers)
        except (OSError, http.client.HTTPException):
            words = last_words(self.folder / "home" / "log")[-300:]
            raise ModelError(f"server error (500) from primary: {words}") from None
        if status != 200:
            raise ModelError(f"server error ({status}) from primary")
        return answer

    def stop(self) -> None:
        """End it, and leave nothing of it."""
        self.account.jobs.stop(self.name)
        self.ended.wait(5)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ANSWER_WITHIN)
        try:
            shown = {"Authorization": f"Bearer {self.token}"}
            connection.request(method, path, body, shown | (headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Transform(Kind):
    """Whole files through a model, each to one of its own."""

    def __init__(self, account: Account, models: Models) -> None:
        """Take up what an earlier process left."""
        self.models = models
        super().__init__(
            account,
            "TransformJob",
            "transform-job",
            "Transform",
            no_job,
            self.transform,
            can_be_deleted=False,
        )

    def add(self, asked: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Write down a job that begins, if there is such a model."""
        self.models.get(asked["ModelName"])
        return super().add(asked, **more)

    def transform(self, kind: Kind, name: str, folder: Path) -> dict[str, Any]:
        """Fetch, ask, bring back."""
        job = kind.get(name)
        source, to = job["TransformInput"], job["TransformOutput"]
        files = kind.account.fetch(source["DataSource"]["S3DataSource"]["S3Uri"], folder / "input")
        content_type, accept = source.get("ContentType", ""), to.get("Accept", "")
        by_line = source.get("SplitType") == "Line"
        end = b"\n" if to.get("AssembleWith") == "Line" else b""
        container = Container(
            kind.account, f"{name}/container", self.models.get(job["ModelName"]), folder / "model"
        )
        try:
            container.start()
            container.wait()
            for file in files:
                kind.go_on(name)
                parts = _chunks(file.read_bytes()) if by_line else [file.read_bytes()]
                answers = [container.invoke(part, content_type, accept) for part in parts]
                whole = b"".join(answer.rstrip(b"\n") + end for answer in answers)
                place = file.relative_to((folder / "input").resolve())
                kind.account.put(whole, f"{to['S3OutputPath'].rstrip('/')}/{place}.out")
        except ModelError as error:
            raise JobFailed(f"ClientError: See job logs for more information. {error}") from None
        finally:
            container.stop()
        return {}


def _chunks(content: bytes) -> list[bytes]:
    """Whole lines, as many together as a request may carry."""
    parts = [b""]
    for line in content.splitlines(keepends=True):
        if parts[-1] and len(parts[-1]) + len(line) > LARGEST:
            parts.append(b"")
        parts[-1] += line
    return parts
