"""Prepare volumes and films, and feed them to training. No module here knows a model.

``phantom`` draws random chests, ``scans`` reads CTs and brings them to the cube, ``films`` reads X-rays and brings them
to training views. ``prepare`` and ``drr`` are commands; ``manifest`` lists prepared scans. ``sources`` gives volumes by
number, ``mixture`` puts several sources together, ``augment`` varies scans, ``opening`` opens what a config names, and
``pipeline`` makes batches.
"""
