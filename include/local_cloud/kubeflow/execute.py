"""Run one pipeline, as a process of the environment that has kfp: specification, arguments, root.

`kfp.local` starts every task as a process of its own, and says on standard output which one it is
at: `steps.py` reads that.
"""

import json
import sys
import warnings
from pathlib import Path

from kfp import components, local


def main(specification: str, arguments: str, root: str) -> None:
    """Run it to its end; an error of a task is this program's error."""
    # Where there are no containers an image is only a name.
    warnings.filterwarnings("ignore", "You may be attemping to run a task")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True)
    pipeline = components.load_component_from_text(Path(specification).read_text("utf-8"))
    pipeline(**json.loads(Path(arguments).read_text("utf-8")))


if __name__ == "__main__":
    main(*sys.argv[1:])
