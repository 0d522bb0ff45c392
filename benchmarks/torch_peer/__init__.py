"""The published networks in plain PyTorch, under the published checkpoints' names: what ours are measured against.

Written for this comparison, channels first, with PyTorch's own 3D convolutions, norms and attention. Never imported by
the library; needs ``pip install ".[bench]"``.
"""
