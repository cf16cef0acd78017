"""The booking API and its rules. Knows no HIS protocol."""
