"""Azure ML from two sides: tasks in the environment of its SDK, and who waits beside Airflow.

`azure-ai-ml` can't live in Airflow's own environment, so nothing is imported at the top here that
one of the two lacks. What a task does there begins with `workspace()`, which is signed in by the
environment that the task's process was given. What only waits asks Azure's REST API from here.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import unquote, urlsplit

API = "2024-04-01"
PUBLIC_CLOUD = "https://management.azure.com"
ENDED = ("Completed", "Failed", "Canceled")
BUSY = (408, 429, 500, 502, 503, 504)
TRIES = 5
LONGEST_CALL = 60


@dataclass(frozen=True)
class Account:
    """A workspace and the service principal that works in it."""

    AZURE_TENANT_ID: str
    AZURE_CLIENT_ID: str
    AZURE_CLIENT_SECRET: str
    AZUREML_ARM_SUBSCRIPTION: str
    AZUREML_ARM_RESOURCEGROUP: str
    AZUREML_ARM_WORKSPACE_NAME: str
    manager: str = PUBLIC_CLOUD
    """Where Azure Resource Manager is; other clouds have others."""

    @classmethod
    def of(cls, connection: Any) -> "Account":
        """What an Airflow connection says; its host is empty for Azure's public cloud."""
        extra = connection.extra_dejson
        fields = ("tenantId", "subscriptionId", "resourceGroup", "workspace")
        given = {"login": connection.login, "password": connection.password}
        given |= {field: extra.get(field) for field in fields}
        if missing := [name for name, value in given.items() if not value]:
            raise ValueError(
                f"the Airflow connection {connection.conn_id} lacks {', '.join(missing)}: login "
                "and password are a service principal's id and secret, the others stand in extra"
            )
        return cls(
            AZURE_TENANT_ID=given["tenantId"],
            AZURE_CLIENT_ID=given["login"],
            AZURE_CLIENT_SECRET=given["password"],
            AZUREML_ARM_SUBSCRIPTION=given["subscriptionId"],
            AZUREML_ARM_RESOURCEGROUP=given["resourceGroup"],
            AZUREML_ARM_WORKSPACE_NAME=given["workspace"],
            manager=connection.host or PUBLIC_CLOUD,
        )

    def as_env(self) -> dict[str, str]:
        """For the process of a task, under the names that Azure's own tools give them."""
        return {name: value for name, value in vars(self).items() if name.isupper()}

    @classmethod
    def here(cls) -> "Account":
        """What the process of this task was given."""
        names = [name for name in cls.__dataclass_fields__ if name.isupper()]
        return cls(**{name: os.environ[name] for name in names})

    def credential(self) -> Any:
        """A credential that asks this cloud's own authority, and nobody else about it."""
        from azure.identity import ClientSecretCredential

        return ClientSecretCredential(
            self.AZURE_TENANT_ID,
            self.AZURE_CLIENT_ID,
            self.AZURE_CLIENT_SECRET,
            disable_instance_discovery=True,
        )


