"""Telling people, by the way that the Airflow connection `notices` says.

`smtp`: a mail, with the addresses `from_email` and `to` in the connection's extra. `file`: a text
file in the folder that is its host. Without the connection, `notices/` under AIRFLOW_HOME.
"""

import html
import os
from pathlib import Path

from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import BaseNotifier, Connection
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowNotFoundException

from include import runs

CONNECTION = "notices"


class Notice(BaseNotifier):
    """One message; sent again by a second try, it is one file, though perhaps two mails."""

    template_fields = ()  # what people wrote as a reason is no template

    def __init__(self, subject: str, message: str):
        """What to tell."""
        super().__init__()
        self.subject = subject
        self.message = message

    def notify(self, context: Context) -> None:
        """Send a mail, or write a file."""
        try:
            connection = Connection.get(CONNECTION)
        except AirflowNotFoundException:
            connection = None
        if connection is not None and connection.conn_type == "smtp":
            self._mail(connection, context)
        else:
            self._write(connection)

    def _mail(self, connection: Connection, context: Context) -> None:
        to = connection.extra_dejson.get("to")
        if not to:
            raise ValueError(f"the Airflow connection {CONNECTION} has no 'to' in its extra")
        text = f"<pre>{html.escape(self.message)}</pre>"
        SmtpNotifier(
            to=to, subject=self.subject, html_content=text, smtp_conn_id=CONNECTION
        ).notify(context)

    def _write(self, connection: Connection | None) -> None:
        home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
        folder = Path(connection.host) if connection and connection.host else home / "notices"
        folder.mkdir(parents=True, exist_ok=True)
        place = runs.here()
        file = folder / f"{place.dag_id}.{place.key}.{place.task_id}.txt"
        part = file.with_suffix(".part")
        part.write_text(f"{self.subject}\n\n{self.message}\n", encoding="utf-8")
        part.replace(file)
