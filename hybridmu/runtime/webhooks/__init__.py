"""Webhooks: receivers are told of the life of deletion requests, at least once, in order, and signed."""