@contextmanager
def workspace() -> Iterator[Any]:
    """The SDK's client for the workspace, in the SDK's environment.

    All that a task raises there reaches Airflow as one and the same exception. What may mend itself
    must be tried again, so it ends the process with the status that stands for that.
    """
    import logging

    for noisy in ("azure.ai.ml", "azureml", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from azure.ai.ml import MLClient
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError

    account = Account.here()
    client = MLClient(
        account.credential(),
        account.AZUREML_ARM_SUBSCRIPTION,
        account.AZUREML_ARM_RESOURCEGROUP,
        account.AZUREML_ARM_WORKSPACE_NAME,
        show_progress=False,
        enable_telemetry=False,
    )
    try:
        with redirect_stdout(StringIO()):  # dots while it waits, and colours of nothing
            yield client
    except HttpResponseError as error:
        if error.status_code not in BUSY:
            raise
        _come_back(error)
    except (ServiceRequestError, ServiceResponseError) as error:
        _come_back(error)


def _come_back(error: Exception) -> None:
    print(f"Azure could not do it just now: {error}", file=sys.stderr)
    raise SystemExit(os.EX_TEMPFAIL) from error


def latest(client: Any, name: str) -> tuple[int, Any]:
    """The last job that was submitted for a name, and its number; 0 and None before the first."""
    from azure.core.exceptions import ResourceNotFoundError

    found = None
    for number in count(1):
        try:
            found = client.jobs.get(f"{name}-{number}")
        except ResourceNotFoundError:
            return number - 1, found
    raise AssertionError("unreachable")


def submit(client: Any, name: str, job: Any) -> str:
    """Submit a job once: a task that comes back finds its own, unless that has failed since."""
    number, known = latest(client, name)
    if known is not None and known.status not in ("Failed", "Canceled"):
        print(f"{known.name} was submitted before: it is taken up.", file=sys.stderr)
        return str(known.name)
    job.name = f"{name}-{number + 1}"
    return str(client.jobs.create_or_update(job).name)


def verified(reference: str) -> str:
    """The file behind a reference to the artifact store, if it is still what was written."""
    address, _, expected = reference.partition("#sha256=")
    path = Path(unquote(urlsplit(address).path))
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise ValueError(
            f"{path} was changed after it was written. Clear the task that wrote it to make it "
            "again."
        )
    return str(path)


def share(client: Any, endpoint: str, traffic: dict[str, int]) -> None:
    """Deal out an endpoint's traffic, in percent, among its deployments."""
    found = client.online_endpoints.get(endpoint)
    found.traffic = traffic
    client.online_endpoints.begin_create_or_update(found).result()


def ask(client: Any, endpoint: str, rows: Any, deployment: str | None = None) -> list[float]:
    """What an endpoint, or one of its deployments, says of these rows."""
    from azure.ai.ml.constants._endpoint import EndpointInvokeFields

    table = rows.to_dict("split")
    asked = {"input_data": {name: table[name] for name in ("columns", "index", "data")}}
    # The SDK adds the deployment to headers that all later calls share: take it out again.
    EndpointInvokeFields.DEFAULT_HEADER.pop(EndpointInvokeFields.MODEL_DEPLOYMENT, None)
    with NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asked, file)
        file.flush()
        answer = client.online_endpoints.invoke(
            endpoint, request_file=file.name, deployment_name=deployment
        )
    return [float(row[1]) for row in json.loads(answer)]


@dataclass(frozen=True)
class Seen:
    """How a job is, and where it has failed, why."""

    status: str
    code: str = ""
    reason: str = ""


class Jobs:
    """Azure's REST API for who only waits: no SDK, one connection, busy answers asked again."""

    def __init__(self, account: Account):
        """Sign in at the first call."""
        import logging

        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        again = Retry(TRIES, backoff_factor=0.5, status_forcelist=BUSY, allowed_methods=None)
        logging.getLogger("azure").setLevel(logging.WARNING)  # it would tell of every call
        self.account = account
        self.credential = account.credential()
        self.session = requests.Session()
        self.session.mount("https://", HTTPAdapter(max_retries=again))
        self.scope = (
            f"/subscriptions/{account.AZUREML_ARM_SUBSCRIPTION}"
            f"/resourceGroups/{account.AZUREML_ARM_RESOURCEGROUP}"
            "/providers/Microsoft.MachineLearningServices"
            f"/workspaces/{account.AZUREML_ARM_WORKSPACE_NAME}"
        )

    def look(self, name: str) -> Seen:
        """How a job is; for one that failed, run history has the reason."""
        job = self._call("GET", f"{self.account.manager}{self.scope}/jobs/{name}")["properties"]
        if job["status"] != "Failed":
            return Seen(job["status"])
        host = urlsplit(job["services"]["Tracking"]["endpoint"]).netloc
        runs = f"https://{host}/history/v1.0{self.scope}/runs"
        error = (self._call("GET", f"{runs}/{name}/details").get("error") or {}).get("error", {})
        return Seen("Failed", error.get("code", ""), error.get("message", "no reason was given"))

    def cancel(self, name: str) -> None:
        """Ask for a job's end."""
        self._call("POST", f"{self.account.manager}{self.scope}/jobs/{name}/cancel")

    def _call(self, method: str, url: str) -> dict[str, Any]:
        token = self.credential.get_token(f"{self.account.manager}/.default").token
        answer = self.session.request(
            method,
            url,
            params={"api-version": API},
            headers={"Authorization": f"Bearer {token}"},
            timeout=LONGEST_CALL,
        )
        if answer.status_code >= 400:
            raise ValueError(f"Azure refused {method} {url}: {answer.status_code} {answer.text}")
        return dict(answer.json()) if answer.content else {}
