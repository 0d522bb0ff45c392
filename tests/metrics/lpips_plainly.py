"""LPIPS v0.1 in NumPy, from Zhang et al. 2018 and the layers of AlexNet and VGG16; shares no code with the library."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

ALEXNET = ((64, 11, 4, 2), "M3", (192, 5, 1, 2), "M3", (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
"""Channels, kernel, stride, padding; every convolution's output is compared."""

VGG16 = tuple(
    layer
    for blocks, channels in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
    for layer in (*[(channels, 3, 1, 1)] * blocks, "tap", "M2")
)
SHIFT, SCALE = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])


def lpips(params, a, b, net):
    """Distance of two images (h, w) that are fed as they are, in float64."""
    name, layers = {"alex": ("AlexNet_0", ALEXNET), "vgg": ("VGG16_0", VGG16)}[net]
    total = 0.0
    for i, (x, y) in enumerate(zip(*(_features(params[name], image, layers) for image in (a, b)), strict=True)):
        head = np.asarray(params[f"NetLinLayer_{i}"]["Conv_0"]["kernel"], np.float64).reshape(-1)
        total += float((((_unit(x) - _unit(y)) ** 2) @ head).mean())
    return total


def _features(params, image, layers):
    x = (np.repeat(np.asarray(image, np.float64)[..., None], 3, axis=-1) - SHIFT) / SCALE
    taps, count, tap_all = [], 0, "tap" not in layers
    for layer in layers:
        if layer == "tap":
            taps.append(x)
        elif isinstance(layer, str):
            x = sliding_window_view(x, (int(layer[1]),) * 2, axis=(0, 1))[::2, ::2].max(axis=(-2, -1))
        else:
            channels, size, stride, padding = layer
            weights = {k: np.asarray(v, np.float64) for k, v in params[f"Conv_{count}"].items()}
            assert weights["kernel"].shape == (size, size, x.shape[-1], channels)
            x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
            windows = sliding_window_view(x, (size, size), axis=(0, 1))[::stride, ::stride]
            x = np.maximum(np.einsum("hwcij,ijco->hwo", windows, weights["kernel"], optimize=True) + weights["bias"], 0)
            count += 1
            if tap_all:
                taps.append(x)
        if len(taps) == 5:
            break
    return taps


def _unit(x):
    return x / (np.sqrt((x**2).sum(axis=-1, keepdims=True)) + 1e-10)
