"""Engine of the database: how it is opened, its transactions, and its errors in our words."""
