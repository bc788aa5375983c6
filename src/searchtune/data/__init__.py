"""What there is to learn from: collections on disk, built-in sets, checks, splits, leakage. Knows no models."""
