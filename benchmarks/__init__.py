"""Side-by-side measurements against public peers."""
