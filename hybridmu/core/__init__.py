"""Pure computation: no ray, no SQL, no clock, no environment."""
