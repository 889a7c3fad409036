"""Coordinator: claims requests, plans them, and follows them to their certificates."""
