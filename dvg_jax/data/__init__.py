"""Where volumes and films come from, and how they are fed to training.

``phantom`` draws chests on the device; ``scans`` and ``dicom`` read CT files, ``bodymask`` removes the couch,
``resample`` and ``prepare`` bring a scan to the network's cube, ``manifest`` keeps the split, ``nifti``
writes results; ``films`` reads X-ray pictures, ``drr`` makes them from a CT; ``published`` prepares either as the
released code does; ``sources`` and ``pipeline`` turn any of them into batches.
"""
