"""The names of what agents remember by, in the groups' folders and in the one that all groups share."""

from __future__ import annotations

#: Read at every turn, in this order, the shared folder's first: who the assistant is, whom it serves, what it should
#: know, how it works here.
NAMES = ("IDENTITY.md", "SOUL.md", "USER.md", "CLAUDE.md", "AGENTS.md", "TOOLS.md")
#: In the main group's folder alone: what the owner said in private is nothing for the others.
PRIVATE_NAME = "MEMORY.md"
#: Notes of a day, `memory/YYYY-MM-DD.md`, in the main group.
DAYS_FOLDER = "memory"
#: Pages of earlier conversations.
CONVERSATIONS_FOLDER = "conversations"
#: The folder of all groups, beside theirs.
SHARED_FOLDER = "global"
