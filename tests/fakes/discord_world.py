"""Who and what there is in the fake Discord."""

from __future__ import annotations

import base64
from typing import Any

Json = dict[str, Any]

EPOCH_MS = 1_420_070_400_000
BOT = 4242
ANN, BOB, OTHER_BOT = 1001, 1002, 1003
GUILD, GENERAL, OTHER, THREAD = 5001, 5101, 5102, 5103
DM = 6001
#: A bot's own role, and one of people's.
BOT_ROLE, COOKS = 5901, 5902
TOKEN = f"{base64.b64encode(str(BOT).encode()).decode()}.abc.def"
NAMES = {BOT: "claw", ANN: "Ann", BOB: "Bob", OTHER_BOT: "Echo"}


def user(number: int) -> Json:
    return {
        "id": str(number), "username": NAMES[number].lower(), "discriminator": "0", "avatar": None,
        "global_name": NAMES[number], **({"bot": True} if number in (BOT, OTHER_BOT) else {}),
    }
