"""Runs at the start of every Python process of a mesh on trial: `prove` puts this folder into its PYTHONPATH.

If it fails the process must not start, or a trial would pass whose harm was never done.
"""

import os
import sys
import traceback
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

#: The folder of the trial's clock and orders.
VARIABLE = "MICROCLAW_PROVE"


def _shadowed() -> None:
    """Python runs only the first `sitecustomize`: run the one that this hides, if there is one."""
    here = Path(__file__).parent
    spec = PathFinder.find_spec("sitecustomize", [folder for folder in sys.path if Path(folder) != here])
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


if VARIABLE in os.environ:
    try:
        from microclaw.prove import clock

        folder = Path(os.environ[VARIABLE])
        clock.follow(folder / "clock")
        if "microclaw.broker" in sys.orig_argv:
            from microclaw.prove import journal_faults

            journal_faults.install(folder)
        _shadowed()
    except BaseException:  # noqa: BLE001 - Python itself would swallow it and go on
        traceback.print_exc()
        os._exit(70)
