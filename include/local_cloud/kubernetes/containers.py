"""A container as a family of processes: started, logged line by line, told to end."""

import os
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from include.local_cloud.kubernetes.objects import now
from include.local_cloud.kubernetes.sandbox import Prepared

START_ERROR = 128
MESSAGE_LENGTH = 4_096


@dataclass
class Container:
    """One container of a pod, in whatever state it is."""

    spec: dict[str, Any]
    log: Path
    state: dict[str, Any] = field(
        default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}}
    )
    last_state: dict[str, Any] = field(default_factory=dict)
    restarts: int = 0
    prepared: Prepared | None = None
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """In its pod."""
        return str(self.spec["name"])

    @property
    def running(self) -> bool:
        """Whether it does its work."""
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """With which it ended, if it did."""
        code: int | None = self.state.get("terminated", {}).get("exitCode")
        return code

    def start(self, prepared: Prepared) -> bool:
        """Begin; False where there is nothing to run, which its state then says."""
        self.prepared = prepared
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if not prepared.command:
            self.never_ran(
                "no command is given, and what the image would run is not known: "
                "images are not pulled by the local cloud"
            )
            return False
        prepared.last_word.unlink(missing_ok=True)
        try:
            with self._lock:
                self._process = subprocess.Popen(
                    prepared.command,
                    cwd=prepared.folder,
                    env=prepared.env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            self.never_ran(f'exec: "{prepared.command[0]}": {error.strerror or error}')
            return False
        self.state = {"running": {"startedAt": now()}}
        return True

    def wait(self) -> None:
        """Write down what it prints, and how it ends."""
        process = self._process
        if process is None or process.stdout is None:
            return
        writer = threading.Thread(target=self._write_down, args=(process.stdout,), daemon=True)
        writer.start()
        code = process.wait()
        self.signal(signal.SIGKILL)  # what it left running in its family
        writer.join(timeout=10)
        with self._lock:
            self._process = None
        self.ended(128 - code if code < 0 else code)

    def ended(self, code: int, reason: str | None = None, message: str | None = None) -> None:
        """Have it be over."""
        begun = self.state.get("running", {}).get("startedAt", now())
        over = {"exitCode": code, "startedAt": begun, "finishedAt": now()}
        over["reason"] = reason or ("Error" if code else "Completed")
        if message := message or self._last_word(code):
            over["message"] = message
        self.state = {"terminated": over}

    def never_ran(self, message: str) -> None:
        """Have it be over before it began."""
        self.ended(START_ERROR, "StartError", f"failed to create containerd task: {message}")

    def again(self) -> None:
        """Wait to be started another time."""
        self.last_state, self.restarts = self.state, self.restarts + 1
        message = f"back-off restarting failed container={self.name}"
        self.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}

    def signal(self, sign: signal.Signals, whole_family: bool = True) -> None:
        """Send a signal to it, if it runs."""
        with self._lock, suppress(ProcessLookupError):
            if self._process is None:
                return
            if whole_family:
                os.killpg(self._process.pid, sign)
            elif self._process.poll() is None:
                self._process.send_signal(sign)

    def status(self, ready: bool) -> dict[str, Any]:
        """As the pod's status shows it."""
        return {
            "name": self.name,
            "image": self.spec.get("image", ""),
            "imageID": "",
            "containerID": f"local://{self.name}",
            "ready": ready and self.running,
            "started": self.running,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last_state,
        }

    def _write_down(self, output: IO[bytes]) -> None:
        with self.log.open("ab") as log, output:
            for line in output:
                stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
                log.write(stamp.encode() + b" " + line.rstrip(b"\r\n") + b"\n")
                log.flush()

    def _last_word(self, code: int) -> str:
        file = self.prepared.last_word if self.prepared else None
        if file and file.exists():
            return file.read_text(encoding="utf-8", errors="replace")[-MESSAGE_LENGTH:]
        if code and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            text = self.log.read_text(encoding="utf-8", errors="replace")
            lines = [line.partition(" ")[2] for line in text.splitlines()[-80:]]
            return "\n".join(lines)[-MESSAGE_LENGTH // 2 :]
        return ""
