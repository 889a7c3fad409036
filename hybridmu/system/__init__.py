"""Python interface: `System`, composed of one class per concern around a shared session."""
