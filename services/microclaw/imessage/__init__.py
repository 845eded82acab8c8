"""The connector to Messages on this Mac: its database is read, never written; what is to be said goes by AppleScript.

Read `inbound.py` (what others wrote), then `outbound.py` (sending, and finding out by the database what became of
it); `database.py` knows the tables, `typed_stream.py` the one odd format in them.
"""
