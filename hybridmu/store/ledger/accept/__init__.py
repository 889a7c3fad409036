"""Acceptance of a request: everything that happens in its one transaction, and its taking back."""
