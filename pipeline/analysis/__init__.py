"""What a sweep's trials say beyond the verdicts: how tuning went, what it depends on, where the spread comes from."""
