"""From rows of the store to FHIR R4: one file for each kind of resource, dictionaries in the order in which they are sent."""
