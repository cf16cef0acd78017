"""The FHIR R4 facade at `/fhir/R4`: it maps, and decides nothing. Engine, rules, keys and limits are those of `/v1`."""
