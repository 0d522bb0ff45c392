"""Prepare volumes and films, and feed them to training. Nothing here knows a model.

``phantom`` draws chests on the device, ``scans`` reads CTs and brings them to the cube, ``films`` reads X-rays and
brings them to training views. ``prepare`` and ``drr`` are commands; ``sources`` gives volumes by number, ``pipeline``
makes batches of them, and ``manifest`` lists prepared scans.
"""
