"""Define what a CT is here: its patient frame, its intensities and its NIfTI files."""
