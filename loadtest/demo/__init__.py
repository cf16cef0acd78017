"""The demonstration: three simulated hospitals, and a patient who is walked through each of them over the booking API."""
