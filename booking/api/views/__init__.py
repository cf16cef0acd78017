"""What the API sends and takes: the Structs from which requests are decoded and the OpenAPI document is made.

Additive by contract: clients ignore fields and values that they do not know. Money is `_fen`, instants RFC 3339 with an
offset, dates ISO 8601.
"""
