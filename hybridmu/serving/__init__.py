"""Answering predictions from a version; plain classes without ray."""
