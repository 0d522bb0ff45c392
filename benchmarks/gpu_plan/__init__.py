"""Show what the compiler for an NVIDIA GPU makes of our programs, on a machine without a GPU or driver."""
