"""Step and error of approximate updates, fitted from canary deletions."""
