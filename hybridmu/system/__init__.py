"""Python interface: one object with all verbs, composed of one class per concern."""
