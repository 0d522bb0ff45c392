"""Run on a GPU what is prepared for it: ``python -m benchmarks.on_gpu``, described in ``__main__``.

``plan`` lists the steps and ``budget`` runs them, each in a process of its own; these two import no JAX. A step's
process runs ``child``, which finds what to do in ``programs`` (times), ``equality`` (agreement of results) and
``peers`` (PyTorch). ``carry`` writes what a bare machine lacks.
"""
