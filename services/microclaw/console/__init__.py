"""The local chat's connector: what is typed on this machine goes in, replies come out as numbered lines.

`inbound.py` takes what a person typed; `outbound.py` is the delivery ledger and lets it be read.
"""
