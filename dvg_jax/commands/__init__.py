"""What the scripts at the top level do."""
