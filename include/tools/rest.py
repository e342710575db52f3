"""Airflow's REST API on this machine, and who logs in there.

`make up` makes one admin with a password at random, in a file that its owner alone may read. A
setting of your own (`environment.LOGINS`) decides otherwise.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

from include import loopback
from include.tools import environment, secret

USER = "admin"


def password(env: Mapping[str, str]) -> str | None:
    """The admin's password, which is made where there is none; None where yours is the say."""
    if any(os.environ.get(name) for name in environment.LOGINS):
        return None
    file = Path(env[environment.PASSWORDS])
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    if USER not in known:
        known[USER] = secrets.token_urlsafe(24)
        secret.write(file, known)
    return known[USER]


def knows_the_way_in(env: Mapping[str, str]) -> bool:
    """Whether `make up` may ask this Airflow: by its password, or where everybody is admin."""
    everybody = os.environ.get(environment.ALL_ADMINS, "").lower() in ("true", "t", "1")
    return password(env) is not None or everybody


def link(env: Mapping[str, str]) -> str:
    """The address that logs in; the password behind the `#` is sent to nobody by a browser."""
    address, secret = env["AIRFLOW__API__BASE_URL"], password(env)
    return f"{address}/enter/#{secret}" if secret else address


@dataclass
class Client:
    """Asks one Airflow, with the password that it was given."""

    address: str
    password: str | None = None
    _token: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask, and fail with the server's own words."""
        if self.password and not self._token:
            known = {"username": USER, "password": self.password}
            given = self._asked("POST", "/auth/token", known)
            self._token["Authorization"] = f"Bearer {given['access_token']}"
        return self._asked(method, f"/api/v2{path}", body)

    def all(self, path: str, name: str) -> list[dict[str, Any]]:
        """All of a list, which Airflow gives a hundred at a time."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", f"{path}?limit=100&offset={len(found)}")
            found += page[name]
            if not page[name] or len(found) >= page["total_entries"]:
                return found

    def _asked(self, method: str, path: str, body: Any) -> Any:
        request = Request(  # noqa: S310
            f"{self.address}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | self._token,
            method=method,
        )
        try:
            with loopback.ask(request, 60) as answer:
                text = answer.read()
        except HTTPError as error:
            told = error.read().decode(errors="replace")
            raise RuntimeError(f"{method} {path}: {error.code} {told}") from error
        return json.loads(text) if text else None
