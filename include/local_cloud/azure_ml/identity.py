"""Microsoft Entra ID, as much as a service principal needs: tokens for its secret."""

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import jwt

from include.local_cloud import server
from include.local_cloud.azure_ml.protocol import Refused, Reply, Request, Route

TENANT = "97030400-0000-4000-8000-000000000002"
CLIENT = "97030400-0000-4000-8000-000000000003"
LIFETIME = 24 * 3600  # a job keeps the token that it began with


@dataclass(frozen=True)
class Identity:
    """Who may come in, and the key that its tokens are signed with; both survive a restart."""

    base: str
    secret: str

    @classmethod
    def at(cls, folder: Path, base: str) -> "Identity":
        """The one of this folder, made at the first start."""
        file = folder / "secret"
        if not file.exists():
            server.write(file, secrets.token_urlsafe(32))
        return cls(base, file.read_text(encoding="utf-8"))

    def routes(self) -> list[Route]:
        """What clients ask before they ask for anything else."""
        metadata, tenant = "/metadata/endpoints", f"/{TENANT}"
        return [
            Route("GET", metadata, "Metadata_Get", self.metadata, open=True),
            Route(
                "GET",
                f"{tenant}/v2.0/.well-known/openid-configuration",
                "Identity_Discover",
                self.discover,
                open=True,
            ),
            Route("POST", f"{tenant}/oauth2/v2.0/token", "Identity_Token", self.grant, open=True),
        ]

    def metadata(self, request: Request) -> Reply:
        """Which cloud this is: clients take every other address from here."""
        cloud = {
            "name": "LocalCloud",
            "portal": "https://portal.azure.com",
            "resourceManager": f"{self.base}/",
            "authentication": {"loginEndpoint": f"{self.base}/", "audiences": [f"{self.base}/"]},
            "suffixes": {"storage": "storage"},
        }
        return Reply([cloud])

    def discover(self, request: Request) -> Reply:
        """Where tokens are to be had."""
        tenant = f"{self.base}/{TENANT}"
        return Reply({
            "issuer": f"{tenant}/v2.0",
            "authorization_endpoint": f"{tenant}/oauth2/v2.0/authorize",
            "token_endpoint": f"{tenant}/oauth2/v2.0/token",
        })

    def grant(self, request: Request) -> Reply:
        """A token for who knows the secret."""
        given = dict(parse_qsl(request.body.decode()))
        if (given.get("client_id"), given.get("client_secret")) != (CLIENT, self.secret):
            told = "AADSTS7000215: Invalid client secret provided."
            return Reply({"error": "invalid_client", "error_description": told}, 401)
        return Reply({
            "token_type": "Bearer",
            "expires_in": LIFETIME,
            "access_token": self.token(),
        })

    def token(self) -> str:
        """A token that opens everything here; a job is given one too."""
        ends = int(time.time()) + LIFETIME
        claims = {"aud": self.base, "appid": CLIENT, "tid": TENANT, "exp": ends}
        return jwt.encode(claims, self.secret, algorithm="HS256")

    def knows(self, request: Request) -> bool:
        """Whether a request carries such a token."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            jwt.decode(token, self.secret, algorithms=["HS256"], audience=self.base)
        except jwt.InvalidTokenError:
            return False
        return scheme.lower() == "bearer"

    def check(self, key: str, wanted: str, what: str) -> None:
        """Refuse a wrong key in constant time."""
        if not secrets.compare_digest(key.encode(), wanted.encode()):
            raise Refused(401, "AuthenticationFailed", f"{what} is missing or wrong.")
