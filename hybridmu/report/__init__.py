"""Reports as HTML with plots."""
