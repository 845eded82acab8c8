"""Numbers on the command line: what is out of bounds is refused by the parser, with the bounds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

#: The largest number that every service and database can hold.
WHOLE_MAX = 2**63 - 1
#: The longest wait that may be asked for: a year, s.
SECONDS_MAX = 366 * 86_400


def whole(least: int, most: int = WHOLE_MAX) -> Callable[[str], int]:
    """An argument's `type`: a whole number within these bounds, both included."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            bounds = f"{least} or more" if most == WHOLE_MAX else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {bounds}")
        return number

    return read


def seconds(text: str) -> float:
    """An argument's `type`: a length of time in seconds, more than none and at most `SECONDS_MAX`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, more than 0")
    return number
