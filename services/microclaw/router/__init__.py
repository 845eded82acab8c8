"""The router: chats, registered groups, messages; hands each message to exactly one run.

Read `inbound.py` first; `registry.py` keeps the groups, `sending.py` takes what a person sends by hand.
"""
