"""Prepare volumes and films, and feed them to training. No module here knows a model.

``phantom`` draws random chests, ``scans`` reads CTs and brings them to the cube, ``films`` reads X-rays and brings them
to training views. ``prepare`` and ``drr`` are commands; ``sources`` gives volumes by number, ``pipeline`` batches them,
and ``manifest`` lists prepared scans.
"""
