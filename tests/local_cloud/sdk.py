"""A vendor's client in an interpreter of its own, asked by the tests of this one.

It is started once and told one function at a time, since its libraries take seconds to import. A
function sees nothing of its file, only its arguments and what the client's preamble has made.
"""

import inspect
import json
import subprocess
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

LISTEN = """
def listen(answers):
    import json, sys

    for line in sys.stdin:
        asked = json.loads(line)
        try:
            exec(asked["source"], globals())
            told = {"result": globals()[asked["name"]](*asked["args"])}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(told) + "\\n")
        answers.flush()

import sys

answers, sys.stdout = sys.stdout, sys.stderr
listen(answers)
"""


class SdkError(Exception):
    """What the client raised: its kind and its message."""


Ask = Callable[..., Any]


@contextmanager
def client(python: str, preamble: Callable[[], None], env: Mapping[str, str]) -> Iterator[Ask]:
    """Run functions in that interpreter, each after the preamble's names were made global."""
    made = f"{_source(preamble)}\n{preamble.__name__}()\n{LISTEN}"
    process = subprocess.Popen(
        [python, "-c", made],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(env),
        text=True,
    )

    def ask(function: Callable[..., Any], *args: Any) -> Any:
        asked = {"source": _source(function), "name": function.__name__, "args": args}
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        told = json.loads(process.stdout.readline())
        if "error" in told:
            raise SdkError(told["error"])
        return told["result"]

    with process:
        yield ask
        process.stdin.close()


def _source(function: Callable[..., Any]) -> str:
    return textwrap.dedent(inspect.getsource(function))
