"""Endpoint configurations, endpoints with weighted variants, and invocations."""

import threading
from collections.abc import Mapping
from typing import Any

from include.local_cloud.sagemaker.account import Account, JobFailed, arn, now, page, shown
from include.local_cloud.sagemaker.models import Container, ModelError, Models
from include.local_cloud.sagemaker.protocol import Operation, Refused, invalid

SETTLED = ("InService", "Failed")


class Configurations:
    """Which models an endpoint has, and what part of its callers each gets at first."""

    def __init__(self, account: Account, models: Models) -> None:
        """Those that there are."""
        self.table, self.models = account.table("endpoint-config"), models

    def operations(self) -> dict[str, Operation]:
        """What callers can ask."""
        return {
            "CreateEndpointConfig": self.create,
            "DescribeEndpointConfig": lambda asked: shown(self.get(asked["EndpointConfigName"])),
            "DeleteEndpointConfig": self.delete,
            "ListEndpointConfigs": self.summaries,
        }

    def get(self, name: str) -> dict[str, Any]:
        """A configuration, or the vendor's word for that there is none."""
        found = self.table.get(name)
        if found is None:
            long = arn("endpoint-config", name)
            raise invalid(f'Could not find endpoint configuration "{long}".')
        return found

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Write a configuration down, if its models are there."""
        name = asked["EndpointConfigName"]
        for variant in asked["ProductionVariants"]:
            if "ModelName" not in variant:
                raise invalid("Only variants with a ModelName are served here.")
            self.models.get(variant["ModelName"])
        made = {"EndpointConfigArn": arn("endpoint-config", name), "CreationTime": now()}
        if not self.table.add(name, asked | made):
            raise invalid(
                "Cannot create already existing endpoint configuration "
                f'"{made["EndpointConfigArn"]}".'
            )
        return {"EndpointConfigArn": made["EndpointConfigArn"]}

    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Forget a configuration; endpoints that were made of it go on."""
        self.get(asked["EndpointConfigName"])
        self.table.drop(asked["EndpointConfigName"])
        return {}

    def summaries(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Summaries, a page at a time."""
        fields = ("EndpointConfigName", "EndpointConfigArn", "CreationTime")
        found = [{name: each[name] for name in fields} for each in self.table.all()]
        return page(found, asked, "EndpointConfigs")


class Endpoints:
    """Models that answer. A variant is a process, whatever number of instances it asks for."""

    def __init__(self, account: Account, models: Models, configurations: Configurations) -> None:
        """Those that there are; what serves them has to be started again."""
        self.account, self.models, self.configurations = account, models, configurations
        self.table = account.table("endpoint")
        self._serving: dict[str, dict[str, Container]] = {}
        self._credit: dict[str, dict[str, float]] = {}
        self._lock = threading.RLock()
        self._generation = 0

    def resume(self) -> None:
        """Bring back what an earlier process served."""
        for endpoint in self.table.all():
            name = endpoint["EndpointName"]
            if endpoint["EndpointStatus"] == "Deleting":
                self.table.drop(name)
            elif endpoint["EndpointStatus"] != "Failed":
                self.table.change(name, EndpointStatus="Updating")
                self._provision(name, endpoint["_variants"], endpoint["EndpointConfigName"])

    def operations(self) -> dict[str, Operation]:
        """What callers can ask."""
        return {
            "CreateEndpoint": self.create,
            "DescribeEndpoint": lambda asked: shown(self.get(asked["EndpointName"])),
            "UpdateEndpoint": self.update,
            "UpdateEndpointWeightsAndCapacities": self.shift,
            "DeleteEndpoint": self.delete,
            "ListEndpoints": self.summaries,
        }

    def get(self, name: str) -> dict[str, Any]:
        """An endpoint, or the vendor's word for that there is none."""
        found = self.table.get(name)
        if found is None:
            raise invalid(f'Could not find endpoint "{arn("endpoint", name)}".')
        return found

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Begin to serve a configuration."""
        name, long = asked["EndpointName"], arn("endpoint", asked["EndpointName"])
        variants = self._variants(asked["EndpointConfigName"])
        moment = now()
        made = {
            "EndpointName": name,
            "EndpointArn": long,
            "EndpointConfigName": asked["EndpointConfigName"],
            "EndpointStatus": "Creating",
            "CreationTime": moment,
            "LastModifiedTime": moment,
            "_variants": variants,
        }
        if not self.table.add(name, made):
            raise invalid(f'Cannot create already existing endpoint "{long}".')
        self._provision(name, variants, asked["EndpointConfigName"])
        return {"EndpointArn": long}

    def update(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Serve another configuration, and the present one until that is ready."""
        name = asked["EndpointName"]
        self._settled(name)
        variants = self._variants(asked["EndpointConfigName"])
        self.table.change(name, EndpointStatus="Updating", LastModifiedTime=now())
        self._provision(name, variants, asked["EndpointConfigName"])
        return {"EndpointArn": arn("endpoint", name)}

    def shift(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Give the variants other parts of the callers."""
        name = asked["EndpointName"]
        endpoint = self._settled(name)
        variants = {each["VariantName"]: each for each in endpoint["ProductionVariants"]}
        for wish in asked["DesiredWeightsAndCapacities"]:
            if wish["VariantName"] not in variants:
                raise invalid(
                    f'The variant name(s) "{wish["VariantName"]}" is/are not present within '
                    f'endpoint configuration "{endpoint["EndpointConfigName"]}".'
                )
            variant = variants[wish["VariantName"]]
            variant["DesiredWeight"] = wish.get("DesiredWeight", variant["DesiredWeight"])
        wanted = list(variants.values())
        if not any(each["DesiredWeight"] for each in wanted):
            raise invalid("At least one variant must have a weight greater than 0.")
        self.table.change(name, EndpointStatus="Updating", ProductionVariants=wanted)

        def work() -> None:
            with self._lock:
                for each in wanted:
                    each["CurrentWeight"] = each["DesiredWeight"]
                self._credit[name] = {}
                self._settle(name, ProductionVariants=wanted)

        self.account.jobs.start(f"{name}/weights", work)
        return {"EndpointArn": arn("endpoint", name)}

    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Serve no longer."""
        name = asked["EndpointName"]
        self._settled(name)
        self.table.change(name, EndpointStatus="Deleting")

        def work() -> None:
            self._stop(self._serving.pop(name, {}))
            self.table.drop(name)

        self.account.jobs.start(f"{name}/deleting", work)
        return {}

    def summaries(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Summaries, a page at a time."""
        fields = (
            "EndpointName",
            "EndpointArn",
            "CreationTime",
            "LastModifiedTime",
            "EndpointStatus",
        )
        found = [{name: each[name] for name in fields} for each in self.table.all()]
        return page(found, asked, "Endpoints")

    def invoke(
        self, name: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, dict[str, str]]:
        """A prediction, and the headers that say who made it."""
        endpoint = self.table.get(name)
        if endpoint is None or name not in self._serving:
            raise Refused("ValidationError", f"Endpoint {name} of account not found.")
        container, variant = self._choose(name, endpoint, headers.get("target"))
        accept = headers.get("accept") or "text/csv"
        try:
            answer = container.invoke(body, headers.get("content-type") or "", accept)
        except ModelError as error:
            raise Refused("ModelError", f"Received {error}", 424) from None
        return answer, {"Content-Type": accept, "x-Amzn-Invoked-Production-Variant": variant}

    def _choose(
        self, name: str, endpoint: dict[str, Any], target: str | None
    ) -> tuple[Container, str]:
        """Whose turn it is: parts are kept exactly, where the vendor's are kept on average."""
        with self._lock:
            serving = self._serving[name]
            if target is not None and target not in serving:
                raise Refused("ValidationError", f"Variant {target} was not found.")
            if target is None:
                weights = {
                    each["VariantName"]: each["CurrentWeight"]
                    for each in endpoint["ProductionVariants"]
                    if each["CurrentWeight"] and each["VariantName"] in serving
                }
                credit = self._credit.setdefault(name, {})
                for variant, weight in weights.items():
                    credit[variant] = credit.get(variant, 0.0) + weight
                target = max(weights, key=lambda variant: credit[variant])
                credit[target] -= sum(weights.values())
            return serving[target], target

    def _variants(self, configuration: str) -> list[dict[str, Any]]:
        """What is to be served: also after a configuration or model was deleted."""
        return [
            {**variant, "_model": self.models.get(variant["ModelName"])}
            for variant in self.configurations.get(configuration)["ProductionVariants"]
        ]

    def _settled(self, name: str) -> dict[str, Any]:
        endpoint = self.get(name)
        if endpoint["EndpointStatus"] not in SETTLED:
            raise invalid(f'Cannot update in-progress endpoint "{arn("endpoint", name)}".')
        return endpoint

    def _provision(self, name: str, variants: list[dict[str, Any]], configuration: str) -> None:
        """Have the new containers ready, then let them take over."""
        fault = self.account.faults.of_job("CreateEndpoint")
        with self._lock:
            self._generation += 1
            generation = self._generation
        containers = {
            each["VariantName"]: Container(
                self.account,
                f"endpoint/{name}/{each['VariantName']}/{generation}",
                each["_model"],
                self.account.folder / "work" / "endpoint" / f"{name}.{generation}" / str(place),
            )
            for place, each in enumerate(variants)
        }

        def work() -> None:
            variant = ""
            try:
                if fault:
                    raise JobFailed(fault.reason)
                for container in containers.values():
                    container.start()
                for variant, container in containers.items():  # noqa: B007 - told below
                    container.wait()
            except JobFailed as failed:
                self._stop(containers)
                told = f"The primary container for production variant {variant} {failed}"
                self._settle(name, FailureReason=(told if variant else str(failed))[:1024])
                return
            with self._lock:
                before, self._serving[name] = self._serving.get(name, {}), containers
                self._credit[name] = {}
                self._settle(
                    name,
                    EndpointConfigName=configuration,
                    ProductionVariants=[_summary(each) for each in variants],
                    _variants=variants,
                )
            self._stop(before)

        self.account.jobs.start(f"{name}/provisioning", work)

    def _settle(self, name: str, **changes: Any) -> None:
        if not self.account.closing.is_set():  # what is half done is taken up by the next process
            status = "InService" if self._serving.get(name) else "Failed"
            self.table.change(name, EndpointStatus=status, LastModifiedTime=now(), **changes)

    def _stop(self, containers: dict[str, Container]) -> None:
        for container in containers.values():
            container.stop()
            container.folder.parent.rmdir() if not any(container.folder.parent.iterdir()) else None


def _summary(variant: dict[str, Any]) -> dict[str, Any]:
    weight = variant.get("InitialVariantWeight", 1.0)
    count = variant.get("InitialInstanceCount", 1)
    return {
        "VariantName": variant["VariantName"],
        "DeployedImages": [],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
        "CurrentInstanceCount": count,
        "DesiredInstanceCount": count,
    }
