"""What clients show: a token, in the file that Google's clients know as credentials of a user.

A service account's key would do as well, but for it Google's library asks iamcredentials at
googleapis.com, beside every other call and whatever is done about addresses, where the account may
be used; nobody shall be asked there. The token is checked, and nothing else is.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from include.local_cloud import server

PROJECT = "local-project"
NEVER = "2999-12-31T00:00:00Z"  # nobody is asked for a new token either


@dataclass(frozen=True)
class Credentials:
    """Made once, and readable by their owner alone."""

    folder: Path

    def __post_init__(self) -> None:
        """Make them where there are none."""
        if not self.file.exists():
            told = {"client_id": "local", "client_secret": "local", "refresh_token": "local"}
            told |= {"type": "authorized_user", "token": secrets.token_urlsafe(), "expiry": NEVER}
            server.write(self.file, json.dumps(told))

    @property
    def file(self) -> Path:
        """What a connection names."""
        return self.folder / "credentials.json"

    def known(self, token: str) -> bool:
        """Whether a caller has read the file."""
        kept = json.loads(self.file.read_text(encoding="utf-8"))["token"]
        return secrets.compare_digest(token.encode(), kept.encode())
