"""Where volumes and films come from, and how they are fed to training.

``phantom`` draws chests on the device. ``index`` lists the scans of a folder and ``scans`` reads one (``dicom``,
``x2ct``, ``nifti``; ``sizes`` and ``straighten`` see to what is odd); ``bodymask``, ``resample`` and ``cube`` bring it
to the network's cube, ``folder`` does so for all, ``prepare`` is the command, ``manifest`` and ``splits`` say which
patient trains and which tests. ``films`` reads X-ray pictures, ``drr`` makes them from a CT; ``published`` prepares
either as the released code does; ``sources`` and ``pipeline`` turn any of them into batches.
"""
