"""Taking rows out, looking whether they are gone, and the end of a system."""
