"""Model package groups, and the numbered packages in them."""

from typing import Any

from include.local_cloud.sagemaker.account import Account, arn, now, page, shown
from include.local_cloud.sagemaker.protocol import Operation, Refused, invalid

CHANGEABLE = ("ModelApprovalStatus", "ApprovalDescription", "CustomerMetadataProperties")


class Registry:
    """What was trained, and what may be deployed."""

    def __init__(self, account: Account) -> None:
        """What there is."""
        self.groups, self.packages = account.table("group"), account.table("package")

    def operations(self) -> dict[str, Operation]:
        """What callers can ask."""
        return {
            "CreateModelPackageGroup": self.create_group,
            "DescribeModelPackageGroup": lambda asked: shown(
                self.group(asked["ModelPackageGroupName"])
            ),
            "DeleteModelPackageGroup": self.delete_group,
            "ListModelPackageGroups": lambda asked: page(
                [_short(each, "ModelPackageGroup") for each in self.groups.all()],
                asked,
                "ModelPackageGroupSummaryList",
            ),
            "CreateModelPackage": self.create,
            "DescribeModelPackage": lambda asked: shown(self.get(asked["ModelPackageName"])),
            "UpdateModelPackage": self.update,
            "DeleteModelPackage": self.delete,
            "ListModelPackages": self.summaries,
        }

    def group(self, name: str) -> dict[str, Any]:
        """A group by its name or ARN."""
        found = self.groups.get(name.rpartition("/")[2])
        if found is None:
            raise invalid(f"Model Package Group does not exist: {name}")
        return found

    def create_group(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make a group."""
        name = asked["ModelPackageGroupName"]
        made = {
            "ModelPackageGroupArn": arn("model-package-group", name),
            "ModelPackageGroupStatus": "Completed",
            "CreationTime": now(),
            "CreatedBy": {},
            "_last": 0,
        }
        if not self.groups.add(name, asked | made):
            raise invalid(f"Model Package Group already exists: {made['ModelPackageGroupArn']}")
        return {"ModelPackageGroupArn": made["ModelPackageGroupArn"]}

    def delete_group(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Take a group away, if nothing is in it."""
        name = self.group(asked["ModelPackageGroupName"])["ModelPackageGroupName"]
        if self._of(name):
            raise Refused(
                "ConflictException",
                f"Model Package Group {name} can't be deleted: it is not empty.",
            )
        self.groups.drop(name)
        return {}

    def get(self, name: str) -> dict[str, Any]:
        """A package by its ARN."""
        found = self.packages.get(name.partition("model-package/")[2])
        if found is None:
            raise invalid(f"ModelPackage {name} does not exist.")
        return found

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Give a trained model the next number of its group."""
        if "ModelPackageGroupName" not in asked:
            raise invalid("Only packages with a ModelPackageGroupName are kept here.")
        name = self.group(asked["ModelPackageGroupName"])["ModelPackageGroupName"]
        number = self.group(name)["_last"] + 1
        self.groups.change(name, _last=number)
        long = arn("model-package", f"{name}/{number}")
        made = {
            "ModelPackageName": f"{name}/{number}",
            "ModelPackageGroupName": name,
            "ModelPackageVersion": number,
            "ModelPackageArn": long,
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
            "CreationTime": now(),
        }
        default = {"ModelApprovalStatus": "PendingManualApproval"}
        if not self.packages.add(f"{name}/{number}", default | asked | made):
            raise Refused("ConflictException", f"{long} was made by another request.")
        return {"ModelPackageArn": long}

    def update(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Approve or refuse."""
        package = self.get(asked["ModelPackageArn"])
        changes = {field: asked[field] for field in CHANGEABLE if field in asked}
        self.packages.change(package["ModelPackageName"], **changes, LastModifiedTime=now())
        return {"ModelPackageArn": package["ModelPackageArn"]}

    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Take a package away."""
        self.packages.drop(self.get(asked["ModelPackageName"])["ModelPackageName"])
        return {}

    def summaries(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Summaries, a page at a time."""
        group, wanted = asked.get("ModelPackageGroupName"), asked.get("ModelApprovalStatus")
        packages = self._of(self.group(group)["ModelPackageGroupName"]) if group else []
        more = ("ModelPackageGroupName", "ModelPackageVersion", "ModelApprovalStatus")
        found = [
            _short(each, "ModelPackage") | {field: each[field] for field in more}
            for each in packages
            if wanted in (None, each["ModelApprovalStatus"])
        ]
        return page(found, asked, "ModelPackageSummaryList")

    def _of(self, group: str) -> list[dict[str, Any]]:
        return [each for each in self.packages.all() if each["ModelPackageGroupName"] == group]


def _short(each: dict[str, Any], prefix: str) -> dict[str, Any]:
    fields = (f"{prefix}Name", f"{prefix}Arn", f"{prefix}Status", "CreationTime")
    return {field: each[field] for field in fields}
