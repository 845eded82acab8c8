"""Runs at the start of every Python process of a mesh on trial: `prove` puts this folder into its PYTHONPATH.

If it fails the process must not start, or a trial would pass whose harm was never done.
"""

import os
import sys
import traceback
from pathlib import Path

#: The folder of the trial's clock and orders.
VARIABLE = "MICROCLAW_PROVE"

if VARIABLE in os.environ:
    try:
        from microclaw.prove import clock

        folder = Path(os.environ[VARIABLE])
        clock.follow(folder / "clock")
        if "microclaw.broker" in sys.orig_argv:
            from microclaw.prove import journal_faults

            journal_faults.install(folder)
    except BaseException:  # noqa: BLE001 - Python itself would swallow it and go on
        traceback.print_exc()
        os._exit(70)
