"""Acceptance of a request: everything that happens in its one transaction."""
