"""MLflow's tracking server with a login before it: `python -m include.tools.tracking_server`.

Programs show the user `catalogue` and the password in MLFLOW_PASSWORD by HTTP's Basic
authentication. A browser shows Airflow's cookie, which it sends to all ports of a host: an admin of
Airflow is let in. `/health` goes without. `Host` and `Origin` are looked at first.
"""

import argparse
import base64
import binascii
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from include import doorkeeper, loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
USER = "catalogue"
PASSWORD = "MLFLOW_PASSWORD"  # noqa: S105 - the variable that holds it
AIRFLOWS_SECRET = "AIRFLOW__API_AUTH__JWT_SECRET"  # noqa: S105 - likewise
HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
ORIGINS = "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"

OPEN = "/health"
COOKIE, AUDIENCE, ROLE = "_token", "apache-airflow", "ADMIN"  # as Airflow writes them
ONLY_READS = frozenset({"GET", "HEAD"})
ASKS = {"WWW-Authenticate": 'Basic realm="MLflow of the catalogue", charset="UTF-8"'}
HOW = (
    f"MLflow asks who you are. The user is {USER}. The password is {PASSWORD}: "
    f"`make -s env | grep {PASSWORD}` prints it, and it stands in secrets.json below .catalogue/. "
    "A browser that is logged in to Airflow as admin, on the same host name, needs none."
)


class Login:
    """Lets in who shows the password, or Airflow's cookie of an admin."""

    def __init__(self, app: "ASGIApp", password: str, airflows_secret: str | None) -> None:
        """Stand before an application; without Airflow's secret no cookie is believed."""
        self.app = app
        self.known = f"{USER}:{password}".encode()
        self.airflows_secret = airflows_secret

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Look at who asks; what is no request passes."""
        if "headers" not in scope or _open(scope) or self._knows(scope):
            await self.app(scope, receive, send)
        else:
            await doorkeeper.refuse(scope, receive, send, 401, HOW, ASKS)

    def _knows(self, scope: "Scope") -> bool:
        """Whether the request may pass; one that shows a login is judged by that alone."""
        shown = doorkeeper.every(scope["headers"], b"authorization")
        if shown:
            return len(shown) == 1 and self._is_the_login(shown[0])
        return _of_the_page_itself(scope) and any(map(self._is_an_admin, _tokens(scope)))

    def _is_the_login(self, shown: str) -> bool:
        scheme, _, login = shown.partition(" ")
        try:
            given = base64.b64decode(login.strip().encode("latin-1"), validate=True)
        except binascii.Error:
            return False
        return scheme.lower() == "basic" and secrets.compare_digest(given, self.known)

    def _is_an_admin(self, token: str) -> bool:
        """Whether Airflow gave this token to an admin's browser, and it still counts."""
        import jwt

        if not self.airflows_secret:
            return False
        try:
            claims = jwt.decode(
                token,
                self.airflows_secret,
                algorithms=["HS512"],
                audience=AUDIENCE,
                options={"require": ["exp", "iat", "nbf"]},
            )
        except (
            jwt.InvalidTokenError,
            RecursionError,
        ):  # JSON may be nested deeper than Python goes
            return False
        return str(claims.get("role")).upper() == ROLE


def _open(scope: "Scope") -> bool:
    """Whether everybody may ask: how it goes, and what a browser asks before a page of yours does.

    MLflow answers such a preflight itself, with the origins that it allows, and does nothing.
    """
    if scope["type"] != "http":
        return False
    asks_first = doorkeeper.every(scope["headers"], b"access-control-request-method")
    return scope["path"] == OPEN or (scope["method"] == "OPTIONS" and bool(asks_first))


def _of_the_page_itself(scope: "Scope") -> bool:
    """Whether a cookie counts: browsers send it for pages of other servers on this host too.

    Those can't read the answers. So they must not change anything either: the page that does must
    be MLflow's own, and browsers name it in `Origin`.
    """
    if scope["type"] == "http" and scope["method"] in ONLY_READS:
        return True
    hosts, origins = (doorkeeper.every(scope["headers"], each) for each in (b"host", b"origin"))
    if len(hosts) != 1 or len(origins) != 1:
        return False
    return loopback.of_another_page(hosts[0], origins[0]) is None


def _tokens(scope: "Scope") -> list[str]:
    """What Airflow's cookies hold: a browser may have one for each of several paths."""
    pairs = [
        pair.strip().partition("=")
        for header in doorkeeper.every(scope["headers"], b"cookie")
        for pair in header.split(";")
    ]
    return [value for name, _, value in pairs if name == COOKIE]


def guarded(app: "ASGIApp", env: Mapping[str, str]) -> "ASGIApp":
    """An application behind the login, and behind the checks of `Host` and `Origin`.

    Where you say which hosts MLflow serves, MLflow's own check of them is the only one.
    """
    names = None if env.get(HOSTS) else loopback.names()
    origins = [each.strip() for each in env.get(ORIGINS, "").split(",") if each.strip()]
    login = Login(app, env[PASSWORD], env.get(AIRFLOWS_SECRET))
    return doorkeeper.Doorkeeper(login, names, origins)


def _whom(port: int) -> dict[str, str]:
    """Whom MLflow's own checks let in: without these, pages of every server on this machine."""
    hosts = [f"{name}:{port}" for name in sorted(loopback.names())]
    return {HOSTS: ",".join(hosts), ORIGINS: ",".join(f"http://{host}" for host in hosts)}


def main() -> None:
    """Serve until told to stop; clients write artifacts to disk themselves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--store", required=True, help="the database, as sqlite:///…")
    parser.add_argument("--artifacts", required=True, help="the folder of artifacts, as file:///…")
    given = parser.parse_args()
    yours = dict(os.environ)
    if not yours.get(PASSWORD):
        raise SystemExit(f"{PASSWORD} is not set: MLflow without a password would obey anybody.")
    # MLflow looks at its environment while it is imported.
    os.environ.update({name: yours.get(name) or it for name, it in _whom(given.port).items()})

    import uvicorn
    from mlflow import server
    from mlflow.server import constants, handlers

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = given.store
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = given.artifacts
    handlers.initialize_backend_stores(given.store, given.store, given.artifacts)

    from mlflow.server.fastapi_app import app

    log = str(Path(server.__file__).with_name("uvicorn_log_config.yaml"))
    uvicorn.run(guarded(app, yours), host=given.host, port=given.port, log_config=log)


if __name__ == "__main__":
    main()
