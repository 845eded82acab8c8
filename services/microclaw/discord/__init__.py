"""Discord: what is written there goes to the journal, replies go out once.

    Discord's gateway ─► gateway.py ─► inbound.py ─► journal          (live, and by REST what was missed)
    reply.requested ─► microclaw.channel ─► outbound.py ─► Discord's REST
"""
