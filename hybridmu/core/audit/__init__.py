"""Measures of forgetting, shadow models, and what they say together."""
