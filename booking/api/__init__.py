"""The HTTP framework of the booking API: routes, strict decoding, problems, keys, limits, OpenAPI and its pages."""
