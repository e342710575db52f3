"""What all parts of the platform share: names, times, tables, S3, logs and processes."""

import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from include.local_cloud.jobs import Jobs
from include.local_cloud.sagemaker.protocol import invalid
from include.local_cloud.sagemaker.signature import Key
from include.local_cloud.server import Faults
from include.local_cloud.state import Table

NUMBER = "123456789012"
REGION = "eu-west-1"
ROLE = f"arn:aws:iam::{NUMBER}:role/SageMakerExecution"
IMAGE = f"{NUMBER}.dkr.ecr.{REGION}.amazonaws.com/sagemaker-scikit-learn:local"
MOST_LISTED = 100


class JobFailed(Exception):
    """A job can't be finished; the text is what its user is told."""


def arn(kind: str, name: str) -> str:
    """The long name of a thing."""
    return f"arn:aws:sagemaker:{REGION}:{NUMBER}:{kind}/{name}"


def now() -> float:
    """The time as the protocol writes it."""
    return round(time.time(), 3)


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what only the platform knows."""
    return {name: value for name, value in record.items() if not name.startswith("_")}


def page(found: list[dict[str, Any]], asked: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A part of a list, and the token for the next one."""
    newest_first = asked.get("SortOrder", "Descending") == "Descending"
    found = sorted(found, key=lambda each: each["CreationTime"], reverse=newest_first)
    token = asked.get("NextToken", "0")
    if not token.isdecimal():
        raise invalid("The pagination token is not valid")
    start, size = int(token), asked.get("MaxResults", MOST_LISTED)
    answer: dict[str, Any] = {key: found[start : start + size]}
    if start + size < len(found):
        answer["NextToken"] = str(start + size)
    return answer


@dataclass
class Account:
    """One account in one region."""

    folder: Path
    faults: Faults
    address: str
    """Where this platform itself answers: it uses its own S3 as any client does."""
    key: Key
    jobs: Jobs = field(default_factory=Jobs)
    closing: threading.Event = field(default_factory=threading.Event)

    def table(self, name: str) -> Table:
        """The things of one kind."""
        return Table(self.folder / name)

    @cached_property
    def s3(self) -> Any:
        """S3's client."""
        return self._client("s3")

    @cached_property
    def logs(self) -> Any:
        """The client of CloudWatch Logs."""
        return self._client("logs")

    def _client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.address,
            region_name=REGION,
            aws_access_key_id=self.key.id,
            aws_secret_access_key=self.key.secret,
        )

    def fetch(self, uri: str, folder: Path) -> list[Path]:
        """Copy everything under an S3 prefix into a folder; fail when there is nothing."""
        bucket, key = split(uri)
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for name in self._keys(bucket, key):
            rest = name[len(key) :].lstrip("/") or name.rpartition("/")[2]
            target = (folder / rest).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise JobFailed(f"ClientError: {name} leads out of its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            self.s3.download_file(bucket, name, str(target))
            found.append(target)
        if not found:
            raise JobFailed(
                f'ClientError: No S3 objects found under S3 URL "{uri}" given in input data '
                "source. Please ensure that the bucket exists in the selected region "
                f"({REGION}), that objects exist under that S3 prefix, and that the role has "
                f'"s3:ListBucket" permissions on bucket "{bucket}".'
            )
        return found

    def _keys(self, bucket: str, prefix: str) -> Iterator[str]:
        pages = self.s3.get_paginator("list_objects_v2")
        with suppress(self.s3.exceptions.NoSuchBucket):
            for each in pages.paginate(Bucket=bucket, Prefix=prefix):
                yield from (found["Key"] for found in each.get("Contents", []))

    def bring(self, folder: Path, uri: str) -> None:
        """Copy a folder to S3."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(file.read_bytes(), f"{uri.rstrip('/')}/{file.relative_to(folder)}")

    def put(self, content: bytes, uri: str) -> None:
        """Write one object."""
        bucket, key = split(uri)
        try:
            self.s3.put_object(Bucket=bucket, Key=key, Body=content)
        except self.s3.exceptions.NoSuchBucket:
            raise JobFailed(f"ClientError: the bucket {bucket} does not exist") from None

    def unpack(self, uri: str, folder: Path) -> None:
        """Fetch a `tar.gz` and lay out what is in it."""
        (archive,) = self.fetch(uri, folder.with_name(f"{folder.name}.fetched"))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
        except tarfile.TarError as error:
            raise JobFailed(f"ClientError: {uri} is no tar.gz: {error}") from None

    def log(self, group: str, stream: str, text: str) -> None:
        """Let users read what a job printed."""
        with suppress(self.logs.exceptions.ResourceAlreadyExistsException):
            self.logs.create_log_group(logGroupName=group)
        with suppress(self.logs.exceptions.ResourceAlreadyExistsException):
            self.logs.create_log_stream(logGroupName=group, logStreamName=stream)
        moment = int(time.time() * 1000)
        lines = [{"timestamp": moment, "message": line} for line in text.splitlines() if line]
        if lines:
            self.logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=lines)

    def run(self, name: str, command: list[str], env: Mapping[str, str], home: Path) -> int:
        """Run a command as a container of its own; what it prints is in the folder's log."""
        return self.jobs.run(name, command, env, home, home / "log")


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 address."""
    if not uri.startswith("s3://"):
        raise JobFailed(f"ClientError: {uri} is no S3 address")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
