"""The published networks in plain PyTorch, under the names of the published checkpoints: what ours are measured against.

Written for this comparison, channels first, with PyTorch's own 3D convolutions, norms and attention. Never imported by
the library; needs ``pip install ".[bench]"``.
"""
