"""The crowd of a load test: patients who arrive whether or not the earlier ones have been served (an open loop), under Locust."""
