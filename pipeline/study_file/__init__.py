"""Reading study files: bounded plain YAML, and from it a Study with all mistakes at once."""
