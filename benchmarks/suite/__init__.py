"""Suite of tables on which the defaults are compared with scikit-learn."""
